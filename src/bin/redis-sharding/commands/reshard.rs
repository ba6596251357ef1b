//! `reshard`: keys are moved to where another topology places them, while clients go on.

use std::io::{self, Write};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use redis_sharding::ops::reshard::{
    PauseOutcome, Reshard as Mover, ReshardEvent, ReshardMethod, ReshardOptions, ReshardOutcome,
    ReshardPlan, ReshardStage, ReshardStatus,
};
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::nodes::NodeArgs;
use crate::outcome::{Failure, Outcome};
use crate::output;
use crate::proxy_options;

const EXAMPLES: &str = "\
Examples:
  redis-sharding reshard plan --to six-nodes.topology --discover 10.0.0.1:6379
  redis-sharding reshard run --to six-nodes.topology
  redis-sharding reshard status --to six-nodes.topology

The nodes of the fleet must have a record: see `redis-sharding topology publish`.";

/// Moves keys to where another topology places them, while clients go on
///
/// Requests for the few keys that are on the way wait, for 50 ms as a rule. A run that is stopped, in whatever way, is gone on
/// with by another one.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Reshard {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Plan(Plan),
    Run(Run),
    Status(Status),
    Pause(Pause),
    Resume(Resume),
    Abort(Abort),
}

impl Reshard {
    pub fn run(self) -> Result<Outcome, Failure> {
        match self.action {
            Action::Plan(action) => action.run(),
            Action::Run(action) => action.run(),
            Action::Status(action) => action.run(),
            Action::Pause(action) => action.run(),
            Action::Resume(action) => action.run.start(true),
            Action::Abort(action) => action.run(),
        }
    }
}

#[derive(Args)]
struct MoverArgs {
    /// File with the text of the topology that the fleet is to have
    #[arg(long, value_name = "FILE")]
    to: String,
    /// A name, user, address or host of connections that do not follow the record and never write; may be repeated
    #[arg(long = "exempt", value_name = "WHO")]
    exempt: Vec<String>,
    /// Copies all keys one by one, also where a new node could become a replica of the node that has its keys first
    #[arg(long)]
    copy: bool,
    // Last: its heading in the help would be that of what follows. Without nodes, those of --to are asked.
    #[command(flatten)]
    nodes: NodeArgs,
}

impl MoverArgs {
    fn mover(&self, options: ReshardOptions) -> Result<Mover, Failure> {
        let to = Fleet::read_topology(&self.to)
            .map_err(Failure::Usage)?
            .topology;
        let builder = self.nodes.builder_or(&to)?;
        let options = match self.copy {
            true => options.with_method(ReshardMethod::Copy),
            false => options,
        };
        let exempt = self.exempt.iter();
        let options = exempt.fold(options, |options, who| options.with_administrator(who));
        Ok(Mover::new(builder, to, options)?)
    }
}

/// Shows what would be moved, what that needs, and why it cannot be done
///
/// Nothing is changed. Exit code 1 if something stands against it.
#[derive(Args)]
struct Plan {
    /// Number of keys of each node that are looked at
    #[arg(long, value_name = "KEYS", default_value_t = 10_000)]
    sample: usize,
    /// Writes JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    mover: MoverArgs,
}

impl Plan {
    fn run(self) -> Result<Outcome, Failure> {
        let mover = self
            .mover
            .mover(ReshardOptions::new().with_sample(self.sample))?;
        let plan = mover.plan().map_err(failed)?;
        match self.json {
            true => output::write_json(&plan_json(&plan))?,
            false => print(&plan.to_string())?,
        }
        Ok(Outcome::of(plan.is_possible()))
    }
}

/// Moves the keys, or goes on with a run that was stopped
///
/// Ctrl-C pauses at the next batch: no keys are on the way then, and another run goes on.
#[derive(Args)]
struct Run {
    /// Bytes that are copied from a node in a second at most
    #[arg(long, value_name = "BYTES", value_parser = |value: &str| proxy_options::bytes("--rate", value))]
    rate: Option<usize>,
    /// Number of nodes whose keys are moved at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    sources: usize,
    /// Percentage of their commands per second that programs are to have of each node; 0 for no pauses
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=95))]
    foreground: u8,
    #[command(flatten)]
    mover: MoverArgs,
}

