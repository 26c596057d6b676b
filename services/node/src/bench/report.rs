//! Medians, spread, and how they are shown: tables in Markdown, or one JSON object.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    BenchArgs,
    figures::{Figure, Target},
    loads::{Load, Turn},
    measure::Measured,
};

/// The same thing, measured several times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
    /// In the order of the turns.
    pub values: Vec<f64>,
}

impl Spread {
    /// `None` if there is nothing, or something that is no number.
    pub fn of(values: Vec<f64>) -> Option<Self> {
        if values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = match sorted.len() % 2 {
            0 => (sorted.get(middle.checked_sub(1)?)? + upper) / 2.0,
            _ => upper,
        };
        Some(Self { median, lowest: *sorted.first()?, highest: *sorted.last()?, values })
    }

    fn text(&self, digits: usize) -> String {
        let show = |value| number(value, digits);
        match self.values.len() {
            1 => show(self.median),
            _ => format!("{} ({}–{})", show(self.median), show(self.lowest), show(self.highest)),
        }
    }

    /// Digits after the point that three figures need.
    fn digits(&self) -> usize {
        match self.lowest.abs() {
            100.0.. => 0,
            10.0.. => 1,
            _ => 2,
        }
    }
}

/// 12,345.6
fn number(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{grouped}{rest}")
}

/// A column of the table of loads: heading, name in JSON, value, digits.
type Column = (&'static str, &'static str, fn(&Measured) -> f64, usize);

const COLUMNS: &[Column] = &[
    ("TPS", "tps", |load| load.tps, 0),
    ("CPU µs", "cpu_us", |load| load.cpu_us, 0),
    ("recovery µs", "recovery_us", |load| load.recovery_us, 1),
    ("run µs", "run_us", |load| load.run_us, 1),
    ("predict µs", "predict_us", |load| load.predict_us, 1),
    ("messages", "messages", |load| load.shard_messages, 2),
    ("bytes", "bytes", |load| load.shard_bytes, 0),
    ("a group", "group", |load| load.group, 0),
    ("final p50 ms", "final_p50_ms", |load| load.final_p50, 0),
    ("p99 ms", "final_p99_ms", |load| load.final_p99, 0),
    ("resident MB", "resident_mb", |load| load.resident / 1e6, 0),
];

/// What JSON has besides.
const MORE: &[Column] = &[
    ("", "executed_tps", |load| load.executed_tps, 0),
    ("", "beacon_us", |load| load.beacon_us, 0),
    ("", "beacon_bytes", |load| load.beacon_bytes, 0),
    ("", "executed_p50_ms", |load| load.executed_p50, 0),
    ("", "cross_p50_ms", |load| load.cross_p50, 0),
    ("", "cross_p99_ms", |load| load.cross_p99, 0),
    ("", "peak_mb", |load| load.peak / 1e6, 0),
];

/// Columns that are summed over the turns.
const SUMS: &[Column] = &[
    ("wrong", "wrong", |load| load.wrong, 0),
    ("aborts", "aborts", |load| load.aborts, 0),
    ("offered", "offered", |load| load.offered, 0),
    ("refused", "refused", |load| load.refused, 0),
    ("failed", "failed", |load| load.failed, 0),
];

/// Everything that was measured.
pub struct Report<'a> {
    pub args: &'a BenchArgs,
    pub figures: &'a [&'static Figure],
    pub turns: &'a [Turn],
}

