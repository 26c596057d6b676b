use std::path::Path;

use serde_json::{Value, json};

use super::{Kind, Line, StatetestArgs, each, lanes};

/// What a field can be in place of what it has to be.
fn garbage() -> Vec<Value> {
    let huge = format!("0x1{}", "0".repeat(64));
    vec![
        Value::Null,
        json!(-1),
        json!(7),
        json!("0xzz"),
        json!("0x"),
        json!("0xffffffffffffffff"),
        json!(format!("0x{}", "f".repeat(64))),
        json!(huge),
        json!("0x:bigint 0x10000000000000000000000000000000000000000000000000000000000000001"),
        json!([]),
        json!({"a": [1]}),
    ]
}

/// Every place in a value, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                places(
                    field,
                    &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")),
                    found,
                );
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

fn lines(shards: u16, executor: Kind, test: &Value) -> Vec<Line> {
    let args = StatetestArgs { files: vec![], executor, shards, fork: None };
    let lanes = lanes(executor).expect("threads");
    let mut lines = Vec::new();
    let reported = each(&args, lanes.as_ref(), "test", test, &mut |line| {
        lines.push(line);
        Ok(())
    });
    assert!(reported.is_ok());
    lines
}

#[test]
fn no_damage_to_a_test_is_more_than_a_line() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/statetest");
    let (mut passed, mut failed) = (0, 0);
    for name in ["set_code", "blobs", "access_list", "fees"] {
        let text = std::fs::read(folder.join(format!("{name}.json"))).expect("a file");
        let tests: Value = serde_json::from_slice(&text).expect("JSON");
        let mut test = tests[name].clone();
        if let Some(forks) = test["post"].as_object_mut() {
            forks.retain(|fork, _| ["Prague", "Berlin"].contains(&fork.as_str()));
        }
        let mut found = Vec::new();
        places(&test, "", &mut found);
        let ways = [(1, Kind::Sequential), (3, Kind::Sequential), (1, Kind::Parallel)];
        for (at, (shards, kind)) in found.iter().zip(ways.into_iter().cycle()) {
            for wrong in garbage() {
                let mut damaged = test.clone();
                *damaged.pointer_mut(at).expect("a place") = wrong;
                for line in lines(shards, kind, &damaged) {
                    // It says why, or it did not matter.
                    assert_eq!(line.pass, line.error.is_none());
                    passed += usize::from(line.pass);
                    failed += usize::from(!line.pass);
                }
            }
        }
    }
    assert!(passed > 100 && failed > 1_000, "{passed} {failed}");
}

#[test]
fn a_test_may_be_any_json() {
    for test in garbage() {
        let lines = lines(1, Kind::Parallel, &test);
        assert!(lines.iter().all(|line| !line.pass) && lines.len() == 1, "{test} {lines:?}");
    }
}
