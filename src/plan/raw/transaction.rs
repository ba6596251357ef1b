//! MULTI ... EXEC whose reply is passed on as bytes.

use std::borrow::Cow;

use crate::command::Access;
use crate::partition::NodeIndex;
use crate::plan::batch::{NodeRequest, ReplySlot};
use crate::plan::{Answers, PlannedTransaction, RawReplies, ReplyBuffer};
use crate::resp::{Protocol, write_line};

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

    /// The reply to EXEC without that to the first command, which the client has not sent. Another reply than an array stays
    /// as it is.
    pub(crate) fn without_first(exec: &[u8]) -> Cow<'_, [u8]> {
        let lines = || {
            let (count, rest) = line(exec.strip_prefix(b"*")?)?;
            let count: usize = count.parse().ok()?;
            // EXISTS replies with a number, or an error.
            let first = rest
                .strip_prefix(b":")
                .or_else(|| rest.strip_prefix(b"-"))?;
            let (_, rest) = line(first)?;
            Some((count.checked_sub(1)?, rest))
        };
        let Some((count, rest)) = lines() else {
            return Cow::Borrowed(exec);
        };
        let mut out = Vec::with_capacity(exec.len());
        write_line(&mut out, b'*', count);
        out.extend_from_slice(rest);
        Cow::Owned(out)
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

/// The text up to the end of the line, and what is behind it.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    Some((str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_to_the_check_of_watched_keys_is_taken_out_of_that_to_exec() {
        for (exec, shown) in [
            ("*3\r\n:1\r\n+OK\r\n$1\r\nx\r\n", "*2\r\n+OK\r\n$1\r\nx\r\n"),
            ("*1\r\n:0\r\n", "*0\r\n"),
            ("*2\r\n-LOADING no\r\n+OK\r\n", "*1\r\n+OK\r\n"),
            ("*-1\r\n", "*-1\r\n"),
            ("_\r\n", "_\r\n"),
            ("-EXECABORT no\r\n", "-EXECABORT no\r\n"),
        ] {
            let told = PlannedTransaction::without_first(exec.as_bytes());
            assert_eq!(String::from_utf8_lossy(&told), shown);
        }
    }
}
