//! `atoll statetest` as a user runs it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/statetest")
}

fn atoll(args: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_atoll")).arg("statetest").args(args).output()?)
}

fn run(path: &Path, more: &[&str]) -> anyhow::Result<(Output, Vec<Value>)> {
    let path = path.to_str().context("a path that is text")?;
    let output = atoll(&[&[path], more].concat())?;
    let lines = String::from_utf8(output.stdout.clone())?;
    let lines = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok((output, lines))
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_case_passes_on_one_shard_across_four_and_by_threads() -> anyhow::Result<()> {
    let (output, alone) = run(&folder(), &[])?;
    ensure!(output.status.success(), "{}", errors(&output));
    let names: BTreeSet<_> = alone.iter().filter_map(|line| line["name"].as_str()).collect();
    assert_eq!(names.len(), 11, "{names:?}");
    let forks: BTreeSet<_> = alone.iter().filter_map(|line| line["fork"].as_str()).collect();
    assert_eq!(forks.len(), 13, "{forks:?}");
    assert!(alone.len() > 400 && alone.iter().all(|line| line["pass"] == true));
    for line in &alone {
        for field in ["stateRoot", "logsHash"] {
            let hash = line[field].as_str().context("a hash")?;
            assert!(hash.starts_with("0x") && hash.len() == 66, "{hash}");
        }
        assert!(line["data"].is_u64() && line["gas"].is_u64() && line["value"].is_u64());
        assert!(line.get("error").is_none());
    }
    for way in [
        &["--shards", "4"][..],
        &["--executor", "parallel"],
        &["--executor", "parallel", "--shards", "4"],
    ] {
        let (output, other) = run(&folder(), way)?;
        ensure!(output.status.success(), "{way:?}: {}", errors(&output));
        assert_eq!(alone, other, "{way:?}");
    }
    Ok(())
}

#[test]
fn forks_are_picked_by_name() -> anyhow::Result<()> {
    for (name, fork, cases) in [("cancun", "Cancun", 40), ("Petersburg", "ConstantinopleFix", 30)] {
        let (output, lines) = run(&folder(), &["--fork", name])?;
        ensure!(output.status.success(), "{}", errors(&output));
        assert!(lines.iter().all(|line| line["fork"] == fork));
        assert!(lines.len() >= cases, "{name}: {}", lines.len());
    }
    let (output, lines) = run(&folder(), &["--fork", "Amsterdam"])?;
    assert!(!output.status.success() && lines.is_empty());
    assert!(errors(&output).contains("no case of fork Amsterdam"), "{}", errors(&output));
    Ok(())
}

type Change = fn(&mut Value);

/// What is changed in a test, and what its case says then.
const CHANGES: [(Change, &str); 9] = [
    (set_root, "state root"),
    (set_logs, "logs hash"),
    (set_fork, "fork Atlantis is not supported"),
    (set_exception, "it should be refused: something"),
    (set_nonce, "the transaction is refused: nonce too high"),
    (set_index, "`data` has no variant 77"),
    (set_env, "`currentCoinbase` is missing"),
    (set_pre, "balance: `0xzz` is no number"),
    (|test| test["post"] = Value::Null, "it is no state test"),
];

const OTHER: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";

fn first(test: &mut Value) -> &mut Value {
    &mut test["post"]["London"][0]
}

fn set_root(test: &mut Value) {
    first(test)["hash"] = OTHER.into();
}

fn set_logs(test: &mut Value) {
    first(test)["logs"] = OTHER.into();
}

fn set_fork(test: &mut Value) {
    let cases = test["post"]["London"].take();
    test["post"] = Value::Object([("Atlantis".to_owned(), cases)].into_iter().collect());
}

fn set_exception(test: &mut Value) {
    first(test)["expectException"] = "something".into();
}

fn set_nonce(test: &mut Value) {
    test["transaction"]["nonce"] = "0x7".into();
}

fn set_index(test: &mut Value) {
    first(test)["indexes"]["data"] = 77.into();
}

fn set_env(test: &mut Value) {
    test["env"]["currentCoinbase"] = Value::Null;
}

fn set_pre(test: &mut Value) {
    for account in test["pre"].as_object_mut().into_iter().flat_map(|pre| pre.values_mut()) {
        account["balance"] = "0xzz".into();
    }
}

#[test]
fn whatever_does_not_pass_says_why() -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    let text = std::fs::read(folder().join("fees.json"))?;
    for (change, why) in CHANGES {
        let mut tests: Value = serde_json::from_slice(&text)?;
        change(&mut tests["fees"]);
        let path = place.path().join("changed.json");
        std::fs::write(&path, serde_json::to_vec(&tests)?)?;
        let (output, lines) = run(&path, &[])?;
        assert_eq!(output.status.code(), Some(1), "{why}");
        let failed = lines.iter().find(|line| line["pass"] == false);
        let said = failed.and_then(|line| line["error"].as_str()).unwrap_or_default();
        assert!(said.contains(why), "{why}: {said}");
        assert!(errors(&output).contains("cases fail"), "{}", errors(&output));
    }
    Ok(())
}

#[test]
fn files_that_cannot_be_read_are_named() -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    let broken = place.path().join("broken.json");
    std::fs::write(&broken, "{\"a\": ")?;
    let list = place.path().join("list.json");
    std::fs::write(&list, "[]")?;
    std::fs::write(place.path().join("not-json.txt"), "it is passed over")?;
    let absent = place.path().join("absent.json");
    let good = folder().join("fees.json");
    let paths = [place.path(), absent.as_path(), good.as_path()];
    let paths = paths.map(|path| path.to_str().unwrap_or_default());
    let output = atoll(&paths)?;
    assert_eq!(output.status.code(), Some(1));
    let errors = errors(&output);
    for name in
        ["broken.json", "list.json: it is no object", "absent.json", "3 files cannot be read"]
    {
        assert!(errors.contains(name), "{name}: {errors}");
    }
    // The others are run all the same.
    assert_eq!(String::from_utf8(output.stdout)?.lines().count(), 5);
    Ok(())
}
