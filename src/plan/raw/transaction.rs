//! MULTI ... EXEC whose reply is passed on as bytes.

use crate::command::Access;
use crate::partition::NodeIndex;
use crate::plan::batch::{NodeRequest, ReplySlot};
use crate::plan::{Answers, PlannedTransaction, RawReplies, ReplyBuffer};
use crate::resp::Protocol;

impl PlannedTransaction {
    /// Returns the request for a transaction without keys, which may go to another node as long as it was not
    /// sent. It has `commands` + 2 replies: MULTI, QUEUED for each command, EXEC.
    pub(crate) fn exchange_anywhere(
        node: NodeIndex,
        packed: &[u8],
        commands: usize,
    ) -> NodeRequest {
        let slots = vec![ReplySlot::whole(0, Access::Write).anywhere(); commands + 2];
        NodeRequest::transaction(node, packed.to_vec(), slots)
    }

    /// Appends the reply to EXEC to `out`, as it came, or the error of a connection that failed.
    ///
    /// The client sees only this reply: to its MULTI and its commands the proxy replied by itself, before
    /// anything was sent. If a node refused one of the commands while queuing, EXEC fails with EXECABORT, and
    /// the reason is appended in the form that newer servers use.
    pub(crate) fn raw_exec_reply(
        node: &str,
        answers: &Answers<RawReplies>,
        protocol: Protocol,
        out: &mut Vec<u8>,
    ) {
        if let Some(failure) = &answers.failure {
            let error = failure.error(node, 0, Access::Write);
            return protocol.write(out, &error.to_reply());
        }
        let frame = |number| answers.values.frame(number);
        let Some(last) = answers.values.count().checked_sub(1).and_then(frame) else {
            return;
        };
        let mut queued = (1..answers.values.count()).filter_map(frame);
        match (frame(0), queued.find(|answer| answer.starts_with(b"-"))) {
            // A server that refuses MULTI may have run the commands one by one: its refusal must not get
            // lost.
            (Some(multi @ [b'-', ..]), _) => out.extend_from_slice(multi),
            // `why != last`: EXEC itself is among the frames searched.
            (_, Some(why)) if last.starts_with(b"-EXECABORT") && why != last => {
                out.extend_from_slice(b"-EXECABORT Transaction discarded because of: ");
                out.extend_from_slice(&why[1..]);
            }
            _ => out.extend_from_slice(last),
        }
    }
}
