//! Prints docs/metrics.md.

fn main() {
    print!("{}", atoll_telemetry::metrics::docs::page());
}
