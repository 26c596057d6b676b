//! Metrics of this process: declared in [`table`], counted here, told as Prometheus' text ([`text`]) or over
//! OTLP ([`otlp`]).
//!
//! As with the tracer, the process installs the registry; without one nothing is counted and no clock is
//! read, so that a simulation runs as it would without this. What services count by themselves is written
//! here when somebody looks.

pub mod docs;
pub mod otlp;
pub mod table;
pub mod text;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use atoll_types::TraceContext;

/// Combinations of labels that one metric may have. Shards are the most that is multiplied.
const MAX_SERIES: usize = 8_192;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only rises while the process runs.
    Counter,
    Gauge,
    /// Measurements counted between bounds.
    Histogram(&'static [f64]),
}

/// The declaration of a metric.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// In UCUM.
    pub unit: &'static str,
    pub labels: &'static [&'static str],
    /// In Markdown.
    pub meaning: &'static str,
}

/// Nanoseconds of a clock that only rises.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a metric has, by the values of its labels.
pub type Series = Vec<(Vec<String>, Value)>;

type Cells = BTreeMap<Vec<String>, Arc<Cell>>;

struct Registry {
    clock: Clock,
    series: RwLock<BTreeMap<&'static str, Cells>>,
}

static REGISTRY: OnceLock<Registry> = OnceLock::new();

enum Cell {
    /// Bits of an `f64`.
    Number(AtomicU64),
    Histogram(Mutex<Counts>),
}

/// What a histogram has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Between the bounds, and above the last one.
    pub buckets: Vec<u64>,
    pub count: u64,
    pub sum: f64,
    /// The newest measurement that belongs to a sampled trace.
    pub exemplar: Option<Exemplar>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    pub trace: TraceContext,
    pub value: f64,
    /// By the registry's clock.
    pub at_ns: u64,
}

/// What one combination of labels has.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(f64),
    Histogram(Counts),
}

/// Has this process count, from now on. Only the first call has an effect.
pub fn install(clock: Clock) {
    let _ = REGISTRY.set(Registry { clock, series: RwLock::default() });
}

/// Whether anything is counted.
pub fn is_installed() -> bool {
    REGISTRY.get().is_some()
}

/// Sets a gauge, or a counter that somebody else keeps.
pub fn set(metric: &'static Metric, labels: &[String], value: f64) {
    let Some(registry) = REGISTRY.get() else { return };
    if let Some(cell) = registry.cell(metric, labels)
        && let Cell::Number(number) = &*cell
    {
        number.store(value.to_bits(), Relaxed);
    }
}

/// As [`set`], for counts of things. Above 2^53 they lose their last digits.
pub fn set_count(metric: &'static Metric, labels: &[String], count: u64) {
    set(metric, labels, count as f64);
}

/// Counts a measurement.
pub fn observe(
    metric: &'static Metric,
    labels: &[String],
    value: f64,
    trace: Option<TraceContext>,
) {
    let Some(registry) = REGISTRY.get() else { return };
    let Kind::Histogram(bounds) = metric.kind else { return };
    let Some(cell) = registry.cell(metric, labels) else { return };
    let Cell::Histogram(counts) = &*cell else { return };
    let exemplar = trace.map(|trace| Exemplar { trace, value, at_ns: (registry.clock)() });
    lock(counts).add(bounds, value, exemplar);
}

/// Everything that has been counted, in the order of the table.
pub fn read() -> Vec<(&'static Metric, Series)> {
    let Some(registry) = REGISTRY.get() else { return Vec::new() };
    let series = registry.series.read().unwrap_or_else(PoisonError::into_inner);
    let of = |metric: &&'static Metric| {
        let found = series.get(metric.name)?;
        let values = found.iter().map(|(labels, cell)| (labels.clone(), cell.read()));
        Some((*metric, values.collect()))
    };
    table::ALL.iter().filter_map(of).collect()
}

/// Nanoseconds of the registry's clock.
pub fn now_ns() -> u64 {
    REGISTRY.get().map_or(0, |registry| (registry.clock)())
}

