//! Does a sequence to both sides, and stops at the first difference.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::thread;
use std::time::Duration;

use super::chance;
use super::data;
use super::grammar::Word;
use super::judge::{Queued, Rule, exec_allows};
use super::sequence::{ASIDE, Action, CONNECTIONS, Line, Step};
use super::wire::{Connection, Reply, pack};
use super::world::{Side, World};

/// Commands that are cut by node: their keys may live apart, but in a transaction.
const SPLIT: [&str; 6] = ["DEL", "EXISTS", "MGET", "MSET", "TOUCH", "UNLINK"];
/// Words of errors that say that a command was sent nowhere.
const REFUSALS: [&str; 3] = ["CROSSNODE", "UNROUTABLE", "STATEFUL"];
/// Longer than a millisecond, after which a key expires.
const PAUSE: Duration = Duration::from_millis(4);

/// Where the two sides are not alike.
pub struct Difference {
    /// The step, if it was not found in the end.
    pub step: Option<usize>,
    pub what: String,
}

/// What a connection has behind it.
#[derive(Default)]
struct Session {
    /// The queued commands, in a transaction.
    queued: Option<Vec<Queued>>,
    /// Where the watched keys live.
    watched: BTreeSet<usize>,
    /// Whether the transaction had a command that was refused: nothing of it will be carried out.
    broken: bool,
    /// Whether a WATCH was refused: EXEC gives nil, where the one server, which refuses only those without keys, runs it.
    lost_watch: bool,
}

struct Run<'w> {
    world: &'w mut World,
    one: Vec<Connection>,
    fleet: Vec<Connection>,
    sessions: Vec<Session>,
}

/// What the one server gets for a command.
enum Instead {
    Same,
    Nothing,
    /// A mistake, so that it aborts the transaction as the proxy did.
    Mistake,
    Discard,
}

type Outcome<T> = Result<T, String>;

/// Does all `steps` to both sides, which are emptied before.
pub fn run(world: &mut World, steps: &[Step]) -> Result<(), Difference> {
    let start = |world: &mut World| -> io::Result<[Vec<Connection>; 2]> {
        world.clear()?;
        let open =
            |side| -> io::Result<Vec<_>> { (0..CONNECTIONS).map(|_| world.open(side)).collect() };
        Ok([open(Side::One)?, open(Side::Fleet)?])
    };
    let (one, fleet) = match start(world) {
        Ok([one, fleet]) => (one, fleet),
        Err(error) => return Err(Difference::at(None, format!("at the start: {error}"))),
    };
    let sessions = (0..CONNECTIONS).map(|_| Session::default()).collect();
    let mut run = Run {
        world,
        one,
        fleet,
        sessions,
    };
    let mut at = 0;
    while at < steps.len() {
        let length = joined(&steps[at..]);
        run.chunk(at, &steps[at..at + length])?;
        at += length;
    }
    let compared = data::compare(run.world);
    let compared = compared.unwrap_or_else(|error| Err(format!("reading the data: {error}")));
    compared.map_err(|what| Difference::at(None, what))
}

/// How many steps are sent in one go.
fn joined(steps: &[Step]) -> usize {
    let plain = |step: &Step| matches!(&step.action, Action::Command(_, rule) if rule.is_plain());
    let pairs = steps.iter().zip(&steps[1..]);
    let goes_on = |(step, next): &(&Step, &Step)| {
        step.joined && step.on == next.on && plain(step) && plain(next)
    };
    1 + pairs.take_while(goes_on).count()
}

