//! Rows of a table, measured side by side.
//!
//! Every round runs every row once, in an order of its own, for a few hundredths of a second. A figure is the median over
//! the rounds, and a ratio is the median of the ratios within one round: what else the machine does in a round disturbs
//! all rows of it alike.

use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use rustix::time::{ClockId, clock_gettime};

/// How long a row runs in one round.
const ROUND: Duration = Duration::from_millis(40);
/// How many rounds there are unless `ROUNDS` in the environment says otherwise.
const ROUNDS: usize = 25;

/// One row of a table.
pub struct Row<'r> {
    pub name: String,
    run: Result<Box<dyn FnMut(u64) -> Spent + 'r>, Refused>,
}

/// A client does not do this, and why.
type Refused = String;

/// What some operations took.
#[derive(Clone, Copy)]
pub struct Spent {
    pub wall: Duration,
    /// CPU time of this process, as far as it belongs to the client.
    pub cpu: Duration,
}

/// Medians of one row.
#[derive(Clone)]
pub struct Figure {
    pub name: String,
    /// Why there are no figures.
    pub refused: Option<String>,
    /// Nanoseconds per operation.
    pub wall: f64,
    /// Throughput in relation to the first row.
    pub ratio: f64,
    /// CPU nanoseconds of the client per operation.
    pub cpu: f64,
    /// Client CPU in relation to the first row.
    pub cpu_ratio: f64,
}

impl<'r> Row<'r> {
    /// `operation` does one operation.
    pub fn new(name: impl Into<String>, mut operation: impl FnMut() + 'r) -> Self {
        Self::timed(name, move |count| {
            Spent::on(|| {
                for _ in 0..count {
                    operation();
                }
            })
        })
    }

    /// `run` does so many operations and says what they took.
    pub fn timed(name: impl Into<String>, run: impl FnMut(u64) -> Spent + 'r) -> Self {
        Self {
            name: name.into(),
            run: Ok(Box::new(run)),
        }
    }

    /// The client does not do it.
    pub fn refused(name: impl Into<String>, reason: Refused) -> Self {
        Self {
            name: name.into(),
            run: Err(reason),
        }
    }
}

impl Spent {
    /// What `work` takes in all threads of this process.
    pub fn on(work: impl FnOnce()) -> Self {
        Self::by(ClockId::ProcessCPUTime, work)
    }

    /// What `work` takes in this thread, when others play the servers.
    pub fn on_this_thread(work: impl FnOnce()) -> Self {
        Self::by(ClockId::ThreadCPUTime, work)
    }

    /// What a part of it would have taken.
    pub fn scaled(self, part: f64) -> Self {
        Self {
            wall: self.wall.mul_f64(part),
            cpu: self.cpu.mul_f64(part),
        }
    }

    fn by(clock: ClockId, work: impl FnOnce()) -> Self {
        let (start, before) = (Instant::now(), cpu(clock));
        work();
        Self {
            wall: start.elapsed(),
            cpu: cpu(clock) - before,
        }
    }
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).expect("CPU time is positive");
    Duration::new(
        seconds,
        u32::try_from(time.tv_nsec).expect("less than a second"),
    )
}

/// Measures the rows and prints them. `units` are in one operation: 100 for a batch of 100 keys.
pub fn compare(title: &str, units: usize, rows: Vec<Row<'_>>) -> Vec<Figure> {
    compare_in(ROUND, title, units, rows)
}

/// The same with rounds of another length.
pub fn compare_in(
    round: Duration,
    title: &str,
    units: usize,
    mut rows: Vec<Row<'_>>,
) -> Vec<Figure> {
    let samples = sample(round, units, &mut rows);
    let figures: Vec<Figure> = rows
        .iter()
        .zip(&samples)
        .map(|(row, own)| Figure {
            name: row.name.clone(),
            refused: row.run.as_ref().err().cloned(),
            wall: median(own.iter().map(|sample| sample.0)),
            ratio: median(
                samples[0]
                    .iter()
                    .zip(own)
                    .map(|(first, own)| first.0 / own.0),
            ),
            cpu: median(own.iter().map(|sample| sample.1)),
            cpu_ratio: median(
                samples[0]
                    .iter()
                    .zip(own)
                    .map(|(first, own)| own.1 / first.1),
            ),
        })
        .collect();
    print(title, &figures);
    figures
}

/// Wall time and client CPU per unit, of every row in every round.
fn sample(round: Duration, units: usize, rows: &mut [Row<'_>]) -> Vec<Vec<(f64, f64)>> {
    let mut samples = vec![Vec::new(); rows.len()];
    let mut running = Vec::new();
    for (place, row) in rows.iter_mut().enumerate() {
        if let Ok(run) = &mut row.run {
            running.push((place, calibrate(run, round), run));
        }
    }
    for _ in 0..rounds() {
        running.shuffle(&mut rand::rng());
        for (place, count, run) in &mut running {
            let spent = run(*count);
            let per_unit =
                |time: Duration| time.as_secs_f64() * 1e9 / (*count * units as u64) as f64;
            samples[*place].push((per_unit(spent.wall), per_unit(spent.cpu)));
        }
    }
    samples
}

/// How many rounds there are.
pub fn rounds() -> usize {
    std::env::var("ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(ROUNDS)
}

/// How many operations take about so long.
fn calibrate(run: &mut dyn FnMut(u64) -> Spent, round: Duration) -> u64 {
    run(1);
    let mut count = 1;
    loop {
        let wall = run(count).wall;
        if wall > round / 4 {
            return ((count as f64 * round.as_secs_f64() / wall.as_secs_f64()) as u64).max(1);
        }
        count *= 4;
    }
}

/// The sample in the middle of those that are numbers.
pub fn median(samples: impl Iterator<Item = f64>) -> f64 {
    let mut samples: Vec<f64> = samples.filter(|sample| sample.is_finite()).collect();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(title: &str, figures: &[Figure]) {
    println!("\n{title}");
    println!(
        "{:44} {:>10} {:>9} {:>12} {:>9}",
        "", "ns", "ratio", "client CPU", "ratio"
    );
    for figure in figures {
        if let Some(reason) = &figure.refused {
            println!("{:44} refused: {reason}", figure.name);
            continue;
        }
        println!(
            "{:44} {:>10.0} {:>9.2} {:>9.0} ns {:>9.2}",
            figure.name, figure.wall, figure.ratio, figure.cpu, figure.cpu_ratio
        );
    }
}
