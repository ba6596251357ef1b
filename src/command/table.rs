//! Which row of the table is this request's?
//!
//! A hash table with open addressing over words: a command's name is a word at the top, a subcommand's a word
//! below its command. Every request is looked up, so there is no allocation, and one probe in the usual case.
//!
//! ```text
//!  CONFIG GET maxmemory ──▶ (TOP, CONFIG) = row 7, has_subcommands ──▶ (7, GET) = row 9, spec CONFIG|GET
//!  GET k                ──▶ (TOP, GET)    = row 3, spec GET
//! ```

use std::borrow::Cow;
use std::ops::Deref;
use std::ptr;
use std::sync::{Arc, LazyLock};

use super::name::NameKey;
use super::{CommandSpec, Declaration, DeclareError, rows};

/// The built-in commands, and those that the user declares.
///
/// Names are looked up without regard to case and without allocating. A command with subcommands (CONFIG,
/// OBJECT, ...) is identified by its first two words; its row is called `CONFIG|GET`.
///
/// ```
/// use redis_sharding::command::{CommandSpec, CommandTable, Route};
///
/// let table = CommandTable::default()
///     .with(CommandSpec::declare("MY.INCR").arity(-3).key(1))?
///     .with(CommandSpec::declare("MY.SUM").arity(-3).counted(1, 2).read())?
///     .with(CommandSpec::declare("MY.STATUS").arity(1).any())?;
///
/// let spec = table.find(&[b"my.incr", b"counter", b"5"]).expect("declared above");
/// assert_eq!(spec.route(), Route::Keys);
/// assert_eq!(spec.sole_key(), Some(1));
/// assert!(table.find(&[b"MY.OTHER", b"counter"]).is_none());
/// # Ok::<(), redis_sharding::command::DeclareError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CommandTable {
    /// In the order of insertion, so that the rows of one group stay together.
    rows: Vec<Row>,
    /// Indices into `rows`, or [`FREE`], by hash. The length is a power of two, and at most half of the slots
    /// are taken, so that probing ends soon, and always at a free slot.
    slots: Vec<u16>,
}

/// Result of looking up a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// Its row.
    Found(&'a CommandSpec),
    /// The name is not in the table, or the request is empty.
    UnknownCommand,
    /// The command is known and needs a subcommand, but this one is not known, or there is none.
    UnknownSubcommand,
}

/// One word of a name, and its row if it ends a name.
#[derive(Clone, Debug)]
struct Row {
    /// Index of the command that this is a subcommand of, or [`TOP`].
    parent: u16,
    /// The word, in capitals.
    word: NameKey,
    /// Spares commands without subcommands the second lookup.
    has_subcommands: bool,
    /// `None` if only subcommands of this name are known.
    spec: Option<CommandSpec>,
}

/// A table that is cheap to copy.
#[derive(Clone, Debug)]
pub(crate) enum SharedTable {
    /// That of the built-in commands, over plain nodes or in a cluster.
    BuiltIn(&'static CommandTable),
    /// One with declared commands.
    Own(Arc<CommandTable>),
}

impl From<Cow<'static, CommandTable>> for SharedTable {
    fn from(table: Cow<'static, CommandTable>) -> Self {
        match table {
            Cow::Borrowed(table) => Self::BuiltIn(table),
            Cow::Owned(table) => Self::Own(Arc::new(table)),
        }
    }
}

impl Deref for SharedTable {
    type Target = CommandTable;

    #[inline]
    fn deref(&self) -> &CommandTable {
        match self {
            Self::BuiltIn(table) => table,
            Self::Own(table) => table,
        }
    }
}

/// The parent of commands.
const TOP: u16 = u16::MAX;
/// A slot without a row. Equal to [`TOP`], so the number of rows stays below it.
const FREE: u16 = u16::MAX;

/// Built once; a table with declared commands is a copy.
static BUILT_IN: LazyLock<CommandTable> = LazyLock::new(|| {
    let mut table = CommandTable {
        rows: Vec::new(),
        slots: vec![FREE; 64],
    };
    for spec in rows::GROUPS.iter().flat_map(|(_, rows)| *rows) {
        table.insert(spec.clone());
    }
    table
});