impl Run<'_> {
    fn chunk(&mut self, at: usize, steps: &[Step]) -> Result<(), Difference> {
        let failed = |what| Difference::at(Some(at), what);
        match &steps[0].action {
            Action::Expire(expiring, looking) => self.expire(expiring, looking).map_err(failed),
            Action::Wait(waiting, meanwhile) => self.wait(waiting, meanwhile).map_err(failed),
            Action::Command(words, rule) if !rule.is_plain() => {
                self.by_chance(words, *rule).map_err(failed)
            }
            Action::Command(..) => self.pipeline(at, steps),
        }
    }

    fn pipeline(&mut self, at: usize, steps: &[Step]) -> Result<(), Difference> {
        let on = steps[0].on;
        let commands: Vec<(&[Word], Rule)> = steps.iter().filter_map(Step::command).collect();
        let mut bytes = Vec::new();
        for (words, _) in &commands {
            pack(&bytes_of(words), &mut bytes);
        }
        let fleet = send_in_two(&mut self.fleet[on], &bytes)
            .and_then(|()| read_all(&mut self.fleet[on], commands.len()));
        let fleet = fleet.map_err(|(read, error)| {
            Difference::at(
                Some(at + read),
                format!("the proxy does not answer: {error}"),
            )
        })?;

        let mut to_one = Vec::new();
        let mut compared = Vec::new();
        for (number, ((words, rule), reply)) in commands.iter().zip(&fleet).enumerate() {
            let failed = |what| Difference::at(Some(at + number), what);
            let queued = self.sessions[on].queued.clone();
            let watched = self.sessions[on].watched.clone();
            let in_transaction = queued.is_some();
            let instead = self.judge(on, words, *rule, reply).map_err(failed)?;
            match instead {
                Instead::Same => pack(&bytes_of(words), &mut to_one),
                Instead::Nothing => continue,
                Instead::Mistake => pack(&["NOSUCHCOMMAND"], &mut to_one),
                Instead::Discard => pack(&["DISCARD"], &mut to_one),
            }
            let same = matches!(instead, Instead::Same);
            compared.push((
                number,
                same.then_some((in_transaction, queued.unwrap_or_default(), watched)),
            ));
        }
        let one = self.one[on]
            .send(&to_one)
            .map_err(|error| (0, error))
            .and_then(|()| read_all(&mut self.one[on], compared.len()));
        let one = one.map_err(|(read, error)| {
            Difference::at(
                Some(at + read),
                format!("one server does not answer: {error}"),
            )
        })?;
        for ((number, session), one) in compared.into_iter().zip(one) {
            let Some((in_transaction, queued, watched)) = session else {
                continue;
            };
            let (words, rule) = commands[number];
            let fleet = &fleet[number];
            let alike = match in_transaction && is(words, "EXEC") {
                true => exec_allows(&queued, &watched, &one, fleet),
                false => rule.allows(&one, fleet) || told_otherwise(words, &one, fleet),
            };
            if !alike {
                return Err(Difference::at(Some(at + number), both(&one, fleet)));
            }
        }
        Ok(())
    }

    /// Whether the proxy was right to refuse a command, or not to, and what the one server is told instead.
    fn judge(&mut self, on: usize, words: &[Word], rule: Rule, reply: &Reply) -> Outcome<Instead> {
        let owners = |world: &World, keys: Vec<Vec<u8>>| -> BTreeSet<usize> {
            keys.iter().map(|key| world.place(key)).collect()
        };
        let mut nodes = owners(self.world, keys(words));
        if nodes.len() > 1 || is_refusal(reply) || self.sessions[on].queued.is_some() {
            // A spoilt command may have other keys than were meant.
            let keys = self.world.keys(words);
            nodes = owners(self.world, keys);
        }
        let session = &mut self.sessions[on];
        let in_transaction = session.queued.is_some();
        let has_keys = !nodes.is_empty();
        let mut all = nodes.clone();
        if in_transaction || is(words, "WATCH") {
            all.extend(&session.watched);
            let queued = session.queued.iter().flatten();
            all.extend(queued.flat_map(|(_, nodes)| nodes));
        }
        let apart = all.len() > 1 || session.broken;
        if !in_transaction && is(words, "WATCH") && reply.error().is_some() {
            session.lost_watch = true;
        }
        if in_transaction && is(words, "EXEC") && session.lost_watch && reply.error().is_none() {
            *session = Session::default();
            return match reply.is_nil() {
                true => Ok(Instead::Discard),
                false => Err(format!("EXEC behind a WATCH that was refused: {reply:?}")),
            };
        }
        if in_transaction && is_script_without_keys(words) && reply.error().is_some() {
            // Of a script that is not known nobody can tell whether it fits the transaction's node.
            session.broken = true;
            return Ok(Instead::Mistake);
        }
        if !is_refusal(reply) {
            let may_be_split = SPLIT.iter().any(|name| is(words, name));
            let carried_out = reply.error().is_none();
            // What EXEC has carried out is looked at when it answers.
            if apart && !in_transaction && !may_be_split && has_keys && carried_out {
                return Err(format!(
                    "the keys live apart, so this had to be refused, but the answer is\n{reply:?}"
                ));
            }
            session.go_on(words, rule, reply, nodes);
            return Ok(Instead::Same);
        }
        if is(words, "EXEC") && in_transaction {
            *session = Session::default();
            return match apart {
                true => Ok(Instead::Discard),
                false => Err(format!("refused for no reason: {reply:?}")),
            };
        }
        if !apart && !may_be_refused(words, in_transaction && !has_keys) {
            return Err(format!("refused for no reason: {reply:?}"));
        }
        match in_transaction {
            true => {
                session.broken = true;
                Ok(Instead::Mistake)
            }
            false => Ok(Instead::Nothing),
        }
    }

    /// A command whose reply is drawn by chance, or which is a loop.
    fn by_chance(&mut self, words: &[Word], rule: Rule) -> Outcome<()> {
        let (fleet, one) = (&mut self.fleet[ASIDE], &mut self.one[ASIDE]);
        let words = bytes_of(words);
        let compared = match rule {
            Rule::Loop => chance::compare_loops(one, fleet, &words),
            Rule::Popped => chance::compare_popped(one, fleet, &words),
            _ => chance::compare_drawn(one, fleet, &words),
        };
        compared.unwrap_or_else(|error| Err(format!("no answer: {error}")))
    }

    fn expire(&mut self, expiring: &[Word], looking: &[Word]) -> Outcome<()> {
        let mut replies = Vec::new();
        for connection in [&mut self.one[ASIDE], &mut self.fleet[ASIDE]] {
            let mut ask = |words| connection.ask(&bytes_of(words));
            let set = ask(expiring);
            thread::sleep(PAUSE);
            let both = set.and_then(|set| Ok([set, ask(looking)?]));
            replies.push(both.map_err(|error| format!("no answer: {error}"))?);
        }
        match replies[0] == replies[1] {
            true => Ok(()),
            false => Err(format!("{replies:?}")),
        }
    }

    fn wait(&mut self, waiting: &[Word], meanwhile: &[Word]) -> Outcome<()> {
        let mut replies = Vec::new();
        for side in [Side::Fleet, Side::One] {
            let reply = self.wait_at(side, waiting, meanwhile);
            let reply = reply.map_err(|error| format!("{side:?} does not answer: {error}"))?;
            if is_refusal(&reply[0]) {
                self.judge(ASIDE, waiting, Rule::Exact, &reply[0])?;
                let words = bytes_of(meanwhile);
                let said = self.world.ask_one(&words);
                let said = said.map_err(|error| format!("one server: {error}"))?;
                return match said == reply[1] {
                    true => Ok(()),
                    false => Err(both(&said, &reply[1])),
                };
            }
            replies.push(reply);
        }
        match replies[0] == replies[1] {
            true => Ok(()),
            false => Err(format!(
                "one server: {:?}\nthe fleet:  {:?}",
                replies[1], replies[0]
            )),
        }
    }

    fn wait_at(
        &mut self,
        side: Side,
        waiting: &[Word],
        meanwhile: &[Word],
    ) -> io::Result<[Reply; 2]> {
        let mut connection = self.world.open(side)?;
        let mut bytes = Vec::new();
        pack(&bytes_of(waiting), &mut bytes);
        connection.send(&bytes)?;
        self.world.until_it_waits(side, &mut connection)?;
        let other = match side {
            Side::One => &mut self.one[ASIDE],
            Side::Fleet => &mut self.fleet[ASIDE],
        };
        let said = other.ask(&bytes_of(meanwhile))?;
        Ok([connection.read()?, said])
    }
}

