//! Metrics over OTLP/gRPC, as the standard variables ask for them.

use std::{
    str::FromStr as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use atoll_telemetry::metrics::otlp::{When, request};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use tonic::{
    Request,
    metadata::{AsciiMetadataValue, MetadataKey, MetadataMap},
    transport::{Channel, Endpoint},
};

use super::{Attributes, Gatherer};

const USUAL_ENDPOINT: &str = "http://localhost:4317";
const USUAL_INTERVAL_MS: u64 = 60_000;
const USUAL_TIMEOUT_MS: u64 = 10_000;

/// What can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }
}

/// A variable of the environment.
type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Whether the variables ask for a signal: by an endpoint or by an exporter's name, and do not forbid it.
pub(super) fn is_asked(signal: Signal, variable: Variable<'_>) -> bool {
    let get = |name: &str| variable(name).filter(|value| !value.is_empty());
    let name = signal.name();
    if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return false;
    }
    match get(&format!("OTEL_{name}_EXPORTER")) {
        Some(exporter) => exporter == "otlp",
        None => of_signal(signal, "ENDPOINT", variable).is_some(),
    }
}

/// `OTEL_EXPORTER_OTLP_METRICS_…` before `OTEL_EXPORTER_OTLP_…`.
fn of_signal(signal: Signal, what: &str, variable: Variable<'_>) -> Option<String> {
    let get = |name: String| variable(&name).filter(|value| !value.is_empty());
    get(format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.name()))
        .or_else(|| get(format!("OTEL_EXPORTER_OTLP_{what}")))
}

/// Sends metrics to a collector now and then.
pub(super) struct Exporter {
    client: MetricsServiceClient<Channel>,
    headers: MetadataMap,
    interval: Duration,
    timeout: Duration,
}

impl Exporter {
    /// `None` if nobody asks for metrics.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Self>> {
        let variable: Variable<'_> = &variable;
        if !is_asked(Signal::Metrics, variable) {
            return Ok(None);
        }
        let of_metrics = |what| of_signal(Signal::Metrics, what, variable);
        let number = |name: &str, value: Option<String>, usual: u64| match value {
            Some(value) => value.parse().with_context(|| format!("{name} is {value}")),
            None => Ok(usual),
        };
        let endpoint = of_metrics("ENDPOINT").unwrap_or_else(|| USUAL_ENDPOINT.to_owned());
        let endpoint = Endpoint::from_shared(endpoint.clone())
            .with_context(|| format!("{endpoint} is no URL"))?;
        let timeout = number("the timeout", of_metrics("TIMEOUT"), USUAL_TIMEOUT_MS)?;
        let interval = variable("OTEL_METRIC_EXPORT_INTERVAL");
        let interval = number("OTEL_METRIC_EXPORT_INTERVAL", interval, USUAL_INTERVAL_MS)?;
        Ok(Some(Self {
            client: MetricsServiceClient::new(endpoint.connect_lazy()),
            headers: headers(&of_metrics("HEADERS").unwrap_or_default())?,
            interval: Duration::from_millis(interval.max(1)),
            timeout: Duration::from_millis(timeout),
        }))
    }

    /// Exports for as long as it is polled. A collector that refuses or is away costs metrics and nothing
    /// else, and is complained of once.
    pub async fn run(mut self, gatherer: Gatherer, resource: Attributes) {
        let start_ns = since_1970_ns();
        let mut beat = tokio::time::interval(self.interval);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            beat.tick().await;
            gatherer.gather().await;
            let when = When { start_ns, now_ns: since_1970_ns() };
            let mut message = Request::new(request(resource.pairs(), when));
            *message.metadata_mut() = self.headers.clone();
            message.set_timeout(self.timeout);
            let sent = self.client.export(message);
            let result = match tokio::time::timeout(self.timeout, sent).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(status)) => Err(status.to_string()),
                Err(late) => Err(late.to_string()),
            };
            match result {
                Ok(()) => failed = false,
                Err(reason) if !failed => {
                    tracing::warn!(reason, "metrics are not exported; trying on");
                    failed = true;
                }
                Err(_) => {}
            }
        }
    }
}

/// `key=value` pairs with commas between.
fn headers(text: &str) -> anyhow::Result<MetadataMap> {
    let mut headers = MetadataMap::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (key, value) = pair.split_once('=').context("headers are key=value,key=value")?;
        let key = MetadataKey::from_str(&key.trim().to_lowercase());
        let value = AsciiMetadataValue::from_str(value.trim());
        headers.insert(key.context("a header's name")?, value.context("a header's value")?);
    }
    Ok(headers)
}

fn since_1970_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(signal: Signal, variables: &[(&str, &str)]) -> bool {
        let get = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        is_asked(signal, &get)
    }

    #[test]
    fn signals_are_asked_for_by_their_own_variables_or_by_those_for_all() {
        use Signal::{Metrics, Traces};
        let (all, metrics) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT");
        assert!(!asked(Metrics, &[]) && !asked(Metrics, &[(all, "")]));
        assert!(asked(Metrics, &[(all, "http://h:1")]) && asked(Traces, &[(all, "http://h:1")]));
        let one = [(metrics, "http://h:1")];
        assert!(asked(Metrics, &one) && !asked(Traces, &one));
        let none = [(all, "http://h:1"), ("OTEL_METRICS_EXPORTER", "none")];
        assert!(!asked(Metrics, &none) && asked(Traces, &none));
        assert!(asked(Metrics, &[("OTEL_METRICS_EXPORTER", "otlp")]));
        assert!(!asked(Metrics, &[(all, "http://h:1"), ("OTEL_SDK_DISABLED", "true")]));
    }

    #[test]
    fn headers_are_pairs() {
        let found = headers("Api-Key=a b, x=1=2,").expect("they are well-formed");
        assert_eq!(found.get("api-key").and_then(|value| value.to_str().ok()), Some("a b"));
        assert_eq!(found.get("x").and_then(|value| value.to_str().ok()), Some("1=2"));
        assert!(headers("nonsense").is_err() && headers("é=1").is_err());
    }
}
