//! Commands that the user declares: those of modules, and of servers newer than this crate.
//!
//! [`Declaration`] collects what is known, and [`build`](Declaration::build) checks that it fits together: a
//! row that contradicts itself would route keys to wrong nodes.

use std::borrow::Cow;

use super::name::LONGEST;
use super::{
    Access, Blocking, CommandSpec, KeySpec, Merge, MissReply, Partial, ProxyRole, Route, Scripting,
};

/// A command in the making, from [`CommandSpec::declare`]; it goes into a table with
/// [`CommandTable::with`](super::CommandTable::with).
///
/// Positions count the name of the command as 0; a subcommand (`MY|SUB`) takes position 1.
///
/// ```
/// use redis_sharding::command::{CommandSpec, CommandTable, Merge};
///
/// let table = CommandTable::default()
///     // MY.COPY source target
///     .with(CommandSpec::declare("MY.COPY").arity(3).keys(1, 2, 1))?
///     // MY.MSET key value [key value ...], cut by node
///     .with(CommandSpec::declare("MY.MSET").arity(-3).keys(1, -1, 2).split(2, 0, Merge::AllSucceeded))?
///     // MY.COUNT, of all nodes together
///     .with(CommandSpec::declare("MY.COUNT").arity(1).read().all(Merge::Sum))?;
/// # Ok::<(), redis_sharding::command::DeclareError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a declaration does nothing until it is in a table"]
pub struct Declaration {
    name: String,
    arity: i16,
    keys: Vec<KeySpec>,
    route: Route,
    access: Access,
    blocking: Blocking,
    partial: Partial,
    missing: Option<MissReply>,
    primary_only: bool,
}

/// A contradiction in a declared command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeclareError {
    /// The name is empty, too long, or has a character that a name cannot have.
    #[error(
        "`{name}` cannot be a command's name: 1 to {LONGEST} printable ASCII characters without blanks, and for a subcommand `NAME|SUB`"
    )]
    Name {
        /// The name as given.
        name: String,
    },
    /// The number of arguments is 0, or too small for the name.
    #[error(
        "{name}: arity {arity} does not even count the name; Redis counts it, and negative means \"at least\""
    )]
    /// The number of arguments is 0, or smaller than the number of words in the name.
    Arity {
        /// The command.
        name: String,
        /// The arity as given.
        arity: i16,
    },
    /// A key position is that of the name, or the step is 0.
    #[error("{name}: {keys:?} points at the name, or has step 0")]
    Keys {
        /// The command.
        name: String,
        /// The keys as given.
        keys: KeySpec,
    },
    /// It is routed by its keys, and has none.
    #[error(
        "{name} has neither keys nor a route: say `key`, `keys` or `counted`, or else `all`, `any` or `named`"
    )]
    /// The route is by keys, and there are none.
    NoKeys {
        /// The command.
        name: String,
    },
    /// There are keys, and the route does not depend on them.
    #[error("{name} has keys, but its route does not look at them")]
    UnusedKeys {
        /// The command.
        name: String,
    },
    /// It is to be split, but its keys do not allow that.
    #[error(
        "{name} cannot be split: its keys must be one range whose last is -1 minus the tail, or to the end of a group, with the step of the split"
    )]
    /// The command is to be split, but the positions of its keys do not allow that.
    Split {
        /// The command.
        name: String,
    },
    /// There is a reply to missing keys, and the command is no read by key.
    #[error(
        "{name} has a reply to missing keys, which only a read that is sent to the owners of its keys can have; say `read`, and give no other route than `split`"
    )]
    Missing {
        /// The command.
        name: String,
    },
    /// The table already has the command.
    #[error("{name} is known already; `replacing` replaces it")]
    Known {
        /// The command.
        name: String,
    },
    /// The name is that of a subcommand, and the command itself has keys.
    #[error("{name} cannot be a subcommand: the command itself has keys")]
    NoContainer {
        /// The command.
        name: String,
    },
    /// The command has keys, and there are subcommands of it.
    #[error("{name} has subcommands, and cannot have keys of its own")]
    HasSubcommands {
        /// The command.
        name: String,
    },
    /// The table is full, at about 65,500 names, those of subcommands included.
    #[error("the table is full")]
    TooMany,
}

