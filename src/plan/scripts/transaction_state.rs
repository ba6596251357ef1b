//! Whether commands are run at once, or kept for later.

use crate::plan::scripts::CacheSnapshot;

/// What a private connection does with the next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransactionState {
    /// It is run.
    Idle,
    /// It is kept until EXEC: what a node lacks shows when it is too late.
    Queuing,
}

impl TransactionState {
    /// The moment after this command.
    pub(crate) fn after(self, args: &[&[u8]]) -> Self {
        let is = |word: &str| {
            args.first()
                .is_some_and(|name| name.eq_ignore_ascii_case(word.as_bytes()))
        };
        match () {
            () if is("MULTI") => Self::Queuing,
            () if is("EXEC") || is("DISCARD") => Self::Idle,
            () => self,
        }
    }

    /// What is sent in the place of a command about scripts: a remembered script goes along with a transaction.
    pub(crate) fn rewrite(self, args: &[&[u8]], snapshot: CacheSnapshot<'_>) -> Option<Vec<u8>> {
        match self {
            Self::Idle => None,
            Self::Queuing => snapshot().rewrite(args),
        }
    }
}
