//! Logs on standard error, and traces over OTLP where the standard variables ask for them.

use anyhow::Context as _;
use opentelemetry::global;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Ends the export of traces when it is dropped.
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Installs the process's log and, if `OTEL_EXPORTER_OTLP_ENDPOINT` or its variant for traces is
    /// set, the export of traces. `RUST_LOG` filters the log, `level` is what it shows otherwise;
    /// `ATOLL_LOG=json` makes it one JSON object a line.
    ///
    /// Must be called inside of a tokio runtime.
    pub fn install(level: &str) -> anyhow::Result<Self> {
        let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(level))?;
        let registry = tracing_subscriber::registry().with(filter);
        let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        if std::env::var("ATOLL_LOG").is_ok_and(|value| value == "json") {
            registry.with(format.json()).try_init()?;
        } else {
            registry.with(format.with_target(false)).try_init()?;
        }
        let asked = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
            .into_iter()
            .any(|name| std::env::var_os(name).is_some());
        if !asked {
            return Ok(Self(None));
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .build()
            .context("cannot export traces; check OTEL_EXPORTER_OTLP_ENDPOINT")?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(Resource::builder().with_service_name("atoll").build())
            .build();
        global::set_tracer_provider(provider.clone());
        Ok(Self(Some(provider)))
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}
