//! All short histories of a client that watches keys, with everything that can happen to the connection of
//! WATCH.
//!
//! A model of that connection keeps what its server would: the watched keys, and the protocol. No history may
//! run a transaction after a WATCH that does not hold, or give back a connection whose state would harm its
//! next user.

use super::*;
use crate::proxy::action::ActionStep;

/// The requests of a client.
const REQUESTS: [&str; 8] = [
    "WATCH a", "UNWATCH", "MULTI", "EXEC", "DISCARD", "HELLO 3", "HELLO 2", "RESET",
];

/// Number of requests in a history, besides one SET after each MULTI. Five take ten times as long, and find
/// nothing else.
const LENGTH: u32 = 4;

/// The connection of WATCH, as its server sees it.
#[derive(Clone, Copy, Debug)]
struct Lease {
    watched: bool,
    protocol: Protocol,
    /// The protocol of the connections that it was taken from, and that it is given back to.
    home: Protocol,
    is_broken: bool,
}

/// Chooses an outcome for each step by the digits of a number, and checks each step.
struct Model {
    lease: Option<Lease>,
    /// The client has sent WATCH, and nothing since that ends it.
    client_watches: bool,
    /// True if one of those WATCHes was refused, or its connection is gone.
    watch_is_lost: bool,
    choices: Vec<usize>,
    taken: usize,
}

impl Model {
    /// Chooses one of three outcomes. The first is success.
    fn choose(&mut self) -> usize {
        if self.taken == self.choices.len() {
            self.choices.push(0);
        }
        self.taken += 1;
        self.choices[self.taken - 1]
    }

    fn send(&mut self, packed: &[u8]) -> String {
        let choice = self.choose();
        let lease = self
            .lease
            .as_mut()
            .expect("nothing is sent without a connection");
        assert!(!lease.is_broken, "a broken connection is used again");
        let request = words(packed);
        match (choice, request.split_once(' ')) {
            (0, Some(("WATCH", _))) => lease.watched = true,
            (0, Some(("HELLO", number))) => {
                lease.protocol = match number {
                    "3" => Protocol::Resp3,
                    _ => Protocol::Resp2,
                };
            }
            (0, _) => lease.watched = false,
            (1, _) => return "-ERR no".into(),
            _ => {
                lease.is_broken = true;
                self.watch_is_lost = true;
                return "broken".into();
            }
        }
        "+OK".into()
    }

    fn exec(&mut self, on_lease: bool) -> String {
        assert!(!self.watch_is_lost, "EXEC behind a WATCH that is lost");
        assert_eq!(
            on_lease, self.client_watches,
            "EXEC on the wrong connection"
        );
        match (on_lease, self.choose()) {
            (_, 0) => {
                if let Some(lease) = &mut self.lease {
                    assert!(lease.watched);
                    lease.watched = false;
                }
                "+OK, +QUEUED, *1/+OK".into()
            }
            (true, _) => {
                if let Some(lease) = &mut self.lease {
                    lease.is_broken = true;
                }
                "broken".into()
            }
            (false, _) => "broken".into(),
        }
    }

    fn release(&mut self) {
        let lease = self.lease.take().expect("what is released was leased");
        assert!(
            !lease.watched && !lease.is_broken,
            "{lease:?} is given back"
        );
        assert_eq!(lease.protocol, lease.home, "{lease:?} is given back");
    }
}

impl Network for Model {
    fn outcome(&mut self, step: &ActionStep, session: &Session) -> String {
        match step {
            ActionStep::Lease(_) => match self.choose() {
                0 => {
                    assert!(self.lease.is_none(), "two connections of one client");
                    self.lease = Some(Lease {
                        watched: false,
                        protocol: session.protocol(),
                        home: session.protocol(),
                        is_broken: false,
                    });
                    "ok".into()
                }
                _ => "down".into(),
            },
            ActionStep::SendOnLease { packed, .. } => self.send(packed),
            ActionStep::Exec { on_lease, .. } => {
                if let Some(lease) = &self.lease {
                    assert_eq!(
                        lease.protocol,
                        session.protocol(),
                        "replies of another protocol"
                    );
                }
                self.exec(*on_lease)
            }
            ActionStep::ReleaseLease => {
                self.release();
                String::new()
            }
            ActionStep::DropLease => {
                self.lease.take().expect("what is dropped was leased");
                String::new()
            }
            ActionStep::ServerVersion => "7.0.15".into(),
            _ => String::new(),
        }
    }
}

/// Runs the requests, and tracks which keys the client may rely on.
fn run(router: &Router, requests: &[&str], choices: Vec<usize>) -> (Vec<usize>, usize) {
    let mut simulation = Simulation::over(
        router.clone(),
        Model {
            lease: None,
            client_watches: false,
            watch_is_lost: false,
            choices,
            taken: 0,
        },
    );
    let mut queuing = false;
    let mut execs = 0;
    for request in requests {
        let before = simulation.out.len();
        let model = &mut simulation.network;
        if *request == "WATCH a" && !queuing {
            model.client_watches = true;
        }
        let steps = simulation.steps.len();
        assert!(simulation.run(&[request]).is_continue());
        if *request == "MULTI" && !queuing {
            assert!(simulation.run(&["SET a 1"]).is_continue());
        }
        let reply = String::from_utf8_lossy(&simulation.out[before..]).into_owned();
        assert!(!reply.is_empty(), "{request} has no reply: {requests:?}");
        execs += simulation.steps[steps..]
            .iter()
            .filter(|step| step.starts_with("exec"))
            .count();
        let model = &mut simulation.network;
        match *request {
            "WATCH a" if !queuing && reply != "+OK\r\n" => model.watch_is_lost = true,
            "HELLO 2" | "HELLO 3" if model.client_watches && model.lease.is_none() => {
                model.watch_is_lost = true;
            }
            "MULTI" => queuing = true,
            "UNWATCH" if !queuing => (model.client_watches, model.watch_is_lost) = (false, false),
            "EXEC" | "DISCARD" if queuing => {
                (model.client_watches, model.watch_is_lost) = (false, false);
                queuing = false;
            }
            "RESET" => {
                (model.client_watches, model.watch_is_lost) = (false, false);
                queuing = false;
            }
            _ => {}
        }
        let Model {
            lease,
            client_watches,
            watch_is_lost,
            ..
        } = simulation.network;
        // After a lost WATCH another one may have taken a connection.
        let may_have = client_watches;
        let must_have = client_watches && !watch_is_lost;
        assert!(
            (lease.is_none() || may_have) && (lease.is_some() || !must_have),
            "{lease:?} behind {requests:?}"
        );
    }
    (simulation.network.choices, execs)
}

#[test]
fn exec_never_runs_without_its_watched_keys_in_any_history_of_watch() {
    let router = router();
    let mut histories = 0;
    let mut executed = 0;
    for number in 0..REQUESTS.len().pow(LENGTH) {
        let digit = |place| REQUESTS[number / REQUESTS.len().pow(place) % REQUESTS.len()];
        let requests: Vec<&str> = (0..LENGTH).map(digit).collect();
        // All combinations in order, like the digits of a number.
        let mut choices = Vec::new();
        loop {
            let (mut taken, execs) = run(&router, &requests, choices);
            histories += 1;
            executed += execs;
            while taken.pop_if(|last| *last == 2).is_some() {}
            match taken.last_mut() {
                Some(last) => *last += 1,
                None => break,
            }
            choices = taken;
        }
    }
    assert!(
        histories > 10_000 && executed > 500,
        "{histories}, {executed}"
    );
}
