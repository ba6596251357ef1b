//! Which row is this request's?

use std::sync::LazyLock;

use super::word::Word;
use super::{CommandSpec, Declaration, DeclareError, rows};

/// The built-in commands, and those the user declares besides.
///
/// A name is looked up without regard to case and without allocating. A command with subcommands (CONFIG, OBJECT, ...)
/// is told by its first two words, and its row is called `CONFIG|GET`.
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
    rows: Vec<Row>,
    /// Row numbers by hash, open addressing; its length is a power of two, and at most half of it is taken.
    slots: Vec<u16>,
}

/// What a table knows about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// Its row.
    Found(&'a CommandSpec),
    /// The name is not in the table, or there is none.
    UnknownCommand,
    /// The command is known and needs a subcommand, but not this one, or there is none.
    UnknownSubcommand,
}

#[derive(Clone, Debug)]
struct Row {
    /// The command that this is a subcommand of, or [`TOP`].
    parent: u16,
    word: Word,
    has_subcommands: bool,
    /// Nothing when only subcommands of this name are known.
    spec: Option<CommandSpec>,
}

const TOP: u16 = u16::MAX;
const FREE: u16 = u16::MAX;

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

impl CommandTable {
    /// The built-in commands.
    #[must_use]
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// Adds a command.
    ///
    /// # Errors
    /// [`DeclareError`] when the declaration contradicts itself, or when the table has the command already.
    pub fn with(self, declared: Declaration) -> Result<Self, DeclareError> {
        let spec = declared.build()?;
        if self.by_name(spec.name()).is_some() {
            return Err(DeclareError::Known {
                name: spec.name().to_owned(),
            });
        }
        self.with_spec(spec)
    }

    /// Adds a command, or puts it in the place of one that the table has.
    ///
    /// A replaced built-in command is routed as declared, wherever its keys really are.
    ///
    /// # Errors
    /// [`DeclareError`] when the declaration contradicts itself.
    pub fn replacing(self, declared: Declaration) -> Result<Self, DeclareError> {
        let spec = declared.build()?;
        self.with_spec(spec)
    }

    /// The row of a request, or `None` when the table does not know it.
    #[must_use]
    #[inline]
    pub fn find(&self, args: &[&[u8]]) -> Option<&CommandSpec> {
        match self.lookup(args) {
            Lookup::Found(spec) => Some(spec),
            _ => None,
        }
    }

    /// The row of a request, or why there is none.
    ///
    /// A subcommand that has no row of its own falls back to the row of its command, if there is one: DEBUG.
    #[must_use]
    #[inline]
    pub fn lookup(&self, args: &[&[u8]]) -> Lookup<'_> {
        let Some(at) = args.first().and_then(|name| self.position(TOP, name)) else {
            return Lookup::UnknownCommand;
        };
        let row = &self.rows[usize::from(at)];
        if row.has_subcommands
            && let Some(sub) = args.get(1)
            && let Some(at) = self.position(at, sub)
            && let Some(spec) = &self.rows[usize::from(at)].spec
        {
            return Lookup::Found(spec);
        }
        row.spec
            .as_ref()
            .map_or(Lookup::UnknownSubcommand, Lookup::Found)
    }

    /// The row with this name: `GET`, `CONFIG|GET`.
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

    /// Every row: the built-in ones by group, then the declared ones.
    pub fn iter(&self) -> impl Iterator<Item = &CommandSpec> {
        self.rows.iter().filter_map(|row| row.spec.as_ref())
    }

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
        if keyed && top.is_some_and(|at| self.rows[usize::from(at)].has_subcommands) {
            return Err(DeclareError::HasSubcommands {
                name: spec.name().to_owned(),
            });
        }
        if self.rows.len() + 2 >= usize::from(TOP) {
            return Err(DeclareError::TooMany);
        }
        self.insert(spec);
        Ok(self)
    }

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

    /// The number of the row of this word, which is made if need be.
    fn entry(&mut self, parent: u16, name: &str) -> u16 {
        if let Some(at) = self.position(parent, name.as_bytes()) {
            return at;
        }
        let at = u16::try_from(self.rows.len()).unwrap_or(FREE);
        debug_assert!(at < FREE, "the number of rows is limited");
        let word = Word::new(name.as_bytes());
        self.rows.push(Row {
            parent,
            word,
            has_subcommands: false,
            spec: None,
        });
        if self.rows.len() * 2 > self.slots.len() {
            self.slots = vec![FREE; self.slots.len() * 2];
            for at in 0..=at {
                self.occupy(at);
            }
        } else {
            self.occupy(at);
        }
        at
    }

    fn occupy(&mut self, at: u16) {
        let row = &self.rows[usize::from(at)];
        let mask = self.slots.len() - 1;
        let mut slot = row.word.hash(row.parent) & mask;
        while self.slots[slot] != FREE {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = at;
    }

    #[inline]
    fn position(&self, parent: u16, name: &[u8]) -> Option<u16> {
        let word = Word::new(name);
        let mask = self.slots.len() - 1;
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
