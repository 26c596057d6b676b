//! docs/metrics.md.

use std::fmt::Write as _;

use super::{Kind, table, text};

const HEAD: &str = "# Metrics

<!-- Made from crates/telemetry/src/metrics/table.rs: `cargo run --example metrics -p atoll-telemetry > docs/metrics.md`. -->

What a process of Atoll counts. [Operating](operating.md#metrics) says how to get at it. Names are those of
OpenTelemetry; the second column is what Prometheus calls them. Units are in UCUM: `s` seconds, `By` bytes,
`1` a truth or a ratio, `{…}` things that are counted. Counters begin with 0 when a process starts. A metric
is there as soon as its process has something to tell, so a process without a beacon has none of the
beacon's. `shard` is left out where a process does not know one.

";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| name | in Prometheus | kind | unit | labels | meaning |\n");
    page.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for metric in table::ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, unit, meaning) = (metric.name, metric.unit, metric.meaning);
        let (prometheus, labels) = (text::name(metric), labels.join(", "));
        // Writing to text cannot fail.
        let _ = writeln!(
            page,
            "| `{name}` | `{prometheus}` | {kind} | `{unit}` | {labels} | {meaning} |"
        );
    }
    page.push_str(
        "\nBeside them, `target_info` has the attributes of the process as labels: `service_name`, \
         `service_version`,\n`service_instance_id`, `atoll_role`, `atoll_shard`. Over OTLP they are \
         the resource. Histograms carry over OTLP\nas an exemplar the newest measurement that belongs \
         to a sampled trace.\n",
    );
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        let made = super::page();
        assert!(found == made, "make it again: cargo run --example metrics -p atoll-telemetry");
    }
}