/// Goes on with a run that was paused by `reshard pause`
///
/// Takes the request back that the nodes keep, and goes on as `reshard run` does.
#[derive(Args)]
struct Resume {
    #[command(flatten)]
    run: Run,
}

impl Run {
    fn run(self) -> Result<Outcome, Failure> {
        self.start(false)
    }

    fn start(self, is_resumed: bool) -> Result<Outcome, Failure> {
        let options = ReshardOptions::new()
            .with_sources_at_once(self.sources)
            .with_foreground_share(f64::from(self.foreground) / 100.0)
            .with_bytes_per_second(self.rate.map(|rate| rate as u64));
        let mover = self.mover.mover(options)?;
        let plan = mover.plan().map_err(failed)?;
        let is_begun = mover
            .status()
            .is_ok_and(|status| status.stage != ReshardStage::NotBegun);
        if !is_begun && !plan.is_possible() {
            print(&plan.to_string())?;
            return Ok(Outcome::Found);
        }
        pause_on_interrupt(&mover)?;
        let mut progress = Progress::new(&plan);
        let listener = |event| progress.event(&event);
        let outcome = match is_resumed {
            true => mover.resume(listener),
            false => mover.run(listener),
        };
        progress.bar.finish_and_clear();
        let outcome = outcome.map_err(failed)?;
        let end = match outcome {
            ReshardOutcome::Finished => "the new topology is in force",
            ReshardOutcome::Paused if mover.status().is_ok_and(|status| status.is_paused) => {
                "paused by `redis-sharding reshard pause`; `redis-sharding reshard resume` goes on"
            }
            ReshardOutcome::Paused => "paused; another run goes on",
        };
        print(&format!("{}{end}\n", progress.summary()))?;
        Ok(Outcome::of(outcome == ReshardOutcome::Finished))
    }
}

/// Shows how far the keys have moved
#[derive(Args)]
struct Status {
    /// Writes JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    mover: MoverArgs,
}

impl Status {
    fn run(self) -> Result<Outcome, Failure> {
        let status = self.mover.mover(ReshardOptions::new())?.status();
        let status = status.map_err(failed)?;
        match self.json {
            true => output::write_json(&status_json(&status))?,
            false => print(&status.to_string())?,
        }
        Ok(Outcome::Fine)
    }
}

/// Stops the mover at the next batch, from another terminal or machine
///
/// The nodes keep the request: no other run begins before `reshard resume`. Exit code 1 if the mover is still at work when the
/// time is over, or none was.
#[derive(Args)]
struct Pause {
    /// Number of seconds to wait for the mover
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    within: u64,
    #[command(flatten)]
    mover: MoverArgs,
}

impl Pause {
    fn run(self) -> Result<Outcome, Failure> {
        let mover = self.mover.mover(ReshardOptions::new())?;
        let outcome = mover.request_pause(Duration::from_secs(self.within));
        let outcome = outcome.map_err(failed)?;
        let goes_on = match outcome {
            PauseOutcome::Finished => "",
            _ => "; `redis-sharding reshard resume` goes on",
        };
        print(&format!("{outcome}{goes_on}\n"))?;
        Ok(Outcome::of(outcome == PauseOutcome::Paused))
    }
}

/// Gives a reshard up that has not moved any key yet
#[derive(Args)]
struct Abort {
    #[command(flatten)]
    mover: MoverArgs,
}

impl Abort {
    fn run(self) -> Result<Outcome, Failure> {
        self.mover
            .mover(ReshardOptions::new())?
            .abort()
            .map_err(failed)?;
        print("the old topology is in force\n")?;
        Ok(Outcome::Fine)
    }
}

/// What has happened in a run, and its bar on standard error.
struct Progress {
    bar: ProgressBar,
    start: Instant,
    keys: u64,
    bytes: u64,
    longest: Duration,
    repeated: u64,
}

