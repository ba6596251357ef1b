//! How even is every placement, and how much moves when a node joins? Counts both, and draws a picture.
//!
//! Run it with `cargo run --release --example balance -- FOLDER`; it writes `balance.svg` and `balance.png` there, in `target`
//! if no folder is named, and what it counted to standard output. It needs no server, and no font of the system.

mod measure;
mod picture;

use std::env;
use std::error::Error;
use std::path::PathBuf;

use measure::{Figures, SIZES};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let figures = measure::all()?;
    print(&figures);
    for file in ["balance.svg", "balance.png"] {
        let file = folder.join(file);
        picture::draw(&figures, &file)?;
        println!("written: {}", file.display());
    }
    Ok(())
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
