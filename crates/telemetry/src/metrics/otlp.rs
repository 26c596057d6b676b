//! Metrics as OTLP says them.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric,
        NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar, metric::Data,
        number_data_point,
    },
    resource::v1::Resource,
};

use super::{Counts, Kind, Series, Value};

/// When something was measured, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// When counting began.
    pub start_ns: u64,
    pub now_ns: u64,
}

/// Everything that has been counted in a process.
pub fn request(resource: &[(String, String)], when: When) -> ExportMetricsServiceRequest {
    let attributes = resource.iter().map(|(key, value)| attribute(key, value)).collect();
    let metrics = super::read().into_iter().map(|(metric, series)| Metric {
        name: metric.name.to_owned(),
        description: metric.meaning.to_owned(),
        unit: metric.unit.to_owned(),
        metadata: Vec::new(),
        data: Some(data(metric, series, when)),
    });
    let scope = InstrumentationScope { name: "atoll".to_owned(), ..Default::default() };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes, ..Default::default() }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope),
                metrics: metrics.collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

fn data(metric: &super::Metric, series: Series, when: When) -> Data {
    let mut numbers = Vec::new();
    let mut histograms = Vec::new();
    for (labels, value) in series {
        let labels = metric.labels.iter().zip(&labels).filter(|(_, value)| !value.is_empty());
        let attributes = labels.map(|(key, value)| attribute(key, value)).collect();
        match (value, metric.kind) {
            (Value::Number(number), _) => numbers.push(NumberDataPoint {
                attributes,
                start_time_unix_nano: when.start_ns,
                time_unix_nano: when.now_ns,
                value: Some(number_data_point::Value::AsDouble(number)),
                ..Default::default()
            }),
            (Value::Histogram(counts), Kind::Histogram(bounds)) => {
                histograms.push(histogram(attributes, bounds, counts, when));
            }
            (Value::Histogram(_), _) => {}
        }
    }
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    match metric.kind {
        Kind::Counter => {
            Data::Sum(Sum { data_points: numbers, aggregation_temporality, is_monotonic: true })
        }
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers }),
        Kind::Histogram(_) => {
            Data::Histogram(Histogram { data_points: histograms, aggregation_temporality })
        }
    }
}

fn histogram(
    attributes: Vec<KeyValue>,
    bounds: &[f64],
    counts: Counts,
    when: When,
) -> HistogramDataPoint {
    let clock_ns = super::now_ns();
    let exemplars = counts.exemplar.into_iter().map(|newest| Exemplar {
        filtered_attributes: Vec::new(),
        time_unix_nano: when.now_ns.saturating_sub(clock_ns.saturating_sub(newest.at_ns)),
        span_id: newest.trace.span_id.to_be_bytes().to_vec(),
        trace_id: newest.trace.trace_id.to_be_bytes().to_vec(),
        value: Some(exemplar::Value::AsDouble(newest.value)),
    });
    HistogramDataPoint {
        attributes,
        start_time_unix_nano: when.start_ns,
        time_unix_nano: when.now_ns,
        count: counts.count,
        sum: Some(counts.sum),
        bucket_counts: counts.buckets,
        explicit_bounds: bounds.to_vec(),
        exemplars: exemplars.collect(),
        ..Default::default()
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = any_value::Value::StringValue(value.to_owned());
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..Default::default()
    }
}
