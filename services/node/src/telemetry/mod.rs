//! Logs on standard error; traces and metrics over OTLP where the standard variables ask for them; metrics for
//! Prometheus.

mod calls;
mod gather;
mod otlp;
mod process;
mod resource;
mod sampling;
mod serve;

use anyhow::Context as _;
use atoll_telemetry::{begin_traces, metrics};
use opentelemetry::global;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tokio::task::JoinHandle;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub(crate) use self::{calls::Calls, serve::MetricsPort};
pub use self::{gather::Gatherer, resource::Attributes};
use crate::{config::Config, place::stopwatch};

/// Ends what is exported when it is dropped.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    resource: Attributes,
    metrics: Option<otlp::Exporter>,
    exporting: Option<JoinHandle<()>>,
}

impl Telemetry {
    /// Installs the process's log, and what the standard variables ask for. `RUST_LOG` filters the log,
    /// `level` is what it shows otherwise; `ATOLL_LOG=json` makes it one JSON object a line.
    ///
    /// Must be called inside of a tokio runtime, before the cluster starts.
    pub fn install(level: &str, config: &Config) -> anyhow::Result<Self> {
        let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(level))?;
        let registry = tracing_subscriber::registry().with(filter);
        let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        if std::env::var("ATOLL_LOG").is_ok_and(|value| value == "json") {
            registry.with(format.json()).try_init()?;
        } else {
            registry.with(format.with_target(false)).try_init()?;
        }
        let resource = Attributes::new(config, std::env::vars());
        let metrics = otlp::Exporter::new(|name| std::env::var(name).ok())
            .context("cannot export metrics; check OTEL_EXPORTER_OTLP_ENDPOINT")?;
        if metrics.is_some() {
            metrics::install(stopwatch());
        }
        let traces = match otlp::is_asked(otlp::Signal::Traces, &|name| std::env::var(name).ok()) {
            true => {
                begin_traces(sampling::rates(|name| std::env::var(name).ok())?);
                Some(traces(&resource)?)
            }
            false => None,
        };
        Ok(Self { traces, resource, metrics, exporting: None })
    }

    /// Exports what `gatherer` finds, if the variables ask for it.
    pub fn export(&mut self, gatherer: Gatherer) {
        if let Some(exporter) = self.metrics.take() {
            self.exporting = Some(tokio::spawn(exporter.run(gatherer, self.resource.clone())));
        }
    }

    /// Exports what has not been.
    pub async fn stop(&mut self) {
        if let Some(exporting) = self.exporting.take() {
            exporting.abort();
        }
        let Some(provider) = self.traces.take() else { return };
        // It blocks until the collector has answered, or does not any more.
        let stopped = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        if let Ok(Err(error)) = stopped {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

fn traces(resource: &Attributes) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .build()
        .context("cannot export traces; check OTEL_EXPORTER_OTLP_ENDPOINT")?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        // What begins a trace has been chosen before: see `Stage::submit`.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .with_resource(resource.for_traces())
        .build();
    global::set_tracer_provider(provider.clone());
    Ok(provider)
}
