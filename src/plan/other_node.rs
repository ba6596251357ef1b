//! Moves requests that any node may serve from a node that cannot be reached to the next one.
//!
//! Such requests are those planned as [`Plan::Any`](crate::plan::Plan::Any): ECHO, TIME, scripts without
//! keys. The nodes are tried in node order from the first one chosen, each once:
//!
//! ```text
//! 4 nodes, first choice 2:   2 ─▶ 3 ─▶ 0 ─▶ 1 ─▶ the failure of node 1 is reported
//! ```

use crate::command::{Args, PackedCommands};
use crate::plan::batch::ReplySlot;
use crate::plan::{Answers, Cause, ExpectedEnd, Fallback, NodeRequest, ReplyBuffer};
use crate::topology::LivingNodes;

/// The requests without a reply that any node may serve, addressed to the node after the one that failed.
///
/// A request moves if it was certainly not sent, or is a read. Returns `None` when nothing may move, when all
/// of `living` were tried, or when the failure was a timeout, which leaves no time.
pub(crate) fn for_other_node<R: ReplyBuffer>(
    request: &NodeRequest,
    answers: &Answers<R>,
    living: &LivingNodes,
) -> Option<NodeRequest> {
    let failure = answers.failure.as_ref()?;
    let answered = answers.values.count();
    if request.tried + 1 >= living.len() {
        return None;
    }
    // The deadline has passed, and the next node would be tried under the same one; or the plan is void.
    if matches!(
        failure.cause,
        Cause::PoolTimeout(_)
            | Cause::Timeout(_)
            | Cause::NoTime
            | Cause::Superseded
            | Cause::Moving(_)
    ) {
        return None;
    }
    let may_go = |number: usize, slot: &ReplySlot| {
        slot.fallback == Fallback::OtherNode
            && number >= answered
            && failure.may_send(number, slot.access)
    };
    // The requests are only counted at first: in most failures none of them may move, and then nothing is
    // copied.
    let going = || request.slots.iter().enumerate();
    let count = going()
        .filter(|(number, slot)| may_go(*number, slot))
        .count();
    // A transaction moves as a whole or not at all: without its MULTI the rest would run command by command.
    if count == 0 || request.ending == ExpectedEnd::Exec && count < request.slots.len() {
        return None;
    }
    let mut next = request.same_for(living.after(request.node)?);
    let mut commands = PackedCommands::new(&request.packed);
    let mut args = Args::new();
    for (number, &slot) in going() {
        let Ok(Some(frame)) = commands.next(&mut args) else {
            break;
        };
        if may_go(number, &slot) {
            next.push(slot, |out| out.extend_from_slice(frame));
        }
    }
    Some(next)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redis::Value;

    use super::*;
    use crate::command::Access;
    use crate::partition::{NodeIndex, NodeSpec, Rendezvous};
    use crate::plan::Failure;
    use crate::topology::Topology;

    const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

    fn exchange(slots: &[ReplySlot]) -> NodeRequest {
        let node = NodeIndex::new(2);
        let mut exchange = NodeRequest::transaction(node, Vec::new(), Vec::new());
        exchange.ending = ExpectedEnd::Any;
        for &slot in slots {
            exchange.push(slot, |out| out.extend_from_slice(PING));
        }
        exchange
    }

    fn lost(answered: usize, sent: usize, cause: Cause) -> Answers {
        Answers {
            values: vec![Value::Nil; answered],
            failure: Some(Box::new(Failure { cause, sent })),
        }
    }

    fn living(nodes: usize) -> LivingNodes {
        let nodes = (0..nodes).map(|i| NodeSpec::unnamed(format!("{i}:1")));
        let topology = Topology::new(nodes.collect(), Arc::new(Rendezvous::new())).unwrap();
        topology.living_nodes()
    }

    fn gone() -> Cause {
        Cause::Dropped("gone".into())
    }

    #[test]
    fn read_for_any_node_goes_to_each_other_node_once() {
        let read = ReplySlot::whole(0, Access::Read).anywhere();
        let mut exchanges = vec![exchange(&[read])];
        let mut nodes = Vec::new();
        while let Some(next) = for_other_node(&exchanges[0], &lost(0, 1, gone()), &living(4)) {
            nodes.push(next.node.get());
            assert_eq!(next.packed, PING);
            exchanges = vec![next.same_for(next.node)];
            exchanges[0].tried = next.tried;
            exchanges[0].push(read, |out| out.extend_from_slice(PING));
        }
        assert_eq!(nodes, [3, 0, 1]);
    }

    #[test]
    fn write_without_a_reply_and_request_with_an_owner_do_not_go_to_another_node() {
        let read = ReplySlot::whole(0, Access::Read).anywhere();
        let write = ReplySlot::whole(1, Access::Write).anywhere();
        let owned = ReplySlot::whole(2, Access::Read);
        let exchanges = [exchange(&[read, write, owned, write])];
        let going = |answers| {
            let next = for_other_node(&exchanges[0], &answers, &living(4));
            next.map_or(0, |next| next.slots.len())
        };
        assert_eq!(going(lost(0, 4, gone())), 1, "only the read");
        assert_eq!(going(lost(1, 4, gone())), 0, "which was answered");
        assert_eq!(going(lost(0, 3, gone())), 2, "the last was not sent");
        assert_eq!(going(lost(0, 0, Cause::Connect("refused".into()))), 3);
        assert_eq!(going(lost(0, 4, Cause::Timeout("late".into()))), 0);
        assert_eq!(going(Answers::default()), 0);
    }

    #[cfg(feature = "proxy")]
    #[test]
    fn byte_meter_of_replies_is_kept_for_another_node() {
        #[derive(Debug)]
        struct Nothing;
        impl crate::plan::ByteMeter for Nothing {
            fn add(&self, _: usize) {}
            fn subtract(&self, _: usize) {}
        }
        let mut request = exchange(&[ReplySlot::whole(0, Access::Read).anywhere()]);
        request.meter = Some(std::sync::Arc::new(Nothing));
        let next = for_other_node(&request, &lost(0, 1, gone()), &living(4)).unwrap();
        assert!(next.meter.is_some());
    }

    #[test]
    fn transaction_goes_to_another_node_only_if_nothing_was_sent() {
        let write = ReplySlot::whole(0, Access::Write).anywhere();
        let mut transaction = exchange(&[write, write, write]);
        transaction.ending = ExpectedEnd::Exec;
        let goes =
            |sent| for_other_node(&transaction, &lost(0, sent, gone()), &living(2)).is_some();
        assert!(goes(0));
        assert!(!goes(1));
        assert!(!goes(3));
    }
}