/// The built-in commands as they are routed in a Redis Cluster.
static IN_CLUSTER: LazyLock<CommandTable> = LazyLock::new(|| {
    let mut table = CommandTable::default();
    table.apply_cluster();
    table
});

impl CommandTable {
    /// Returns the table of the built-in commands.
    #[must_use]
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// Adds a command.
    ///
    /// # Errors
    /// [`DeclareError`] if the declaration contradicts itself, or if the table already has the command.
    pub fn with(self, declared: Declaration) -> Result<Self, DeclareError> {
        let spec = declared.build()?;
        // Not replaced silently: a built-in row whose keys are declared wrongly would lose data.
        if self.by_name(spec.name()).is_some() {
            return Err(DeclareError::Known {
                name: spec.name().to_owned(),
            });
        }
        self.with_spec(spec)
    }

    /// Adds a command, or replaces one that the table has. A replaced built-in command is routed as declared,
    /// wherever its keys really are.
    ///
    /// # Errors
    /// [`DeclareError`] if the declaration contradicts itself.
    pub fn replacing(self, declared: Declaration) -> Result<Self, DeclareError> {
        let mut spec = declared.build()?;
        // Whatever is declared, a proxy must go on replying to PING, AUTH and the like by itself: its clients
        // have no connection to a node.
        if let Some(replaced) = self.by_name(spec.name()) {
            spec.proxy_role = replaced.proxy_role;
        }
        self.with_spec(spec)
    }

    /// Returns the row of a request, or `None` if the table does not have it.
    #[must_use]
    #[inline]
    pub fn find(&self, args: &[&[u8]]) -> Option<&CommandSpec> {
        match self.lookup(args) {
            Lookup::Found(spec) => Some(spec),
            _ => None,
        }
    }