impl Declaration {
    /// Returns a declaration with the defaults of the setters below. A subcommand has two words, so its arity
    /// begins at 2.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_ascii_uppercase(),
            arity: if name.contains('|') { -2 } else { -1 },
            keys: Vec::new(),
            route: Route::Keys,
            access: Access::Write,
            blocking: Blocking::No,
            partial: Partial::Refused,
            missing: None,
            primary_only: false,
        }
    }

    /// Sets the number of arguments, the name included; negative means "at least". Defaults to any number.
    pub fn arity(mut self, arity: i16) -> Self {
        self.arity = arity;
        self
    }

    /// Adds a key at this position. May be called several times. Defaults to no keys.
    pub fn key(self, at: u16) -> Self {
        // A position beyond `i16` becomes a range that ends before it begins, which `build` refuses.
        let last = i16::try_from(at).unwrap_or(0);
        self.key_spec(KeySpec::Range {
            first: at,
            last,
            step: 1,
        })
    }

    /// Adds keys at every `step`th position from `first` to `last`; a negative `last` counts from the end.
    /// Defaults to no keys.
    pub fn keys(self, first: u16, last: i16, step: u16) -> Self {
        self.key_spec(KeySpec::Range { first, last, step })
    }

    /// Adds keys from position `first` on, as many as the argument at `count` says. Defaults to no keys.
    pub fn counted(self, count: u16, first: u16) -> Self {
        self.key_spec(KeySpec::Counted {
            count,
            first,
            step: 1,
            least: 0,
        })
    }

    /// Declares that the command changes nothing: it may be sent again if its reply is lost. Defaults to
    /// [`write`](Self::write).
    pub fn read(mut self) -> Self {
        self.access = Access::Read;
        self
    }

    /// Declares that the command may change something: it is never sent twice. This is the default.
    pub fn write(mut self) -> Self {
        self.access = Access::Write;
        self
    }

    /// Sends each node the command with its own keys: `step` arguments per key, and `tail` arguments at the
    /// end that every part repeats. Defaults to the one node that owns all keys.
    pub fn split(self, step: u8, tail: u8, merge: Merge) -> Self {
        self.route(Route::Split { step, tail, merge })
    }

    /// Sends the command to every node. Defaults to the owner of its keys.
    pub fn all(self, merge: Merge) -> Self {
        self.route(Route::All(merge))
    }

    /// Sets whether nodes within reach reply for all, for a command to every node. Defaults to
    /// [`Partial::Refused`].
    pub fn partial(mut self, partial: Partial) -> Self {
        self.partial = partial;
        self
    }

    /// Sets the reply of a server that has none of the request's keys, which stands for that of a node out of
    /// reach if the client is configured with [`ReadsAs::Miss`](crate::ReadsAs::Miss). For reads only. Defaults
    /// to none: the command fails.
    ///
    /// ```
    /// use redis_sharding::command::{CommandSpec, CommandTable, Merge, MissReply};
    ///
    /// let table = CommandTable::default()
    ///     // BLOOM.CHECK key item
    ///     .with(CommandSpec::declare("BLOOM.CHECK").arity(3).key(1).read().missing_keys(MissReply::Int(0)))?
    ///     // BLOOM.SIZES key [key ...], an array of numbers
    ///     .with(
    ///         CommandSpec::declare("BLOOM.SIZES").arity(-2).keys(1, -1, 1).split(1, 0, Merge::KeyOrder).read().missing_keys(
    ///             MissReply::Each { first: 1, step: 1, reply: &MissReply::Int(0) },
    ///         ),
    ///     )?;
    /// # Ok::<(), redis_sharding::command::DeclareError>(())
    /// ```
    pub fn missing_keys(mut self, reply: MissReply) -> Self {
        self.missing = Some(reply);
        self
    }

    /// Sends a read by key to the primary of its node even where [`ReadFrom`](crate::ReadFrom) prefers replicas: its
    /// reply is about the server, or contains a cursor with which the next call continues there. Defaults to false:
    /// replicas may serve reads by key.
    pub fn primary_only(mut self) -> Self {
        self.primary_only = true;
        self
    }

    /// Sends the command to any one node, for commands to which each node has the same reply. Defaults to the
    /// owner of its keys.
    pub fn any(self) -> Self {
        self.route(Route::Any)
    }

    /// Refuses the command unless the caller names a node. Defaults to the owner of its keys.
    pub fn node_only(self) -> Self {
        self.route(Route::NodeOnly)
    }

    /// Sets the argument with the time for which the server may hold the reply back. Defaults to
    /// [`Blocking::No`].
    pub fn blocking(mut self, blocking: Blocking) -> Self {
        self.blocking = blocking;
        self
    }

    /// Returns the finished row.
    ///
    /// # Errors
    /// [`DeclareError`] if the declaration contradicts itself.
    pub fn build(self) -> Result<CommandSpec, DeclareError> {
        // First, since the errors below show the name.
        let words = self.check_name()?;
        let Self {
            name,
            arity,
            keys,
            route,
            access,
            blocking,
            partial,
            missing,
            primary_only,
        } = self;
        // Otherwise `accepts` would let a request pass that has no subcommand.
        if usize::from(arity.unsigned_abs()) < words {
            return Err(DeclareError::Arity { name, arity });
        }
        if let Some(&keys) = keys.iter().find(|keys| !keys.is_after(words)) {
            return Err(DeclareError::Keys { name, keys });
        }
        match route {
            // Without keys there is no owner, and the command would be refused each time it is used.
            Route::Keys if keys.is_empty() => return Err(DeclareError::NoKeys { name }),
            // A part is built by copying groups, so only this one form of keys can be split.
            Route::Split { step, tail, .. } if !can_split(&keys, step, tail) => {
                return Err(DeclareError::Split { name });
            }
            // Keys that do not matter are most likely a mistake in the route, which would read or write on
            // wrong nodes.
            Route::All(_) | Route::Any | Route::NodeOnly if !keys.is_empty() => {
                return Err(DeclareError::UnusedKeys { name });
            }
            _ => {}
        }
        // A write has an effect, which no reply can stand for.
        let is_keyed_read =
            access == Access::Read && matches!(route, Route::Keys | Route::Split { .. });
        if missing.is_some_and(|reply| !is_keyed_read || !reply.is_well_formed()) {
            return Err(DeclareError::Missing { name });
        }
        Ok(CommandSpec {
            name: Cow::Owned(name),
            arity,
            keys: Cow::Owned(keys),
            route,
            access,
            blocking,
            scripting: Scripting::No,
            partial,
            missing,
            primary_only,
            // A proxy knows nothing about the command but its route.
            proxy_role: ProxyRole::Forward,
            note: "declared by the user",
        })
    }

    /// Sets the route. Only the last call counts.
    fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// Adds positions of keys.
    fn key_spec(mut self, keys: KeySpec) -> Self {
        self.keys.push(keys);
        self
    }

    /// Checks the name, and returns the number of its words.
    fn check_name(&self) -> Result<usize, DeclareError> {
        let words: Vec<&str> = self.name.split('|').collect();
        let good = |word: &&str| {
            (1..=LONGEST).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if words.len() <= 2 && words.iter().all(good) {
            Ok(words.len())
        } else {
            Err(DeclareError::Name {
                name: self.name.clone(),
            })
        }
    }
}

