//! Commands that the user adds: modules, or servers newer than this crate.

use std::borrow::Cow;

use super::name::LONGEST;
use super::{Access, Blocking, CommandSpec, KeySpec, Merge, Partial, ProxyRole, Route, Scripting};

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
}

/// What is wrong with a declared command.
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
    Arity {
        /// The command.
        name: String,
        /// The arity as given.
        arity: i16,
    },
    /// A position is that of the name, or a step is 0.
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
    NoKeys {
        /// The command.
        name: String,
    },
    /// It has keys, and goes where keys do not matter.
    #[error("{name} has keys, but its route does not look at them")]
    UnusedKeys {
        /// The command.
        name: String,
    },
    /// It is to be split, but its keys do not allow that.
    #[error(
        "{name} cannot be split: its keys must be one range whose last is -1 minus the tail, or to the end of a group, with the step of the split"
    )]
    Split {
        /// The command.
        name: String,
    },
    /// The table has the command already.
    #[error("{name} is known already; `replacing` replaces it")]
    Known {
        /// The command.
        name: String,
    },
    /// It is a subcommand of a command that has keys of its own.
    #[error("{name} cannot be a subcommand: the command itself has keys")]
    NoContainer {
        /// The command.
        name: String,
    },
    /// It has keys, but there are subcommands of it.
    #[error("{name} has subcommands, and cannot have keys of its own")]
    HasSubcommands {
        /// The command.
        name: String,
    },
    /// The table is full.
    #[error("the table is full")]
    TooMany,
}

impl Declaration {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_ascii_uppercase(),
            arity: if name.contains('|') { -2 } else { -1 },
            keys: Vec::new(),
            route: Route::Keys,
            access: Access::Write,
            blocking: Blocking::No,
            partial: Partial::Refused,
        }
    }

    /// How many arguments there are, the name included; negative means "at least". Defaults to any number.
    pub fn arity(mut self, arity: i16) -> Self {
        self.arity = arity;
        self
    }

    /// A key at this position. May be said several times. Defaults to no keys.
    pub fn key(self, at: u16) -> Self {
        let last = i16::try_from(at).unwrap_or(0);
        self.key_spec(KeySpec::Range {
            first: at,
            last,
            step: 1,
        })
    }

    /// Keys at every `step`th position from `first` to `last`; a negative `last` counts from the end.
    pub fn keys(self, first: u16, last: i16, step: u16) -> Self {
        self.key_spec(KeySpec::Range { first, last, step })
    }

    /// The number of keys at `count`, and that many keys from `first` on.
    pub fn counted(self, count: u16, first: u16) -> Self {
        self.key_spec(KeySpec::Counted {
            count,
            first,
            step: 1,
            least: 0,
        })
    }

    /// It changes nothing, and may be sent again when the answer is missing. Defaults to [`write`](Self::write).
    pub fn read(mut self) -> Self {
        self.access = Access::Read;
        self
    }

    /// It may change something, and is never sent twice. This is the default.
    pub fn write(mut self) -> Self {
        self.access = Access::Write;
        self
    }

    /// Each node gets the command with its own keys: `step` arguments per key, `tail` arguments at the end for all.
    /// Defaults to one node that owns all keys.
    pub fn split(self, step: u8, tail: u8, merge: Merge) -> Self {
        self.route(Route::Split { step, tail, merge })
    }

    /// Every node gets it as it is.
    pub fn all(self, merge: Merge) -> Self {
        self.route(Route::All(merge))
    }

    /// Whether the nodes that can be reached answer for all of them, when it goes to every node. Defaults to
    /// [`Partial::Refused`].
    pub fn partial(mut self, partial: Partial) -> Self {
        self.partial = partial;
        self
    }

    /// Any one node gets it: each gives the same answer.
    pub fn any(self) -> Self {
        self.route(Route::Any)
    }

    /// Only a named node gets it.
    pub fn node_only(self) -> Self {
        self.route(Route::NodeOnly)
    }

    /// It may hold its answer back. Defaults to [`Blocking::No`].
    pub fn blocking(mut self, blocking: Blocking) -> Self {
        self.blocking = blocking;
        self
    }

    /// The finished row.
    ///
    /// # Errors
    /// [`DeclareError`] when the declaration contradicts itself.
    pub fn build(self) -> Result<CommandSpec, DeclareError> {
        let words = self.check_name()?;
        let Self {
            name,
            arity,
            keys,
            route,
            access,
            blocking,
            partial,
        } = self;
        if usize::from(arity.unsigned_abs()) < words {
            return Err(DeclareError::Arity { name, arity });
        }
        if let Some(&keys) = keys.iter().find(|keys| !keys.is_after(words)) {
            return Err(DeclareError::Keys { name, keys });
        }
        match route {
            Route::Keys if keys.is_empty() => return Err(DeclareError::NoKeys { name }),
            Route::Split { step, tail, .. } if !can_split(&keys, step, tail) => {
                return Err(DeclareError::Split { name });
            }
            Route::All(_) | Route::Any | Route::NodeOnly if !keys.is_empty() => {
                return Err(DeclareError::UnusedKeys { name });
            }
            _ => {}
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
            proxy_role: ProxyRole::Forward,
            note: "declared by the user",
        })
    }

    fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    fn key_spec(mut self, keys: KeySpec) -> Self {
        self.keys.push(keys);
        self
    }

    /// The number of words of the name.
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
    /// Whether all of its positions come after the first `words` arguments.
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

/// Whether the keys are cut into groups of `step` arguments that reach up to the tail.
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