    /// Returns the row of a request, or why there is none.
    ///
    /// A subcommand without a row of its own falls back to the row of its command, if there is one: DEBUG.
    #[must_use]
    #[inline]
    pub fn lookup(&self, args: &[&[u8]]) -> Lookup<'_> {
        let Some(at) = args.first().and_then(|name| self.position(TOP, name)) else {
            return Lookup::UnknownCommand;
        };
        let row = &self.rows[usize::from(at)];
        // A subcommand is a second lookup below the row of its command, not a search for `CONFIG|GET`, which
        // would have to be put together.
        if row.has_subcommands
            && let Some(sub) = args.get(1)
            && let Some(at) = self.position(at, sub)
            && let Some(spec) = &self.rows[usize::from(at)].spec
        {
            return Lookup::Found(spec);
        }
        // DEBUG and the like have a row of their own for subcommands that are not listed.
        row.spec
            .as_ref()
            .map_or(Lookup::UnknownSubcommand, Lookup::Found)
    }

    /// Returns the row with this name: `GET`, `CONFIG|GET`.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&CommandSpec> {
        let at = match name.split_once('|') {
            None => self.position(TOP, name.as_bytes()),
            Some((name, sub)) => {
                self.position(self.position(TOP, name.as_bytes())?, sub.as_bytes())
            }
        };
        self.rows[usize::from(at?)].spec.as_ref()
    }

    /// Iterates over all rows: the built-in ones by group, then the declared ones.
    pub fn iter(&self) -> impl Iterator<Item = &CommandSpec> {
        self.rows.iter().filter_map(|row| row.spec.as_ref())
    }

    /// Returns the table for a Redis Cluster. Commands that the user has replaced are routed as declared there too.
    pub(crate) fn in_cluster(table: Cow<'static, Self>) -> Cow<'static, Self> {
        match table {
            Cow::Borrowed(table) if ptr::eq(table, Self::built_in()) => Cow::Borrowed(&IN_CLUSTER),
            table => {
                let mut table = table.into_owned();
                table.apply_cluster();
                Cow::Owned(table)
            }
        }
    }

    /// Replaces the built-in rows that are different in a Redis Cluster.
    fn apply_cluster(&mut self) {
        for spec in rows::IN_CLUSTER {
            if self.by_name(spec.name()) == Self::built_in().by_name(spec.name()) {
                self.insert(spec.clone());
            }
        }
    }

    /// Adds a row, unless it would make an argument both a subcommand and a key.
    fn with_spec(mut self, spec: CommandSpec) -> Result<Self, DeclareError> {
        if let Some((name, _)) = spec.name().split_once('|')
            && self
                .by_name(name)
                .is_some_and(|parent| !parent.key_specs().is_empty())
        {
            return Err(DeclareError::NoContainer {
                name: spec.name().to_owned(),
            });
        }
        let keyed = !spec.key_specs().is_empty();
        let top = self.position(TOP, spec.name().as_bytes());
        // Otherwise an argument that is a key would be taken for a subcommand if it had the name of one.
        if keyed && top.is_some_and(|at| self.rows[usize::from(at)].has_subcommands) {
            return Err(DeclareError::HasSubcommands {
                name: spec.name().to_owned(),
            });
        }
        // Two words may be added, and indices must stay below `TOP` and `FREE`.
        if self.rows.len() + 2 >= usize::from(TOP) {
            return Err(DeclareError::TooMany);
        }
        self.insert(spec);
        Ok(self)
    }

    /// Adds a row, or replaces the one with its name.
    fn insert(&mut self, spec: CommandSpec) {
        let (name, sub) = match spec.name().split_once('|') {
            None => (spec.name().to_owned(), None),
            Some((name, sub)) => (name.to_owned(), Some(sub.to_owned())),
        };
        let mut at = self.entry(TOP, &name);
        if let Some(sub) = sub {
            self.rows[usize::from(at)].has_subcommands = true;
            at = self.entry(at, &sub);
        }
        self.rows[usize::from(at)].spec = Some(spec);
    }

    /// Returns the index of the row of this word, adding it if there is none.
    fn entry(&mut self, parent: u16, name: &str) -> u16 {
        if let Some(at) = self.position(parent, name.as_bytes()) {
            return at;
        }
        let at = u16::try_from(self.rows.len()).unwrap_or(FREE);
        debug_assert!(at < FREE, "the number of rows is limited");
        let word = NameKey::new(name.as_bytes());
        self.rows.push(Row {
            parent,
            word,
            has_subcommands: false,
            spec: None,
        });
        // Half full at most: lookups of unknown names end at a free slot, which must be near.
        if self.rows.len() * 2 > self.slots.len() {
            self.slots = vec![FREE; self.slots.len() * 2];
            // All slots are free again, so every row is placed anew, the last one included.
            for at in 0..=at {
                self.occupy(at);
            }
        } else {
            self.occupy(at);
        }
        at
    }

    /// Takes the first free slot for a row, from the slot of its hash on.
    fn occupy(&mut self, at: u16) {
        let row = &self.rows[usize::from(at)];
        let mask = self.slots.len() - 1;
        let mut slot = row.word.hash(row.parent) & mask;
        while self.slots[slot] != FREE {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = at;
    }

    /// Returns the index of the row of this word.
    #[inline]
    fn position(&self, parent: u16, name: &[u8]) -> Option<u16> {
        let word = NameKey::new(name);
        let mask = self.slots.len() - 1;
        // Linear probing ends at a free slot, of which half of the table is made.
        let mut slot = word.hash(parent) & mask;
        loop {
            let at = self.slots[slot];
            if at == FREE {
                return None;
            }
            let row = &self.rows[usize::from(at)];
            if row.parent == parent && row.word == word {
                return Some(at);
            }
            slot = (slot + 1) & mask;
        }
    }
}

impl Default for CommandTable {
    /// The built-in commands.
    fn default() -> Self {
        Self::built_in().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KeySpec, Route};
    use super::*;

    fn name_of(args: &[&[u8]]) -> Option<&'static str> {
        CommandTable::built_in().find(args).map(CommandSpec::name)
    }

    #[test]
    fn command_table_finds_every_row_by_name_in_any_case() {
        let table = CommandTable::built_in();
        for spec in rows::GROUPS.iter().flat_map(|(_, rows)| *rows) {
            for name in [spec.name().to_ascii_lowercase(), spec.name().to_owned()] {
                let args: Vec<&[u8]> = name.split('|').map(str::as_bytes).collect();
                assert_eq!(table.find(&args), Some(spec));
                assert_eq!(table.by_name(&name), Some(spec));
            }
        }
    }

    #[test]
    fn command_table_has_one_row_per_command() {
        let rows: usize = rows::GROUPS.iter().map(|(_, rows)| rows.len()).sum();
        assert_eq!(CommandTable::built_in().iter().count(), rows);
    }

    #[test]
    fn command_table_does_not_find_unknown_commands() {
        let unknown: [&[&[u8]]; 8] = [
            &[],
            &[b""],
            &[b"GETT", b"k"],
            &[b"GE"],
            &[b"GET\0", b"k"],
            &[b"GET ", b"k"],
            &[b"CONFIG|GET", b"x"],
            &[&[b'A'; 1000]],
        ];
        for args in unknown {
            assert_eq!(
                CommandTable::built_in().lookup(args),
                Lookup::UnknownCommand,
                "{args:?}"
            );
        }
    }

    #[test]
    fn container_command_needs_a_known_subcommand() {
        assert_eq!(name_of(&[b"config", b"get", b"*"]), Some("CONFIG|GET"));
        let table = CommandTable::built_in();
        let wrong: [&[&[u8]]; 4] = [
            &[b"CONFIG"],
            &[b"CONFIG", b"NO"],
            &[b"OBJECT", b"k"],
            &[b"JSON.DEBUG", b"k", b"k"],
        ];
        for args in wrong {
            assert_eq!(table.lookup(args), Lookup::UnknownSubcommand, "{args:?}");
        }
        assert_eq!(table.by_name("CONFIG"), None);
        assert_eq!(table.by_name("CONFIG|GET|X"), None);
    }

    #[test]
    fn command_with_its_own_row_accepts_any_subcommand() {
        assert_eq!(name_of(&[b"DEBUG", b"OBJECT", b"k"]), Some("DEBUG|OBJECT"));
        assert_eq!(name_of(&[b"DEBUG", b"PANIC", b"1"]), Some("DEBUG"));
        assert_eq!(name_of(&[b"COMMAND"]), Some("COMMAND"));
    }

    #[test]
    fn declared_commands_are_found_beside_the_built_in_ones() {
        let table = CommandTable::default()
            .with(CommandSpec::declare("my.get").arity(2).key(1).read())
            .and_then(|table| table.with(CommandSpec::declare("MY.SYS|INFO").any()))
            .and_then(|table| table.with(CommandSpec::declare("OBJECT|AGE").key(2)))
            .expect("good declarations");
        let name = |args: &[&[u8]]| table.find(args).map(CommandSpec::name);
        assert_eq!(name(&[b"My.Get", b"k"]), Some("MY.GET"));
        assert_eq!(name(&[b"MY.SYS", b"info"]), Some("MY.SYS|INFO"));
        assert_eq!(name(&[b"MY.SYS"]), None);
        assert_eq!(name(&[b"object", b"age", b"k"]), Some("OBJECT|AGE"));
        assert_eq!(name(&[b"object", b"freq", b"k"]), Some("OBJECT|FREQ"));
        assert_eq!(name(&[b"GET", b"k"]), Some("GET"));
        assert_eq!(
            table.iter().count(),
            CommandTable::built_in().iter().count() + 3
        );
    }

    #[test]
    fn built_in_command_is_replaced_only_by_replacing() {
        let mine = || CommandSpec::declare("get").node_only();
        let known = Err(DeclareError::Known { name: "GET".into() });
        assert_eq!(CommandTable::default().with(mine()).map(|_| ()), known);
        let table = CommandTable::default()
            .replacing(mine())
            .expect("a good declaration");
        assert_eq!(
            table.find(&[b"GET", b"k"]).map(CommandSpec::route),
            Some(Route::NodeOnly)
        );
        assert_eq!(
            table.iter().count(),
            CommandTable::built_in().iter().count()
        );
    }

    #[test]
    fn command_table_of_a_cluster_has_the_rows_of_a_cluster_and_those_of_the_user() {
        let route = |table: &CommandTable, name: &str| table.by_name(name).map(CommandSpec::route);
        let built_in = CommandTable::in_cluster(Cow::Borrowed(CommandTable::built_in()));
        assert!(matches!(built_in, Cow::Borrowed(_)));
        for spec in rows::IN_CLUSTER {
            assert_eq!(built_in.by_name(spec.name()), Some(spec));
            let plain = CommandTable::built_in().by_name(spec.name());
            let plain = plain.unwrap_or_else(|| panic!("{} has no row", spec.name()));
            assert_ne!(plain, spec);
            assert_eq!(plain.arity(), spec.arity(), "{}", spec.name());
            assert_eq!(plain.proxy_role, spec.proxy_role, "{}", spec.name());
        }
        let rows = CommandTable::built_in().iter().count();
        assert_eq!(built_in.iter().count(), rows);

        let declared = CommandTable::default()
            .replacing(CommandSpec::declare("PUBLISH").node_only())
            .and_then(|table| table.with(CommandSpec::declare("MY.GET").arity(2).key(1)))
            .expect("good declarations");
        let declared = CommandTable::in_cluster(Cow::Owned(declared));
        assert_eq!(route(&declared, "PUBLISH"), Some(Route::NodeOnly));
        assert_eq!(route(&declared, "MY.GET"), Some(Route::Keys));
        assert_eq!(route(&declared, "CLUSTER|INFO"), Some(Route::Any));
        // Applied again, it stays as it is.
        let again = CommandTable::in_cluster(declared.clone());
        assert!(again.iter().eq(declared.iter()));
    }

    #[test]
    fn command_with_keys_cannot_have_subcommands() {
        let with = |declared| CommandTable::default().replacing(declared).map(|_| ());
        assert!(matches!(
            with(CommandSpec::declare("GET|SUB").key(2)),
            Err(DeclareError::NoContainer { .. })
        ));
        assert!(matches!(
            with(CommandSpec::declare("CONFIG").key(1)),
            Err(DeclareError::HasSubcommands { .. })
        ));
        assert_eq!(with(CommandSpec::declare("CONFIG").node_only()), Ok(()));
    }

    #[test]
    fn command_table_with_3000_declared_commands_finds_them_all() {
        let mut table = CommandTable::default();
        for n in 0..3000 {
            table = table
                .with(CommandSpec::declare(&format!("MY.CMD{n}")).key(1))
                .expect("a good declaration");
        }
        for n in 0..3000 {
            let name = format!("my.cmd{n}");
            assert!(table.find(&[name.as_bytes(), b"k"]).is_some(), "{name}");
        }
        assert!(table.find(&[b"MY.CMD3000"]).is_none());
    }

    #[test]
    fn built_in_command_rows_are_consistent() {
        let declared = |spec: &CommandSpec| spec.clone();
        for spec in CommandTable::built_in().iter().map(declared) {
            let name = spec.name();
            let words = name.split('|').count();
            assert!(
                usize::from(spec.arity().unsigned_abs()) >= words,
                "{name}: arity"
            );
            assert_eq!(name, name.to_ascii_uppercase());
            let least = usize::from(spec.arity().unsigned_abs());
            for keys in spec.key_specs() {
                match *keys {
                    KeySpec::Range {
                        first, last: 0.., ..
                    } => assert!(usize::from(first) < least, "{name}: a key"),
                    KeySpec::Counted { count, .. } => {
                        assert!(usize::from(count) < least, "{name}: the number")
                    }
                    _ => {}
                }
            }
            match spec.route() {
                Route::Keys => assert!(!spec.key_specs().is_empty(), "{name}: no keys"),
                Route::Split { step, tail, .. } => {
                    assert!(
                        super::super::declare::can_split(spec.key_specs(), step, tail),
                        "{name}: cannot be split"
                    );
                }
                // A dedicated connection checks keys, too.
                Route::NodeOnly | Route::Stateful => {}
                _ => assert!(spec.key_specs().is_empty(), "{name}: unused keys"),
            }
        }
    }
}
