//! Running the checker, and saying what it found.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::{
    model::CommitModel,
    world::{Action, World},
};

/// How an exploration ended.
#[derive(Debug)]
pub struct Report {
    pub name: &'static str,
    /// States that differ.
    pub states: usize,
    /// Steps taken, repeated states included.
    pub steps: usize,
    /// Longest path.
    pub depth: usize,
    pub time: Duration,
    /// Whether every state within the bounds was visited.
    pub complete: bool,
    /// Properties that do not hold, each with a trace.
    pub broken: BTreeMap<&'static str, String>,
    /// Situations reached, each with a trace.
    pub reached: BTreeMap<&'static str, String>,
    /// Situations that were not reached.
    pub missed: Vec<&'static str>,
}

/// In which order states are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Every state, with little memory.
    Depth,
    /// Until the first property is broken, by a shortest path.
    Breadth,
}

/// Explores a model. `limit` ends it early.
pub fn explore(model: CommitModel, search: Search, threads: usize, limit: Duration) -> Report {
    let name = model.scenario.name;
    let stop = match search {
        Search::Depth => HasDiscoveries::All,
        Search::Breadth => HasDiscoveries::AnyFailures,
    };
    let builder = model.checker().threads(threads).timeout(limit).finish_when(stop);
    #[expect(clippy::disallowed_methods, reason = "it measures")]
    let began = std::time::Instant::now();
    match search {
        Search::Depth => finished(name, began, limit, builder.spawn_dfs().join()),
        Search::Breadth => finished(name, began, limit, builder.spawn_bfs().join()),
    }
}

fn finished(
    name: &'static str,
    began: std::time::Instant,
    limit: Duration,
    checker: impl Checker<CommitModel>,
) -> Report {
    let model = checker.model();
    let mut report = Report {
        name,
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        time: began.elapsed(),
        complete: began.elapsed() < limit && checker.is_done(),
        broken: BTreeMap::new(),
        reached: BTreeMap::new(),
        missed: Vec::new(),
    };
    for property in model.properties() {
        let sometimes = property.expectation == Expectation::Sometimes;
        match checker.discovery(property.name) {
            Some(path) if sometimes => {
                report.reached.insert(property.name, trace(model, path));
            }
            Some(path) => {
                report.broken.insert(property.name, trace(model, path));
            }
            None if sometimes => report.missed.push(property.name),
            None => {}
        }
    }
    // A search for the first broken property ends there.
    report.complete &= report.broken.is_empty();
    report
}

/// A path, one step a line, and where it leads.
fn trace(model: &CommitModel, path: Path<World, Action>) -> String {
    let last = path.last_state().clone();
    let mut text = String::new();
    for (at, action) in path.into_actions().iter().enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:3}. {}", at + 1, model.format_action(action));
    }
    let _ = match model.verdict(&last) {
        Some(broken) => writeln!(text, "  => {} does not hold: {}", broken.property, broken.detail),
        None => writeln!(text, "  => {last:?}"),
    };
    text
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, states, steps, depth, time, .. } = self;
        let end = if self.complete { "all" } else { "not all" };
        let seconds = time.as_secs_f64();
        writeln!(
            f,
            "{name}: {states} states ({end}), {steps} steps, depth {depth}, {seconds:.1} s"
        )?;
        for situation in self.reached.keys() {
            writeln!(f, "  reached: {situation}")?;
        }
        for situation in &self.missed {
            writeln!(f, "  not reached: {situation}")?;
        }
        for (property, trace) in &self.broken {
            write!(f, "  {property} does not hold:\n{trace}")?;
        }
        Ok(())
    }
}