impl Registry {
    /// `None` if the metric has as many series as it may have.
    fn cell(&self, metric: &'static Metric, labels: &[String]) -> Option<Arc<Cell>> {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        {
            let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(cell) = series.get(metric.name).and_then(|found| found.get(labels)) {
                return Some(cell.clone());
            }
        }
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        let found = series.entry(metric.name).or_default();
        if found.len() < MAX_SERIES {
            let new = || Arc::new(Cell::of(metric.kind));
            return Some(found.entry(labels.to_vec()).or_insert_with(new).clone());
        }
        let dropped = series.entry(table::SERIES_DROPPED.name).or_default();
        let label = vec![metric.name.to_owned()];
        let cell = dropped.entry(label).or_insert_with(|| Arc::new(Cell::of(Kind::Counter)));
        if let Cell::Number(number) = &**cell {
            let before = f64::from_bits(number.load(Relaxed));
            number.store((before + 1.0).to_bits(), Relaxed);
        }
        None
    }
}

impl Cell {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Counter | Kind::Gauge => Self::Number(AtomicU64::new(0.0_f64.to_bits())),
            Kind::Histogram(bounds) => Self::Histogram(Mutex::new(Counts::new(bounds))),
        }
    }

    fn read(&self) -> Value {
        match self {
            Self::Number(number) => Value::Number(f64::from_bits(number.load(Relaxed))),
            Self::Histogram(counts) => Value::Histogram(lock(counts).clone()),
        }
    }
}

impl Counts {
    fn new(bounds: &[f64]) -> Self {
        Self { buckets: vec![0; bounds.len() + 1], ..Self::default() }
    }

    fn add(&mut self, bounds: &[f64], value: f64, exemplar: Option<Exemplar>) {
        let at = bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += value;
        self.exemplar = exemplar.or(self.exemplar);
    }
}

// A count is whole whatever a thread that panicked has left.
fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Measures a time. Without a registry it reads no clock.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Timer(Option<u64>);

impl Timer {
    pub fn start() -> Self {
        Self(REGISTRY.get().map(|registry| (registry.clock)()))
    }

    /// Counts the time since the start.
    pub fn stop(
        self,
        metric: &'static Metric,
        labels: impl FnOnce() -> Vec<String>,
        trace: Option<TraceContext>,
    ) {
        if let Some(start) = self.0 {
            let time_ns = now_ns().saturating_sub(start);
            observe(metric, &labels(), time_ns as f64 / 1e9, trace);
        }
    }

    /// Counts it as a stage of a batch on a shard.
    pub fn stage(self, name: &str, shard: atoll_types::ShardId) {
        self.stop(&table::STAGE, || vec![name.to_owned(), shard.to_string()], None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_units_and_labels_are_what_conventions_allow() {
        let plain = |text: &str| {
            !text.is_empty()
                && text.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '.' | '_'))
        };
        for metric in table::ALL {
            assert!(plain(metric.name), "{}", metric.name);
            assert!(metric.labels.iter().all(|label| plain(label)), "{}", metric.name);
            let unit = metric.unit;
            let counted = unit.starts_with('{') && unit.ends_with('}');
            assert!(counted || ["s", "By", "1"].contains(&unit), "{}: {unit}", metric.name);
            assert!(metric.meaning.ends_with('.'), "{}", metric.name);
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(bounds.is_sorted() && !bounds.is_empty(), "{}", metric.name);
            }
        }
        let names = table::ALL.iter().map(|metric| metric.name);
        let distinct: std::collections::BTreeSet<_> = names.collect();
        assert_eq!(distinct.len(), table::ALL.len(), "a name stands twice");
    }

    #[test]
    fn a_measurement_falls_below_its_bound() {
        let mut counts = Counts::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 9.0] {
            counts.add(&[1.0, 2.0], value, None);
        }
        assert_eq!((counts.buckets, counts.count, counts.sum), (vec![2, 1, 1], 4, 12.0));
    }
}
