//! Dashboards, rules and alerts name only metrics that the code declares, and only labels that these have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use atoll_telemetry::metrics::{Kind, table, text};

/// Words of PromQL that are no metrics. Functions are recognised by what follows them.
const WORDS: &[&str] = &["and", "or", "unless", "bool", "offset", "inf", "nan"];
/// Clauses with a list of labels.
const CLAUSES: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Labels that Prometheus adds.
const ADDED: &[&str] = &["instance", "job"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every query, with where it stands.
fn queries() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let dashboards = fs::read_dir(deploy().join("grafana/dashboards")).expect("dashboards");
    for file in dashboards {
        let path = file.expect("an entry").path();
        let board: serde_json::Value = serde_json::from_str(&read(&path)).expect("JSON");
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for panel in board["panels"].as_array().expect("panels") {
            let title = panel["title"].as_str().unwrap_or_default();
            for target in panel["targets"].as_array().expect("targets") {
                let query = target["expr"].as_str().expect("a query").to_owned();
                found.push((format!("{name}: {title}"), query));
            }
        }
        for variable in board["templating"]["list"].as_array().expect("variables") {
            if let Some(query) = variable["definition"].as_str() {
                let query = query.trim_start_matches("label_values(").replace(", shard)", "");
                found.push((format!("{name}: a variable"), query));
            }
        }
    }
    for name in ["rules.yml", "alerts.yml"] {
        // One line each: this reads no YAML.
        let text = read(&deploy().join("prometheus").join(name));
        let queries = text.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
        found.extend(queries.map(|query| (name.to_owned(), query.to_owned())));
    }
    found
}

/// Names that queries may use, with their labels.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    for metric in table::ALL {
        let name = text::name(metric);
        let labels: BTreeSet<String> =
            metric.labels.iter().map(|label| text::word(label)).collect();
        if matches!(metric.kind, Kind::Histogram(_)) {
            let mut bounded = labels.clone();
            bounded.insert("le".to_owned());
            known.insert(format!("{name}_bucket"), bounded);
            known.insert(format!("{name}_sum"), labels.clone());
            known.insert(format!("{name}_count"), labels);
        } else {
            known.insert(name, labels);
        }
    }
    known.insert("up".to_owned(), BTreeSet::new());
    let records = read(&deploy().join("prometheus/rules.yml"));
    let names = records.lines().filter_map(|line| line.trim().strip_prefix("- record: "));
    // All labels that a record has are those that its query keeps.
    let kept = ["kind", "stage"].map(str::to_owned);
    known.extend(names.map(|name| (name.to_owned(), BTreeSet::from(kept.clone()))));
    known
}

/// What a query names.
#[derive(Debug, Default, PartialEq)]
struct Named {
    metrics: Vec<String>,
    labels: Vec<String>,
}

fn names(query: &str) -> Named {
    let mut named = Named::default();
    let mut rest = query;
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let list = |text: &str| -> Vec<String> {
        let labels = text.split(',').map(str::trim).filter(|label| !label.is_empty());
        labels.map(str::to_owned).collect()
    };
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let end = rest[1..].find('"').expect("a string ends");
            rest = &rest[end + 2..];
        } else if first == '[' {
            rest = rest.split_once(']').expect("a range ends").1;
        } else if first == '{' {
            // Values may hold anything but quotes and braces.
            let (matchers, after) = rest[1..].split_once('}').expect("matchers end");
            let outside = matchers.split('"').step_by(2).collect::<String>();
            let labels =
                outside.split(',').map(|matcher| matcher.trim_end_matches(['=', '~', '!']));
            named.labels.extend(labels.filter(|label| !label.is_empty()).map(str::to_owned));
            rest = after;
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            rest = after.trim_start();
            if CLAUSES.contains(&name) {
                let (labels, after) = rest[1..].split_once(')').expect("a list ends");
                named.labels.extend(list(labels));
                rest = after;
            } else if !is_function(rest) && !WORDS.contains(&name) {
                named.metrics.push(name.to_owned());
            }
        } else if first.is_ascii_digit() {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    named
}

/// Whether what follows a name makes it a function, or an aggregation with its clause first.
fn is_function(after: &str) -> bool {
    ["(", "by (", "without ("].iter().any(|start| after.starts_with(start))
}

/// What is wrong with a query.
fn faults(query: &str) -> Vec<String> {
    let known = known();
    let Named { metrics, labels } = names(query);
    let unknown = metrics.iter().filter(|name| !known.contains_key(*name));
    let mut faults: Vec<String> = unknown.map(|name| format!("no metric {name}")).collect();
    let has = |label: &str| {
        let of = |name: &String| known.get(name).is_some_and(|labels| labels.contains(label));
        ADDED.contains(&label) || metrics.iter().any(of)
    };
    faults.extend(labels.iter().filter(|label| !has(label)).map(|l| format!("no label {l}")));
    if metrics.is_empty() {
        faults.push("no metric".to_owned());
    }
    faults
}

#[test]
fn queries_name_only_what_there_is() {
    let queries = queries();
    assert!(queries.len() > 80, "only {} queries were found", queries.len());
    for (place, query) in queries {
        let faults = faults(&query);
        assert!(faults.is_empty(), "{place}: {faults:?} in {query}");
    }
}

#[test]
fn every_alert_has_a_section_for_whoever_is_woken() {
    let alerts = read(&deploy().join("prometheus/alerts.yml"));
    let page = read(&deploy().join("../docs/operating.md"));
    let names: Vec<_> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 8);
    for name in names {
        assert!(page.contains(&format!("\n### {name}\n")), "{name} has no section");
        let link = format!("docs/operating.md#{}", name.to_lowercase());
        assert!(alerts.contains(&link), "{name} does not say where its section is");
    }
}

#[test]
fn a_wrong_name_or_label_is_found() {
    let good =
        "sum by (shard) (rate(atoll_transactions_total{kind=~\"a|b{1\",shard=\"0\"}[5m])) > 0.5";
    assert_eq!(faults(good), Vec::<String>::new());
    let both = names(good);
    assert_eq!(
        (both.metrics.len(), both.labels),
        (1, vec!["shard".into(), "kind".into(), "shard".into()])
    );
    assert_eq!(faults(&good.replace("transactions", "transaction")).len(), 4);
    assert_eq!(faults(&good.replace("kind", "sort")), ["no label sort"]);
    assert_eq!(
        faults("rate(atoll_stage_duration_seconds[1m])"),
        ["no metric atoll_stage_duration_seconds"]
    );
}