impl Session {
    fn go_on(&mut self, words: &[Word], rule: Rule, reply: &Reply, nodes: BTreeSet<usize>) {
        let in_transaction = self.queued.is_some();
        if let (Some(queued), true) = (&mut self.queued, reply.is_line("QUEUED")) {
            queued.push((rule, nodes));
        } else if is(words, "MULTI") && reply.is_line("OK") {
            self.queued = Some(Vec::new());
        } else if is(words, "WATCH") && reply.is_line("OK") {
            self.watched.extend(nodes);
        } else if in_transaction && is(words, "EXEC")
            || ["DISCARD", "UNWATCH"].iter().any(|name| is(words, name)) && reply.is_line("OK")
            || is(words, "RESET") && reply.is_line("RESET")
        {
            *self = Self::default();
        }
    }
}

impl Difference {
    fn at(step: Option<usize>, what: String) -> Self {
        Self { step, what }
    }
}

impl Step {
    fn command(&self) -> Option<(&[Word], Rule)> {
        match &self.action {
            Action::Command(words, rule) => Some((words, *rule)),
            _ => None,
        }
    }
}

/// The short list of what is refused although no keys live apart.
fn may_be_refused(words: &[Word], whole_fleet_in_transaction: bool) -> bool {
    whole_fleet_in_transaction || is_script_without_keys(words)
}

