//! The file that says where the cluster is, and the newest cut seen.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::json;

use crate::cli::target::{
    ClusterFile, Found, Target, find_in, home_of, is_own_file, remove_in, write_in,
};

fn cluster(pid: u32) -> ClusterFile {
    ClusterFile {
        grpc: "http://127.0.0.1:50051".into(),
        chain_id: 31337,
        pid,
        more: BTreeMap::from([("metrics".into(), json!("http://127.0.0.1:9090"))]),
    }
}

#[test]
fn where_the_file_is() {
    let tmp = PathBuf::from("/tmp");
    let set = |text: &str| Some(text.into());
    assert_eq!(home_of(set("/a"), set("/b"), tmp.clone()), PathBuf::from("/a"));
    assert_eq!(home_of(None, set("/b"), tmp.clone()), PathBuf::from("/b/.atoll"));
    assert_eq!(home_of(set(""), set("/b"), tmp.clone()), PathBuf::from("/b/.atoll"));
    assert_eq!(home_of(None, set(""), tmp), PathBuf::from("/tmp/atoll"));
}

#[test]
fn written_found_and_removed() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("not/there/yet");
    let error = find_in(&home).unwrap_err().to_string();
    assert_eq!(error, "no cluster is running here: start one with `atoll up`, or give --target");
    write_in(&home, &cluster(7)).unwrap();
    assert_eq!(find_in(&home).unwrap(), cluster(7));
    let text = fs::read_to_string(home.join("cluster.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        json,
        json!({
            "grpc": "http://127.0.0.1:50051",
            "chain_id": 31337,
            "pid": 7,
            "metrics": "http://127.0.0.1:9090",
        })
    );
    assert!(is_own_file("cluster.json") && is_own_file("last_cut") && !is_own_file("beacon"));
    remove_in(&home, 8);
    assert!(find_in(&home).is_ok(), "another process's file stays");
    remove_in(&home, 7);
    assert!(find_in(&home).is_err());
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "nothing is left");
    remove_in(&home, 7);
}

#[test]
fn a_broken_file_is_named() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("cluster.json");
    for content in ["", "{}", "nonsense", r#"{"grpc":7,"chain_id":1,"pid":1}"#, "\u{0}"] {
        fs::write(&path, content).unwrap();
        let error = format!("{:#}", find_in(place.path()).unwrap_err());
        assert!(error.contains("does not say where a cluster is"), "{error}");
        assert!(error.contains("cluster.json"), "{error}");
    }
    fs::write(&path, vec![b' '; 1 << 20]).unwrap();
    assert!(format!("{:#}", find_in(place.path()).unwrap_err()).contains("the limit is"));
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(format!("{:#}", find_in(place.path()).unwrap_err()).contains("cannot read"));
}

#[test]
fn a_target_that_is_given_comes_first() {
    let place = tempfile::tempdir().unwrap();
    let find = |target: Option<&str>| {
        Target { target: target.map(Into::into), ..Target::default() }
            .find_from(place.path().to_owned())
    };
    assert!(find(None).is_err());
    write_in(place.path(), &cluster(7)).unwrap();
    let found = find(None).unwrap();
    assert_eq!((found.url.as_str(), found.pid), ("http://127.0.0.1:50051", Some(7)));
    let found = find(Some("example.org:443/")).unwrap();
    assert_eq!((found.url.as_str(), found.pid), ("http://example.org:443", None));
    for nonsense in ["", " ", "/", "http://", "ftp://host", "https://"] {
        assert!(find(Some(nonsense)).is_err(), "{nonsense:?}");
    }
}

#[test]
fn the_newest_cut_seen() {
    let place = tempfile::tempdir().unwrap();
    let found = |url: &str| Found {
        url: url.into(),
        pid: None,
        home: place.path().to_owned(),
        tls: Default::default(),
    };
    let (one, other) = (found("http://one"), found("http://other"));
    assert_eq!(one.last_cut(), 0);
    one.saw_cut(0);
    one.saw_cut(7);
    one.saw_cut(5);
    assert_eq!((one.last_cut(), other.last_cut()), (7, 0));
    one.forget_cut();
    assert_eq!(one.last_cut(), 0);
    one.saw_cut(9);
    write_in(place.path(), &cluster(7)).unwrap();
    assert_eq!(one.last_cut(), 0, "another cluster counts from the start");
    fs::write(place.path().join("last_cut"), "nonsense").unwrap();
    assert_eq!(one.last_cut(), 0);
    one.saw_cut(1);
    assert_eq!(one.last_cut(), 1);
}