impl Report<'_> {
    /// A figure over the turns; `None` if it could not be computed in one of them.
    fn figure(&self, figure: &Figure) -> Option<Spread> {
        let values = self.turns.iter().map(|turn| (figure.value)(turn));
        Spread::of(values.collect::<Option<Vec<_>>>()?)
    }

    fn loads(&self) -> Vec<(Load, Vec<&Measured>)> {
        let first = self.turns.first().map(|turn| turn.0.keys().copied());
        let runs = |load| self.turns.iter().filter_map(|turn| turn.of(load)).collect();
        first.into_iter().flatten().map(|load| (load, runs(load))).collect()
    }

    /// Two tables in Markdown: figures, and the loads that they come from.
    pub fn markdown(&self) -> String {
        let mut out = String::from("| figure | what | target | median (lowest–highest) | |\n");
        out.push_str("| --- | --- | --- | --- | --- |\n");
        for figure in self.figures {
            let spread = self.figure(figure);
            let value = spread.as_ref().map_or("–".into(), |spread| spread.text(spread.digits()));
            let met = match spread.and_then(|spread| figure.target.met(spread.median)) {
                Some(true) => "met",
                Some(false) => "missed",
                None => "",
            };
            let (id, what, target) = (figure.id, figure.what, target(figure.target));
            // Writing to a string does not fail.
            let _ = writeln!(out, "| {id} | {what} | {target} | {value} | {met} |");
        }
        out.push_str("\n| load |");
        for (heading, ..) in COLUMNS.iter().chain(SUMS) {
            let _ = write!(out, " {heading} |");
        }
        out.push_str("\n| --- |");
        out.push_str(&" --- |".repeat(COLUMNS.len() + SUMS.len()));
        out.push('\n');
        for (load, runs) in self.loads() {
            let _ = write!(out, "| {} |", load.plan().name);
            for (_, _, value, digits) in COLUMNS {
                let spread = Spread::of(runs.iter().map(|run| value(run)).collect());
                let cell = spread.map_or("–".into(), |spread| spread.text(*digits));
                let _ = write!(out, " {cell} |");
            }
            for (_, _, value, digits) in SUMS {
                let sum = runs.iter().map(|run| value(run)).sum();
                let _ = write!(out, " {} |", number(sum, *digits));
            }
            out.push('\n');
        }
        out
    }

    /// Everything, each value of each turn.
    pub fn json(&self) -> Value {
        let figures = self.figures.iter().map(|figure| {
            let spread = self.figure(figure);
            let met = spread.as_ref().and_then(|spread| figure.target.met(spread.median));
            json!({
                "id": figure.id,
                "what": figure.what,
                "includes": figure.includes,
                "target": match figure.target {
                    Target::AtMost(most) => json!({ "at_most": most }),
                    Target::AtLeast(least) => json!({ "at_least": least }),
                    Target::None => Value::Null,
                },
                "measured": spread,
                "met": met,
            })
        });
        let loads = self.loads().into_iter().map(|(load, runs)| {
            let mut values = serde_json::Map::new();
            for (_, name, value, _) in COLUMNS.iter().chain(MORE).chain(SUMS) {
                let spread = Spread::of(runs.iter().map(|run| value(run)).collect());
                values.insert((*name).to_owned(), json!(spread));
            }
            let reasons: Vec<_> = runs.iter().map(|run| &run.reasons).collect();
            json!({ "load": load.plan().name, "measured": values, "failures": reasons })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "optimised": !cfg!(debug_assertions),
            "cores": std::thread::available_parallelism().map_or(0, |cores| cores.get()),
            "turns": self.turns.len(),
            "duration_s": self.args.duration.as_secs_f64(),
            "accounts": self.args.accounts,
            "shards": self.args.shards,
            "state_accounts": self.args.state_accounts,
            "figures": figures.collect::<Vec<_>>(),
            "loads": loads.collect::<Vec<_>>(),
        })
    }
}

/// What can be measured.
pub fn list(figures: &[&Figure]) -> String {
    let mut out = String::new();
    for figure in figures {
        let (id, what) = (figure.id, figure.what);
        let judged = match target(figure.target) {
            none if none.is_empty() => none,
            target => format!(": {target}"),
        };
        let loads = super::figures::loads_of(&[*figure]);
        let loads: Vec<_> = loads.into_iter().map(|load| load.plan().name).collect();
        // Writing to a string does not fail.
        let _ = writeln!(out, "{id}: {what}{judged}");
        let _ = writeln!(out, "    {}", figure.includes);
        let _ = writeln!(out, "    loads: {}", loads.join("; "));
    }
    out
}

fn target(target: Target) -> String {
    let digits = |value: f64| if value.fract() == 0.0 { 0 } else { 2 };
    match target {
        Target::AtMost(most) => format!("≤ {}", number(most, digits(most))),
        Target::AtLeast(least) => format!("≥ {}", number(least, digits(least))),
        Target::None => String::new(),
    }
}
