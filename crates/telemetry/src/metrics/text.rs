//! Prometheus' text format, with names as OpenTelemetry's rules for it make them.

use std::fmt::Write as _;

use super::{Counts, Kind, Metric, Value};

/// What the format is called.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The name that Prometheus knows a metric by.
pub fn name(metric: &Metric) -> String {
    let mut name = word(metric.name);
    let unit = match metric.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        "1" if metric.kind == Kind::Gauge => "_ratio",
        // Things that are counted have no unit.
        _ => "",
    };
    if !name.ends_with(unit) {
        name.push_str(unit);
    }
    if metric.kind == Kind::Counter {
        name.push_str("_total");
    }
    name
}

/// A label as Prometheus writes it.
pub fn word(text: &str) -> String {
    text.replace('.', "_")
}

/// Everything that has been counted, and the resource that it was counted in.
pub fn render(resource: &[(String, String)]) -> String {
    let mut text = String::new();
    let labels: Vec<(&str, &str)> =
        resource.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    text.push_str("# HELP target_info The process.\n# TYPE target_info gauge\n");
    line(&mut text, "target_info", &labels, 1.0);
    for (metric, series) in super::read() {
        let name = name(metric);
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let help = metric.meaning.replace('\\', "\\\\").replace('\n', " ");
        // Writing to text cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (values, value) in series {
            let labels = metric.labels.iter().copied().zip(values.iter().map(String::as_str));
            let labels: Vec<(&str, &str)> = labels.filter(|(_, value)| !value.is_empty()).collect();
            match (value, metric.kind) {
                (Value::Histogram(counts), Kind::Histogram(bounds)) => {
                    histogram(&mut text, &name, &labels, bounds, &counts);
                }
                (Value::Number(number), _) => line(&mut text, &name, &labels, number),
                (Value::Histogram(_), _) => {}
            }
        }
    }
    text
}

fn histogram(
    text: &mut String,
    name: &str,
    labels: &[(&str, &str)],
    bounds: &[f64],
    counts: &Counts,
) {
    let mut below = 0;
    let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
    for (bound, bucket) in bounds.zip(&counts.buckets) {
        below += bucket;
        let mut labels = labels.to_vec();
        labels.push(("le", &bound));
        line(text, &format!("{name}_bucket"), &labels, below as f64);
    }
    line(text, &format!("{name}_sum"), labels, counts.sum);
    line(text, &format!("{name}_count"), labels, counts.count as f64);
}

fn line(text: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    text.push_str(name);
    for (place, (key, value)) in labels.iter().enumerate() {
        text.push(if place == 0 { '{' } else { ',' });
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{}=\"{value}\"", word(key));
    }
    if !labels.is_empty() {
        text.push('}');
    }
    let _ = writeln!(text, " {value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::table;

    #[test]
    fn names_are_those_that_a_collector_would_give() {
        for (metric, expected) in [
            (&table::STAGE, "atoll_stage_duration_seconds"),
            (&table::LOG_WRITTEN, "atoll_log_written_bytes_total"),
            (&table::LOG_FULL, "atoll_log_full_ratio"),
            (&table::BEACON_BLOCKS, "atoll_beacon_blocks_total"),
            (&table::RPC, "rpc_server_call_duration_seconds"),
            (&table::PROCESS_CPU, "process_cpu_time_seconds_total"),
        ] {
            assert_eq!(name(metric), expected);
        }
    }

    #[test]
    fn lines_are_escaped_and_buckets_add_up() {
        let mut text = String::new();
        line(&mut text, "a", &[("b.c", "\"\\\n")], 0.5);
        assert_eq!(text, "a{b_c=\"\\\"\\\\\\n\"} 0.5\n");
        let counts = Counts { buckets: vec![1, 2], count: 3, sum: 2.5, exemplar: None };
        text.clear();
        histogram(&mut text, "h", &[("k", "v")], &[0.1], &counts);
        let expected = "h_bucket{k=\"v\",le=\"0.1\"} 1\nh_bucket{k=\"v\",le=\"+Inf\"} 3\n\
                        h_sum{k=\"v\"} 2.5\nh_count{k=\"v\"} 3\n";
        assert_eq!(text, expected);
    }
}
