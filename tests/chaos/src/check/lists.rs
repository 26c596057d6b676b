//! Lists: what was appended is there, once, in one order, and whoever reads sees the beginning of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Found};
use crate::history::{Action, At, End, History, Op, Seen, Step};

/// What all reads together say about the lists.
#[derive(Default)]
pub(super) struct Versions {
    /// Each list as it came to be. Lists whose reads contradict each other are not here.
    pub lists: BTreeMap<u64, Vec<u64>>,
    /// Who appended a value: the number of the operation.
    pub writers: BTreeMap<u64, usize>,
    pub reads: Vec<Read>,
}

/// One list, as one operation found it, without what it had appended itself.
pub(super) struct Read {
    pub op: usize,
    pub list: u64,
    pub seen: Vec<u64>,
}

pub(super) fn check(history: &History, found: &mut Found) -> Versions {
    let mut versions = Versions { writers: writers(history, found), ..Versions::default() };
    versions.reads = reads(history, found);
    let mut longest: BTreeMap<u64, &Vec<u64>> = BTreeMap::new();
    let read = versions.reads.iter().map(|read| (read.list, &read.seen));
    for (list, seen) in read.chain(history.ending.lists.iter().map(|(list, seen)| (*list, seen))) {
        let known = longest.entry(list).or_insert(seen);
        if seen.len() > known.len() {
            *known = seen;
        }
    }
    let mut broken = BTreeSet::new();
    for read in &versions.reads {
        if !longest[&read.list].starts_with(&read.seen) {
            broken.insert(read.list);
            found.add(Anomaly::IncompatibleOrder, || {
                let (op, longest) = (&history.ops[read.op], &longest[&read.list]);
                format!("list {}: {:?} and {longest:?}; {op:?}", read.list, read.seen)
            });
        }
    }
    for (list, longest) in &longest {
        let last = history.ending.lists.get(list).map_or(&[][..], Vec::as_slice);
        if last != longest.as_slice() {
            found.add(Anomaly::LostAppend, || {
                format!("list {list} was {longest:?} and is {last:?}")
            });
        }
        values(history, &versions, *list, longest, found);
    }
    lost(history, found);
    intermediate(history, &versions, found);
    stale(history, &versions, found);
    let lists = longest.into_iter().filter(|(list, _)| !broken.contains(list));
    versions.lists = lists.map(|(list, longest)| (list, longest.clone())).collect();
    versions
}

fn appends(op: &Op) -> impl Iterator<Item = (u64, u64)> + '_ {
    let steps = match &op.action {
        Action::Steps(steps) if op.tx.is_some() => &steps[..],
        _ => &[],
    };
    steps.iter().filter_map(|step| match *step {
        Step::Append { list, value } => Some((list, value)),
        Step::Read { .. } => None,
    })
}

fn writers(history: &History, found: &mut Found) -> BTreeMap<u64, usize> {
    let mut writers = BTreeMap::new();
    for (number, op) in history.ops.iter().enumerate() {
        for (_, value) in appends(op) {
            if writers.insert(value, number).is_some() {
                found.add(Anomaly::Malformed, || format!("{value} is appended twice: {op:?}"));
            }
        }
    }
    writers
}

/// What operations have read, without their own appends, which have to be at the end of it.
fn reads(history: &History, found: &mut Found) -> Vec<Read> {
    let mut reads = Vec::new();
    for (number, op) in history.ops.iter().enumerate() {
        let (Action::Steps(steps), End::Ok(Seen::Lists(lists))) = (&op.action, &op.end) else {
            continue;
        };
        let mut seen = lists.iter();
        let mut own: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for step in steps {
            let list = match *step {
                Step::Append { list, value } => {
                    own.entry(list).or_default().push(value);
                    continue;
                }
                Step::Read { list } => list,
            };
            let Some(seen) = seen.next() else {
                found.add(Anomaly::Malformed, || format!("fewer lists than reads: {op:?}"));
                break;
            };
            let own = own.get(&list).map_or(&[][..], Vec::as_slice);
            match seen.strip_suffix(own) {
                Some(before) => reads.push(Read { op: number, list, seen: before.to_vec() }),
                None => found.add(Anomaly::OwnAppendMissing, || format!("{op:?}")),
            }
        }
    }
    reads
}

/// Every value is there once, and its transaction took effect.
fn values(history: &History, versions: &Versions, list: u64, values: &[u64], found: &mut Found) {
    let mut once = BTreeSet::new();
    for value in values {
        if !once.insert(value) {
            found.add(Anomaly::DuplicateAppend, || format!("{value} in list {list}: {values:?}"));
        }
        let Some(writer) = versions.writers.get(value).map(|writer| &history.ops[*writer]) else {
            found.add(Anomaly::Garbage, || format!("{value} in list {list}"));
            continue;
        };
        if !appends(writer).any(|append| append == (list, *value)) {
            found.add(Anomaly::Garbage, || format!("{value} in list {list}: {writer:?}"));
        }
        if !history.took_effect(writer) {
            found.add(Anomaly::AbortedRead, || format!("{value} in list {list}: {writer:?}"));
        }
    }
}

/// What took effect is there at the end.
fn lost(history: &History, found: &mut Found) {
    let sets: BTreeMap<u64, BTreeSet<u64>> = history
        .ending
        .lists
        .iter()
        .map(|(id, list)| (*id, list.iter().copied().collect()))
        .collect();
    for op in history.ops.iter().filter(|op| history.took_effect(op)) {
        for (list, value) in appends(op) {
            if !sets.get(&list).is_some_and(|list| list.contains(&value)) {
                found.add(Anomaly::LostAppend, || format!("{value} to list {list}: {op:?}"));
            }
        }
    }
}

/// Nobody sees the first of two appends of one transaction without the second.
fn intermediate(history: &History, versions: &Versions, found: &mut Found) {
    for read in &versions.reads {
        let Some(writer) = read.seen.last().and_then(|last| versions.writers.get(last)) else {
            continue;
        };
        let own: Vec<_> = appends(&history.ops[*writer])
            .filter_map(|(list, value)| (list == read.list).then_some(value))
            .collect();
        if *writer != read.op && own.last() != read.seen.last() {
            found.add(Anomaly::IntermediateRead, || {
                format!("{:?} of {:?}", read.seen, history.ops[*writer])
            });
        }
    }
}

/// A transaction sees what was acknowledged before it began. Calls do not have to: they run at a
/// settled cut.
fn stale(history: &History, versions: &Versions, found: &mut Found) {
    // For each list: when so many of its values had been acknowledged.
    let mut acknowledged: BTreeMap<u64, Vec<(At, u64)>> = BTreeMap::new();
    for op in &history.ops {
        if matches!(op.end, End::Ok(_)) {
            for (list, value) in appends(op) {
                acknowledged.entry(list).or_default().push((op.ended, value));
            }
        }
    }
    for read in &versions.reads {
        let op = &history.ops[read.op];
        let Some(acknowledged) = acknowledged.get(&read.list).filter(|_| op.tx.is_some()) else {
            continue;
        };
        let before = acknowledged.iter().filter(|(at, _)| *at < op.begun);
        if let Some((at, value)) = before.clone().find(|(_, value)| !read.seen.contains(value)) {
            found.add(Anomaly::StaleRead, || {
                format!("{value}, acknowledged at {at}, is not in list {}: {op:?}", read.list)
            });
        }
    }
}
