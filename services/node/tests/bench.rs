//! `atoll bench`, for real: the smallest run that there is.

use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

fn bench(arguments: &[&str]) -> anyhow::Result<std::process::Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
    command.arg("bench").args(arguments).output().context("cannot run atoll")
}

#[test]
fn one_figure_is_measured_and_its_json_is_read() -> anyhow::Result<()> {
    let turns = ["--turns", "1", "--duration", "300ms", "--accounts", "8", "--shards", "2"];
    let output = bench(&[&["--figures", "e2e.cpu,e2e.tps", "--json"], &turns[..]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let json: Value = serde_json::from_slice(&output.stdout)?;
    let ids: Vec<_> = json["figures"].as_array().context("figures")?.iter().collect();
    assert_eq!(ids.iter().map(|figure| &figure["id"]).collect::<Vec<_>>(), ["e2e.cpu", "e2e.tps"]);
    for figure in ids {
        let measured = &figure["measured"];
        assert_eq!(measured["values"].as_array().map(Vec::len), Some(1), "{figure}");
        let median = measured["median"].as_f64().context("a median")?;
        let (lowest, highest) = (measured["lowest"].as_f64(), measured["highest"].as_f64());
        assert!(median > 0.0 && lowest <= Some(median) && highest >= Some(median), "{figure}");
        assert!(figure["met"].is_boolean(), "{figure}");
    }
    let load = &json["loads"][0];
    assert_eq!(load["load"], "transfer 0 %");
    assert_eq!(load["measured"]["failed"]["highest"], 0.0, "{load}");
    assert!(load["measured"]["recovery_us"]["lowest"].as_f64() > Some(0.0), "{load}");
    Ok(())
}

#[test]
fn figures_are_listed_and_unknown_ones_refused() -> anyhow::Result<()> {
    let listed = String::from_utf8(bench(&["--list", "--figures", "beacon"])?.stdout)?;
    assert!(listed.contains("beacon.cpu: ") && listed.contains("≤ 3"), "{listed}");
    let refused = bench(&["--figures", "beacon.spu"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("beacon.cpu"), "{said}");
    Ok(())
}
