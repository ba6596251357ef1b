//! Finds redis-rs' package, builds its tests, and finds the programs that were built.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The folder of this workspace.
const FOLDER: &str = env!("CARGO_MANIFEST_DIR");

/// Of redis-rs: the same as in `adapter/Cargo.toml` and `cases/Cargo.toml`.
const VERSION: &str = "1.8.1";

/// A test file of redis-rs, as a program.
pub struct Program {
    pub name: String,
    pub path: PathBuf,
}

/// Makes `upstream` a link to the tests of the package that the lock file names.
pub fn link() -> Result<()> {
    let output = cargo(&["metadata", "--format-version", "1"])?;
    let metadata: Value = serde_json::from_slice(&output)?;
    let version = VERSION;
    let package = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "redis" && package["version"] == version)
        .with_context(|| format!("redis {version} is not in the lock file"))?;
    let manifest = package["manifest_path"]
        .as_str()
        .context("a package has a manifest")?;
    let tests = Path::new(manifest)
        .parent()
        .context("a manifest is in a folder")?
        .join("tests");
    let link = Path::new(FOLDER).join("upstream");
    if fs::read_link(&link).ok().as_ref() != Some(&tests) {
        let _ = fs::remove_file(&link);
        symlink(&tests, &link).with_context(|| format!("{} cannot be made", link.display()))?;
    }
    Ok(())
}

/// Builds the test files that `cases/Cargo.toml` lists, and the server that starts four.
pub fn build() -> Result<Vec<Program>> {
    cargo(&["build", "--quiet", "--bin", "four-servers"])?;
    let output = cargo(&[
        "test",
        "--package",
        "redis-rs-cases",
        "--no-run",
        "--message-format",
        "json",
    ])?;
    let mut programs = Vec::new();
    for line in output
        .split(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(b"{"))
    {
        let message: Value = serde_json::from_slice(line)?;
        let kinds = message["target"]["kind"].as_array();
        if kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "test"))
            && let Some(path) = message["executable"].as_str()
        {
            programs.push(Program {
                name: message["target"]["name"]
                    .as_str()
                    .context("a target has a name")?
                    .to_owned(),
                path: path.into(),
            });
        }
    }
    programs.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(programs)
}

/// The program that is started in place of a server.
pub fn four_servers() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("four-servers");
    if !path.exists() {
        bail!("{} was not built", path.display());
    }
    Ok(path)
}

/// The major version that `redis-server --version` prints.
pub fn server_major(server: &Path) -> Result<u32> {
    let output = Command::new(server)
        .arg("--version")
        .output()
        .with_context(|| format!("{} cannot be run", server.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, version) = text
        .split_once(" v=")
        .with_context(|| format!("no version in {text:?}"))?;
    let major = version.split('.').next().unwrap_or_default();
    major
        .parse()
        .with_context(|| format!("no version in {text:?}"))
}

/// Runs cargo in this workspace, and returns what it prints.
fn cargo(arguments: &[&str]) -> Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(FOLDER)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(output.stdout)
}
