//! Keeps what scripts went through the proxy, by replies that are passed on as bytes.

use std::borrow::Cow;

use crate::aio::Shared;
use crate::plan::{ScriptCache, ScriptJournal};
use crate::resp::Protocol;

impl Shared {
    /// Notes what a command about scripts did by its reply, which is passed on as bytes.
    pub(crate) fn record_raw_script_reply<'b>(
        &self,
        args: &[&[u8]],
        reply: &'b [u8],
        protocol: Protocol,
    ) -> Cow<'b, [u8]> {
        // What runs again and again needs no lock that only one can hold.
        if self.scripts.read().is_known(args) {
            return Cow::Borrowed(reply);
        }
        ScriptCache::record_raw_reply(&mut self.scripts.write(), args, reply, protocol)
    }

    /// Notes what the commands of a transaction did by what EXEC answered.
    pub(crate) fn record_exec_reply(&self, journal: &ScriptJournal<'_>, exec: &[u8]) {
        if !journal.is_empty() {
            journal.record_raw(&mut self.scripts.write(), exec);
        }
    }
}