impl KeySpec {
    /// True if all positions lie after the first `words` arguments, and the range is not empty in itself.
    fn is_after(&self, words: usize) -> bool {
        match *self {
            Self::Range { first, last, step } => {
                usize::from(first) >= words
                    && step > 0
                    && (last < 0 || i32::from(last) >= i32::from(first))
            }
            Self::Counted {
                count, first, step, ..
            } => usize::from(count) >= words && first > count && step > 0,
            _ => true,
        }
    }
}

/// True if the keys form one range, in groups of `split_step` arguments, up to the tail. A part is cut out by
/// these groups, so anything between or after them would be lost.
pub(super) fn can_split(keys: &[KeySpec], split_step: u8, tail: u8) -> bool {
    match *keys {
        [KeySpec::Range { last, step, .. }] => {
            split_step > 0
                && step == u16::from(split_step)
                && i32::from(last) == -1 - i32::from(tail)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::ArgAt;
    use super::*;

    #[test]
    fn declared_command_becomes_a_row_of_the_command_table() {
        let spec = Declaration::new("my.pop")
            .arity(-3)
            .keys(1, -2, 1)
            .blocking(Blocking::Seconds(ArgAt::Last))
            .build();
        let spec = spec.expect("a good declaration");
        assert_eq!(spec.name(), "MY.POP");
        assert_eq!(spec.arity(), -3);
        assert_eq!(
            spec.key_specs(),
            [KeySpec::Range {
                first: 1,
                last: -2,
                step: 1
            }]
        );
        assert_eq!(spec.route(), Route::Keys);
        assert_eq!(spec.access(), Access::Write);
        assert_eq!(spec.blocking(), Blocking::Seconds(ArgAt::Last));
    }

    #[test]
    fn declared_command_name_is_one_or_two_printable_words() {
        let long = "A".repeat(LONGEST + 1);
        for name in ["", "|", "A|", "|A", "A|B|C", "A B", "A\n", "Ä", &long] {
            let error = Declaration::new(name).key(2).build().expect_err(name);
            assert!(
                matches!(error, DeclareError::Name { .. }),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn declared_key_positions_must_come_after_the_name() {
        let keys =
            |declared: Declaration| matches!(declared.build(), Err(DeclareError::Keys { .. }));
        assert!(keys(Declaration::new("A").key(0)));
        assert!(keys(Declaration::new("A|B").key(1)));
        assert!(!keys(Declaration::new("A|B").key(2)));
        assert!(keys(Declaration::new("A").keys(1, -1, 0)));
        assert!(keys(Declaration::new("A").keys(2, 1, 1)));
        assert!(keys(Declaration::new("A").key(u16::MAX)));
        assert!(keys(Declaration::new("A").counted(0, 1)));
        assert!(keys(Declaration::new("A").counted(2, 2)));
    }

    #[test]
    fn declared_reply_to_missing_keys_belongs_to_a_read_by_key() {
        let built = |declared: Declaration| declared.missing_keys(MissReply::Nil).build();
        let declared = || Declaration::new("A").key(1);
        let spec = built(declared().read()).unwrap();
        assert_eq!(spec.missing_keys(), Some(MissReply::Nil));
        for refused in [
            declared(),
            Declaration::new("A").read().any(),
            Declaration::new("A").read().all(Merge::Sum),
        ] {
            let error = built(refused).unwrap_err();
            assert!(matches!(error, DeclareError::Missing { .. }), "{error}");
        }
        let reply = &MissReply::Nil;
        let empty = MissReply::Each {
            first: 1,
            step: 0,
            reply,
        };
        let error = declared().read().missing_keys(empty).build().unwrap_err();
        assert!(matches!(error, DeclareError::Missing { .. }), "{error}");
    }

    #[test]
    fn declared_arity_counts_the_command_name() {
        assert!(matches!(
            Declaration::new("A").arity(0).any().build(),
            Err(DeclareError::Arity { .. })
        ));
        assert!(matches!(
            Declaration::new("A|B").arity(-1).any().build(),
            Err(DeclareError::Arity { .. })
        ));
        assert!(Declaration::new("A|B").any().build().is_ok());
    }

    #[test]
    fn declared_route_must_agree_with_the_declared_keys() {
        assert!(matches!(
            Declaration::new("A").build(),
            Err(DeclareError::NoKeys { .. })
        ));
        assert!(matches!(
            Declaration::new("A").key(1).any().build(),
            Err(DeclareError::UnusedKeys { .. })
        ));
        assert!(matches!(
            Declaration::new("A").key(1).all(Merge::Sum).build(),
            Err(DeclareError::UnusedKeys { .. })
        ));
        assert!(matches!(
            Declaration::new("A").key(1).node_only().build(),
            Err(DeclareError::UnusedKeys { .. })
        ));
    }

    #[test]
    fn declared_split_takes_exactly_one_key_range_that_ends_at_the_tail() {
        let split = |declared: Declaration, step, tail| {
            declared.split(step, tail, Merge::KeyOrder).build().is_ok()
        };
        assert!(split(Declaration::new("A").keys(1, -1, 1), 1, 0));
        assert!(split(Declaration::new("A").keys(1, -1, 2), 2, 0));
        assert!(split(Declaration::new("A").keys(1, -2, 1), 1, 1));
        assert!(!split(Declaration::new("A").keys(1, -1, 1), 2, 0));
        assert!(!split(Declaration::new("A").keys(1, -1, 1), 1, 1));
        assert!(!split(Declaration::new("A").keys(1, 3, 1), 1, 0));
        assert!(!split(Declaration::new("A").key(1).keys(2, -1, 1), 1, 0));
        assert!(!split(Declaration::new("A").counted(1, 2), 1, 0));
        assert!(!split(Declaration::new("A").keys(1, -1, 1), 0, 0));
    }

    #[test]
    fn declare_error_suggests_what_to_add() {
        let error = Declaration::new("my.cmd").build().expect_err("no keys");
        assert!(
            error
                .to_string()
                .starts_with("MY.CMD has neither keys nor a route: say `key`"),
            "{error}"
        );
    }
}
