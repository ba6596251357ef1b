//! Where do my keys live? A command-line tool: keys in, nodes out. The tool `redis-sharding` has the same as
//! `redis-sharding locate` and `redis-sharding balance`, from the same sources.
//!
//! Run it with `cargo run --release --example locate -- --help`; it needs no server. It places keys as the clients do, by any
//! built-in placement, over the nodes of the command line or of a topology file.

mod arguments;
#[path = "../../src/bin/redis-sharding/fleet.rs"]
mod fleet;
#[path = "../../src/bin/redis-sharding/keys.rs"]
mod keys;
#[path = "../../src/bin/redis-sharding/report.rs"]
mod report;
#[path = "../../src/bin/redis-sharding/shown.rs"]
mod shown;

use std::env;
use std::io::{self, BufRead, BufWriter, Write};
use std::process::ExitCode;

use arguments::{Arguments, Order};
use fleet::Fleet;
use keys::{write_owners, write_placements};
use report::{Balance, Diff};

/// Size of the input and output buffers, in bytes.
const BUFFER: usize = 1 << 18;

const HELP: &str = "\
Says on which node each key lives.

  locate --placement NAME [--option K=V ...] --node [NAME=]ADDRESS[,weight=W] ... < keys.txt
  locate --topology FILE < keys.txt
  locate --list

Keys are read from standard input, one a line: all bytes up to the line feed, whatever they are. An empty line is the
empty key, and a last line without line feed counts. For each key a line is written: the key, a tab, the name of its node.
A node without a name is called what its address was given as. A key that the placement leaves without an owner has no
name behind its tab.

  --placement NAME   the frozen name of a built-in placement, such as rendezvous/1 or twemproxy-ketama/1
  --option K=V       an option of the placement; may be repeated. The rest have their defaults
  --node NODE        one node; repeated, in the order of the fleet. The address is host:port, the path of a unix socket
                     or a redis URL, of which host and port (or the path) count, and which is written without its
                     password; redis-rb knows a node without a name by its whole URL. A name may hold any
                     character: it ends at the last = behind which an address stands. The weight is 1 if not said
  --topology FILE    placement, options and nodes from a topology's text
  --list             writes every placement with its options
  --balance          instead of lines per key: how many keys each node has, against its share by weight
  --diff FILE        instead of lines per key: how many keys have another owner in a second fleet, and whose they become.
                     FILE has one node per line, written as behind --node (empty lines and lines that begin with # are
                     passed over), and the placement stays; or it is a topology's text, with a placement of its own.
                     Two nodes are the same if they have one name, or else one address
  --write-topology   instead of reading keys: writes placement and nodes as a topology's text
  --help             writes this

Exit code: 0; 1 if a key has no owner or reading or writing failed; 2 if the arguments or a file are wrong.
";

fn main() -> ExitCode {
    let arguments = env::args_os().skip(1).map(|word| {
        // Not shown: it may contain a password.
        word.into_string()
            .map_err(|_| "an argument is not UTF-8".to_owned())
    });
    let stdout = BufWriter::with_capacity(BUFFER, io::stdout().lock());
    let stdin = io::BufReader::with_capacity(BUFFER, io::stdin().lock());
    let outcome = arguments
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::Usage)
        .and_then(|arguments| run(&arguments, stdin, stdout));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Why no output, or not all of it, was written.
#[derive(Debug)]
pub enum Failure {
    /// The arguments, or a file that they name, are invalid.
    Usage(String),
    /// Number of keys without an owner.
    Unowned(u64),
    Io(io::Error),
}

impl Failure {
    fn report(self) -> ExitCode {
        let (code, message) = match self {
            Self::Usage(message) => (2, format!("{message}\nlocate --help says more")),
            Self::Unowned(1) => (1, "1 key has no owner".to_owned()),
            Self::Unowned(keys) => (1, format!("{keys} keys have no owner")),
            // The reader of standard output has closed it.
            Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Io(error) => (1, error.to_string()),
        };
        eprintln!("locate: {message}");
        ExitCode::from(code)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Parses the arguments and runs the requested action.
pub fn run(
    arguments: &[String],
    keys: impl BufRead,
    mut output: impl Write,
) -> Result<(), Failure> {
    let arguments = Arguments::read(arguments).map_err(Failure::Usage)?;
    let fleet = || fleet(&arguments).map_err(Failure::Usage);
    match &arguments.order {
        Order::Help => output.write_all(HELP.as_bytes())?,
        Order::List => write_placements(&mut output)?,
        Order::WriteTopology => output.write_all(fleet()?.topology.to_string().as_bytes())?,
        Order::Locate => match write_owners(&fleet()?, keys, &mut output)? {
            0 => {}
            unowned => return Err(Failure::Unowned(unowned)),
        },
        Order::Balance => Balance::count(&fleet()?, keys)?.write(&mut output)?,
        Order::Diff(file) => {
            let before = fleet()?;
            let after = before.second(file).map_err(Failure::Usage)?;
            Diff::count(&before, &after, keys)?.write(&mut output)?;
        }
    }
    output.flush()?;
    Ok(())
}

fn fleet(arguments: &Arguments) -> Result<Fleet, String> {
    let fleet = match &arguments.topology {
        Some(file) => Fleet::read_topology(file),
        None => {
            let placement = arguments.placement.as_deref().unwrap_or_default();
            Fleet::new(placement, &arguments.options, &arguments.nodes)
        }
    }?;
    match fleet.is_cluster() {
        true => Err(
            "the servers of a Redis Cluster say where keys live, and nothing is contacted here; `redis-sharding locate \
             --cluster SEED` asks them"
                .into(),
        ),
        false => Ok(fleet),
    }
}
