//! How evenly does every placement spread keys, and how many move when a node joins? Counts both and draws a
//! chart.
//!
//! Run it with `cargo run --release --example balance -- FOLDER`; it writes `balance.svg` and `balance.png`
//! there, or to `target` by default, and the counts to standard output. It needs no server and no system
//! font.

#[path = "../support/cli.rs"]
#[macro_use]
mod cli;
mod measure;
mod picture;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use measure::{Figures, SIZES};

const ABOUT: &str = "\
How even is every placement, and how much moves when a node joins? Counts both, writes
what it counted to standard output, and draws balance.svg and balance.png into FOLDER,
which must exist: `target` unless another is named. It needs no server.";

fn main() -> ExitCode {
    let program = cli::Program {
        name: "balance",
        operands: "[FOLDER]",
        most: 1,
        about: ABOUT,
    };
    program.run(|folder| {
        let folder = folder.first();
        example(&folder.map_or_else(|| PathBuf::from("target"), PathBuf::from))
    })
}

fn example(folder: &Path) -> Result<(), Box<dyn Error>> {
    check_folder(folder)?;
    let figures = measure::all()?;
    print(&figures);
    for file in ["balance.svg", "balance.png"] {
        let file = folder.join(file);
        picture::draw(&figures, &file)?;
        println!("written: {}", file.display());
    }
    Ok(())
}

/// Checks that the pictures can be written, before the keys are counted.
fn check_folder(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    if !folder.is_dir() {
        return Err(format!("there is no folder {shown}; --help says more"));
    }
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "nothing can be written in the folder {shown}: {error}"
        )),
    }
}

fn print(figures: &[Figures]) {
    println!(
        "{:32}{:>20}{:>20}{:>20}",
        "", "4 nodes", "16 nodes", "128 nodes"
    );
    println!(
        "{:32}{}",
        "placement",
        format!("{:>8}{:>6}{:>6}", "least", "most", "moved").repeat(3)
    );
    for row in figures {
        print!("{:32}", row.name);
        for i in 0..SIZES.len() {
            let (load, moved) = (&row.loads[i], row.moved[i] * 100.0);
            print!("{:>8.2}{:>6.2}{moved:>5.1}%", load.least, load.most);
        }
        println!();
    }
}
