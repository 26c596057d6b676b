//! A panic in an actor ends the process, wherever in the actor it happens.

use std::process::Command;
use std::time::Duration;

use crate::probe::{Probe, Stand};
use atoll_fabric::Local;

const WHERE: &str = "ATOLL_TEST_PANIC_WHERE";

#[test]
fn a_panic_ends_the_process() {
    for place in ["turn", "future", "make"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let args = ["--ignored", "--exact", "panic::child", "--nocapture"];
        let output = child.args(args).env(WHERE, place).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("for the test"), "{place}: {text}");
        assert_eq!(output.status.code(), None, "{place} did not end the process: {text}");
    }
}

#[tokio::test]
#[ignore = "ends the process; started by the test above"]
async fn child() {
    let stand = Stand::local().await;
    match std::env::var(WHERE).unwrap().as_str() {
        "turn" => stand.probe.turns().post(|_, _| panic!("for the test")),
        "future" => stand.probe.turns().post(|_, cx| {
            cx.spawn(async { panic!("for the test") }, |_, (), _| ());
        }),
        _ => drop(Local::<Probe>::start(&stand.place, 1, || panic!("for the test"))),
    }
    // Bounds the test where the process does not end.
    tokio::time::sleep(Duration::from_secs(5)).await;
}
