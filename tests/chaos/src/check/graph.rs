//! Whether the operations can be put into one order: a graph of who came before whom, and its
//! circles.

use std::collections::{BTreeMap, VecDeque};

use super::{Anomaly, Found, lists::Versions};
use crate::history::{End, History};

/// Why one operation came before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    /// The second one appended right behind the first one.
    Ww,
    /// The second one read what the first one had appended.
    Wr,
    /// The second one appended what the first one had not seen yet.
    Rw,
    /// The same client did them, one after the other.
    Client,
}

type Graph = Vec<Vec<(usize, Edge)>>;

/// Names of circles, the worst first: of one edge of the first kind, and any of the others.
const CIRCLES: [(Anomaly, Edge, &[Edge]); 5] = [
    (Anomaly::G0, Edge::Ww, &[Edge::Ww]),
    (Anomaly::G1c, Edge::Wr, &[Edge::Ww, Edge::Wr]),
    (Anomaly::GSingle, Edge::Rw, &[Edge::Ww, Edge::Wr]),
    (Anomaly::G2, Edge::Rw, &[Edge::Ww, Edge::Wr, Edge::Rw]),
    (Anomaly::ClientOrder, Edge::Client, &[Edge::Ww, Edge::Wr, Edge::Rw, Edge::Client]),
];

pub(super) fn check(history: &History, versions: &Versions, found: &mut Found) {
    let graph = graph(history, versions);
    for component in components(&graph) {
        if let Some((anomaly, circle)) = circle(&graph, &component) {
            found.add(anomaly, || {
                let steps = circle
                    .iter()
                    .map(|(op, edge)| format!("\n  {:?} -{edge:?}->", history.ops[*op]));
                steps.collect()
            });
        }
    }
}

fn graph(history: &History, versions: &Versions) -> Graph {
    let mut graph = vec![Vec::new(); history.ops.len()];
    let mut add = |from: Option<&usize>, to: Option<&usize>, edge| {
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            graph[*from].push((*to, edge));
        }
    };
    let writer = |value: &u64| versions.writers.get(value);
    for values in versions.lists.values() {
        for pair in values.windows(2) {
            add(writer(&pair[0]), writer(&pair[1]), Edge::Ww);
        }
    }
    for read in &versions.reads {
        let Some(values) = versions.lists.get(&read.list) else { continue };
        add(read.seen.last().and_then(writer), Some(&read.op), Edge::Wr);
        add(Some(&read.op), values.get(read.seen.len()).and_then(writer), Edge::Rw);
    }
    let mut last: BTreeMap<u32, usize> = BTreeMap::new();
    let mut numbers: Vec<usize> = (0..history.ops.len()).collect();
    numbers.sort_by_key(|number| history.ops[*number].begun);
    for number in numbers {
        let op = &history.ops[number];
        let happened = history.took_effect(op) || op.end == End::Reverted;
        // What an account held is not ordered with the rest: it is read without a cut.
        if happened && !matches!(op.action, crate::history::Action::Account(_)) {
            let before = last.insert(op.client, number);
            add(before.as_ref(), Some(&number), Edge::Client);
        }
    }
    graph
}

/// Strongly connected components of more than one operation (Tarjan), without recursion.
fn components(graph: &Graph) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let mut index = vec![NEW; graph.len()];
    let mut low = vec![0; graph.len()];
    let mut on_stack = vec![false; graph.len()];
    let (mut stack, mut next, mut found) = (Vec::new(), 0, Vec::new());
    for root in 0..graph.len() {
        if index[root] != NEW {
            continue;
        }
        let mut calls = vec![(root, 0)];
        while let Some((at, edge)) = calls.pop() {
            if edge == 0 {
                (index[at], low[at]) = (next, next);
                next += 1;
                stack.push(at);
                on_stack[at] = true;
            } else {
                // Back from the edge before.
                let child = graph[at][edge - 1].0;
                if on_stack[child] {
                    low[at] = low[at].min(low[child]);
                }
            }
            if let Some((to, _)) = graph[at].get(edge) {
                calls.push((at, edge + 1));
                if index[*to] == NEW {
                    calls.push((*to, 0));
                }
                continue;
            }
            if low[at] == index[at] {
                let mut component = Vec::new();
                while let Some(member) = stack.pop() {
                    on_stack[member] = false;
                    component.push(member);
                    if member == at {
                        break;
                    }
                }
                if component.len() > 1 {
                    found.push(component);
                }
            }
        }
    }
    found
}

/// The worst circle of a component: its operations, each with the edge to the next one.
fn circle(graph: &Graph, component: &[usize]) -> Option<(Anomaly, Vec<(usize, Edge)>)> {
    let mut inside = vec![false; graph.len()];
    component.iter().for_each(|member| inside[*member] = true);
    for (anomaly, first, others) in CIRCLES {
        for from in component {
            for (to, edge) in &graph[*from] {
                if *edge == first
                    && inside[*to]
                    && let Some(mut circle) = path(graph, &inside, *to, *from, others)
                {
                    circle.insert(0, (*from, first));
                    return Some((anomaly, circle));
                }
            }
        }
    }
    None
}

/// A shortest way over edges of some kinds.
fn path(
    graph: &Graph,
    inside: &[bool],
    from: usize,
    to: usize,
    edges: &[Edge],
) -> Option<Vec<(usize, Edge)>> {
    let mut came: BTreeMap<usize, (usize, Edge)> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        if at == to {
            let mut way = Vec::new();
            let mut step = to;
            while step != from {
                let (before, edge) = came[&step];
                way.insert(0, (before, edge));
                step = before;
            }
            return Some(way);
        }
        for (next, edge) in &graph[at] {
            if inside[*next] && edges.contains(edge) && *next != from && !came.contains_key(next) {
                came.insert(*next, (at, *edge));
                queue.push_back(*next);
            }
        }
    }
    None
}
