//! Does a dedicated connection run the next command at once, or queue it until EXEC?
//!
//! Between MULTI and EXEC a server replies QUEUED to EVALSHA without looking the script up. NOSCRIPT appears
//! in the reply to EXEC, when the other commands of the transaction have been run: too late to repair.
//! EVALSHA is therefore sent as EVAL there.

use crate::plan::scripts::CacheSnapshot;

/// State of a dedicated connection with regard to MULTI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransactionState {
    /// Commands are run as they arrive, and NOSCRIPT can be repaired afterwards.
    Idle,
    /// Commands are queued until EXEC or DISCARD.
    Queuing,
}

impl TransactionState {
    /// Returns the state after this command was sent. It assumes success: a MULTI that the server refused
    /// leaves `Queuing`, which only costs bytes, since EVAL works outside of a transaction as well.
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

    /// Returns the request to send instead of a script command: while queuing, the EVAL for a remembered
    /// EVALSHA. `None` if the command is sent as it is.
    pub(crate) fn rewrite(self, args: &[&[u8]], snapshot: CacheSnapshot<'_>) -> Option<Vec<u8>> {
        match self {
            // No snapshot is taken here: outside of a transaction the source is sent only when it proves to
            // be missing.
            Self::Idle => None,
            Self::Queuing => snapshot().rewrite(args),
        }
    }
}