/// A script that declares no key, and whose text does not show which it touches.
fn is_script_without_keys(words: &[Word]) -> bool {
    let runs = |name: &&str| is(words, name);
    let by_text = ["EVAL", "EVAL_RO"].iter().any(runs);
    let by_name = ["EVALSHA", "EVALSHA_RO", "FCALL", "FCALL_RO"]
        .iter()
        .any(runs);
    let none = words.get(2).is_some_and(|count| count.bytes == b"0");
    let shows = |text: &Word| !text.bytes.windows(5).any(|bytes| bytes == b"KEYS[");
    none && (by_name || by_text && !words.get(1).is_some_and(shows))
}

/// A request with several mistakes, of which each side tells another one; or one that newer servers take.
fn told_otherwise(words: &[Word], one: &Reply, fleet: &Reply) -> bool {
    const ODD: [&str; 8] = [
        "FCALL",
        "FCALL_RO",
        "GEORADIUS",
        "GEORADIUSBYMEMBER",
        "SORT",
        "SORT_RO",
        "XREAD",
        "XREADGROUP",
    ];
    const NEWER: [&str; 2] = ["ZRANK", "ZREVRANK"];
    let is_one_of = |names: &[&str]| names.iter().any(|name| is(words, name));
    let queued = fleet.is_line("QUEUED") && is_one_of(&NEWER);
    one.error().is_some() && (queued || is_one_of(&ODD) && fleet.error_word() == Some("ERR"))
}

/// The steps that servers do alike, be they nodes of a cluster or not.
pub fn common_to_clusters(mut steps: Vec<Step>) -> Vec<Step> {
    steps.retain(|step| !step.command().is_some_and(|(words, _)| is_denied(words)));
    for step in &mut steps {
        if let Action::Command(words, rule) = &mut step.action
            && is(words, "MEMORY")
            && *rule == Rule::Exact
        {
            // A node has more to remember of a key.
            *rule = Rule::Shape;
        }
    }
    steps
}

/// Whether a node of a cluster refuses it, whatever its keys.
fn is_denied(words: &[Word]) -> bool {
    let sorts = is(words, "SORT") || is(words, "SORT_RO");
    let has = |name: &str| {
        let mut words = words.iter();
        words.any(|word| word.bytes.eq_ignore_ascii_case(name.as_bytes()))
    };
    is(words, "MOVE") || sorts && (has("BY") || has("GET"))
}

/// The keys of a command as the generator knows them.
pub fn keys(words: &[Word]) -> Vec<Vec<u8>> {
    // It has the words of another command, whose keys it names.
    let about_itself = !is(words, "COMMAND");
    let keys = words.iter().filter(|word| word.is_key && about_itself);
    keys.map(|key| key.bytes.clone()).collect()
}

fn is_refusal(reply: &Reply) -> bool {
    reply
        .error_word()
        .is_some_and(|word| REFUSALS.contains(&word))
}

fn is(words: &[Word], name: &str) -> bool {
    words[0].bytes.eq_ignore_ascii_case(name.as_bytes())
}

pub fn both(one: &Reply, fleet: &Reply) -> String {
    format!("one server: {one:?}\nthe fleet:  {fleet:?}")
}

fn bytes_of(words: &[Word]) -> Vec<&[u8]> {
    words.iter().map(|word| word.bytes.as_slice()).collect()
}

/// Cut somewhere, so that a request does not always arrive whole.
fn send_in_two(connection: &mut Connection, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let (first, second) = bytes.split_at(bytes.len() * 2 / 3);
    let sent = connection
        .send(first)
        .and_then(|()| connection.send(second));
    sent.map_err(|error| (0, error))
}

/// So many replies; if one does not come, its number.
fn read_all(connection: &mut Connection, count: usize) -> Result<Vec<Reply>, (usize, io::Error)> {
    let read = |number| connection.read().map_err(|error| (number, error));
    (0..count).map(read).collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(f, "at step {step}:\n{}", self.what),
            None => write!(f, "in the end:\n{}", self.what),
        }
    }
}

/// The steps as text, with the one marked where they differ.
pub fn listing(steps: &[Step], difference: &Difference) -> String {
    let mark = |number| {
        if difference.step == Some(number) {
            ">"
        } else {
            " "
        }
    };
    let line = |(number, step)| format!("{}{number:3}: {step}\n", mark(number));
    steps.iter().enumerate().map(line).collect()
}

/// What a difference is about, to tell one from another.
pub fn topic(steps: &[Step], difference: &Difference) -> String {
    match difference.step.map(|step| &steps[step].action) {
        Some(Action::Command(words, _) | Action::Wait(words, _) | Action::Expire(words, _)) => {
            Line(&words[..1]).to_string().to_ascii_uppercase()
        }
        _ => "data".to_owned(),
    }
}