impl Progress {
    fn new(plan: &ReshardPlan) -> Self {
        let template = "{bar:30} {pos}/{len} keys, {per_sec}, {eta} left, {msg}";
        let bar = ProgressBar::new(plan.keys());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            bar,
            start: Instant::now(),
            keys: 0,
            bytes: 0,
            longest: Duration::ZERO,
            repeated: 0,
        }
    }

    fn event(&mut self, event: &ReshardEvent) {
        match event {
            ReshardEvent::Batch {
                source,
                target,
                keys,
                bytes,
                closed,
                ..
            } => {
                self.keys += *keys as u64;
                self.bytes += bytes;
                // A closure without keys keeps nobody waiting.
                if *keys > 0 {
                    self.longest = self.longest.max(*closed);
                }
                self.bar.set_position(self.keys);
                self.bar.set_message(format!(
                    "{source} -> {target}, longest closure {} ms",
                    self.longest.as_millis()
                ));
            }
            ReshardEvent::Split {
                source,
                targets,
                keys,
                closed,
            } => {
                self.keys += keys;
                self.longest = self.longest.max(*closed);
                self.bar.set_position(self.keys);
                self.bar.println(format!(
                    "{source} -> {}: {keys} keys by replication, closed for {} ms",
                    targets.join(", "),
                    closed.as_millis()
                ));
            }
            ReshardEvent::SplitGivenUp {
                source,
                target,
                cause,
            } => self.bar.println(format!(
                "{source} -> {target}: the keys are copied one by one: {cause}"
            )),
            ReshardEvent::Repeated {
                source,
                target,
                cause,
            } => {
                self.repeated += 1;
                self.bar.println(format!(
                    "{source} -> {target}: a batch is copied again: {cause}"
                ));
            }
            _ => {}
        }
    }

    fn summary(&self) -> String {
        let (time, seconds) = (self.start.elapsed(), self.start.elapsed().as_secs_f64());
        let rate = (self.bytes as f64 / seconds.max(0.001)) as u64;
        format!(
            "moved {} keys, {} ({}/s) in {}; longest closure {} ms; batches copied again: {}\n",
            self.keys,
            HumanBytes(self.bytes),
            HumanBytes(rate),
            HumanDuration(time),
            self.longest.as_millis(),
            self.repeated
        )
    }
}

/// Pauses the mover on the first Ctrl-C, and ends the program on the second one.
fn pause_on_interrupt(mover: &Mover) -> Result<(), Failure> {
    let pause = mover.pause_handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let wait = move || {
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_err() {
                return;
            }
            pause.pause();
            if tokio::signal::ctrl_c().await.is_ok() {
                process::exit(130);
            }
        });
    };
    thread::Builder::new()
        .name("interrupt".into())
        .spawn(wait)?;
    Ok(())
}

fn plan_json(plan: &ReshardPlan) -> Value {
    let moves = plan.moves.iter().map(|planned| {
        let mut splits = plan.splits.iter();
        let is_split = splits
            .any(|split| split.source == planned.source && split.target == planned.target);
        json!({"source": planned.source, "target": planned.target, "keys": planned.keys,
               "keys_error": planned.keys_error, "bytes": planned.bytes, "by_replication": is_split})
    });
    let refusals = plan.refusals.iter();
    let refusals = refusals.map(|refusal| json!({"node": refusal.node, "text": refusal.text}));
    json!({
        "from": format!("{:016x}", plan.from),
        "to": format!("{:016x}", plan.to),
        "keys": plan.keys(),
        "bytes": plan.bytes(),
        "seconds": plan.estimate.as_secs_f64(),
        "moves": moves.collect::<Vec<_>>(),
        "remarks": plan.remarks,
        "refusals": refusals.collect::<Vec<_>>(),
    })
}

fn status_json(status: &ReshardStatus) -> Value {
    let pairs = status.pairs.iter().map(|pair| {
        json!({"source": pair.source, "target": pair.target, "moved": pair.moved, "closed": pair.closed})
    });
    json!({
        "from": format!("{:016x}", status.from),
        "to": format!("{:016x}", status.to),
        "stage": format!("{:?}", status.stage),
        "share": status.share(),
        "movers": status.movers,
        "paused": status.is_paused,
        "pairs": pairs.collect::<Vec<_>>(),
    })
}

fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

fn failed(error: redis_sharding::Error) -> Failure {
    Failure::Failed(error.to_string())
}
