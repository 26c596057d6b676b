//! Says which version this is, with its commit: `ATOLL_COMMIT` if that is given, as where there is no
//! repository; else, of release builds, what git says. Others are built too often to ask.

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=ATOLL_COMMIT");
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let given = env::var("ATOLL_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| release.then(asked).flatten());
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=ATOLL_VERSION={version} (commit {commit})");
}

/// `None` without git, or outside of a repository.
fn asked() -> Option<String> {
    // It grows with every commit, also of another branch that is checked out.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
