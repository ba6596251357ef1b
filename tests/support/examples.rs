//! The examples, as programs.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Builds some of them from the sources as they are now, since `cargo test --test NAME` alone does not, and gives the
/// folder they are in.
pub fn build(which: &[&str]) -> PathBuf {
    // target/PROFILE/deps/TEST
    let test = env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked"]).args(which);
    build.args(features());
    build.arg("--target-dir").arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        build.arg("--release");
    }
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = build.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{which:?} cannot be built");
    profile.join("examples")
}

/// Those that the test was built with, as far as it can know, so that little is built once more.
fn features() -> &'static [&'static str] {
    match cfg!(all(
        feature = "r2d2",
        feature = "json",
        feature = "tls-rustls"
    )) {
        true => &["--all-features"],
        false => &["--features", "tokio-comp"],
    }
}
