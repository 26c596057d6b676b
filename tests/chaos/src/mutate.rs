//! Histories that are wrong in one place: the checker has to see it.

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

use crate::{
    check::Anomaly,
    history::{Action, End, History, Op, Seen, Step},
};

/// A way to spoil a history, and what has to be found then.
pub struct Mutation {
    pub name: &'static str,
    pub finds: Anomaly,
    /// False if this history has nothing of the kind.
    pub apply: fn(&mut History, &mut StdRng) -> bool,
}

pub const MUTATIONS: [Mutation; 12] = [
    Mutation { name: "an acknowledged receipt is gone", finds: Anomaly::LostAck, apply: lost_ack },
    Mutation { name: "a receipt changes", finds: Anomaly::ChangedReceipt, apply: changed },
    Mutation { name: "an append is gone", finds: Anomaly::LostAppend, apply: lost_append },
    Mutation { name: "an append comes again", finds: Anomaly::DuplicateAppend, apply: twice },
    Mutation { name: "a writer was refused", finds: Anomaly::AbortedRead, apply: refused },
    Mutation { name: "a read is reversed", finds: Anomaly::IncompatibleOrder, apply: reversed },
    Mutation { name: "a read is cut short", finds: Anomaly::StaleRead, apply: cut_short },
    Mutation { name: "a total is off by one", finds: Anomaly::WrongTotal, apply: total },
    Mutation { name: "a move is made again", finds: Anomaly::WrongBalance, apply: moved },
    Mutation { name: "a payment is made again", finds: Anomaly::WrongBalance, apply: paid },
    Mutation { name: "a nonce is skipped", finds: Anomaly::WrongNonce, apply: nonce },
    Mutation { name: "a register falls", finds: Anomaly::WentBack, apply: falls },
];

/// One of the operations that `which` accepts.
fn pick<'a>(
    history: &'a mut History,
    rng: &mut StdRng,
    which: impl Fn(&Op) -> bool,
) -> Option<&'a mut Op> {
    let numbers: Vec<_> = (0..history.ops.len()).filter(|n| which(&history.ops[*n])).collect();
    numbers.choose(rng).map(|number| &mut history.ops[*number])
}

fn is_done(op: &Op) -> bool {
    matches!(op.end, End::Ok(_))
}

fn appended(op: &Op) -> Option<(u64, u64)> {
    let Action::Steps(steps) = &op.action else { return None };
    steps.iter().find_map(|step| match *step {
        Step::Append { list, value } => Some((list, value)),
        Step::Read { .. } => None,
    })
}

fn lost_ack(history: &mut History, rng: &mut StdRng) -> bool {
    let op = pick(history, rng, |op| op.tx.is_some() && is_done(op));
    let hash = op.and_then(|op| op.tx).map(|tx| tx.hash);
    hash.is_some_and(|hash| history.ending.receipts.remove(&hash).is_some())
}

fn changed(history: &mut History, rng: &mut StdRng) -> bool {
    let op = pick(history, rng, |op| op.tx.is_some() && is_done(op));
    op.map(|op| op.told.push("something else".to_owned())).is_some()
}

fn lost_append(history: &mut History, rng: &mut StdRng) -> bool {
    let op = pick(history, rng, |op| is_done(op) && appended(op).is_some());
    let Some((list, value)) = op.and_then(|op| appended(op)) else { return false };
    let Some(values) = history.ending.lists.get_mut(&list) else { return false };
    values.retain(|other| *other != value);
    true
}

fn twice(history: &mut History, rng: &mut StdRng) -> bool {
    let op = pick(history, rng, |op| is_done(op) && appended(op).is_some());
    let Some((list, value)) = op.and_then(|op| appended(op)) else { return false };
    history.ending.lists.entry(list).or_default().push(value);
    true
}

fn refused(history: &mut History, rng: &mut StdRng) -> bool {
    let op = pick(history, rng, |op| is_done(op) && appended(op).is_some());
    op.map(|op| op.end = End::Refused).is_some()
}

/// The first list that an operation which appends nothing has seen.
fn first_seen(op: &mut Op) -> Option<&mut Vec<u64>> {
    match &mut op.end {
        End::Ok(Seen::Lists(lists)) if appended_nothing(&op.action) => lists.first_mut(),
        _ => None,
    }
}

fn appended_nothing(action: &Action) -> bool {
    let Action::Steps(steps) = action else { return false };
    steps.iter().all(|step| matches!(step, Step::Read { .. }))
}

fn saw(op: &Op, count: usize) -> bool {
    let End::Ok(Seen::Lists(lists)) = &op.end else { return false };
    appended_nothing(&op.action) && lists.first().is_some_and(|list| list.len() >= count)
}

fn reversed(history: &mut History, rng: &mut StdRng) -> bool {
    let op = pick(history, rng, |op| saw(op, 2));
    op.and_then(first_seen).map(|list| list.reverse()).is_some()
}

fn cut_short(history: &mut History, rng: &mut StdRng) -> bool {
    // One whose first value was acknowledged before it began.
    let written: Vec<_> = history
        .ops
        .iter()
        .filter(|op| is_done(op))
        .filter_map(|op| appended(op).map(|(_, value)| (value, op.ended)))
        .collect();
    let old = |value: u64, begun| written.iter().any(|(v, at)| *v == value && *at < begun);
    let op = pick(history, rng, |op| {
        let End::Ok(Seen::Lists(lists)) = &op.end else { return false };
        op.tx.is_some() && saw(op, 1) && old(lists[0][0], op.begun)
    });
    op.and_then(first_seen).map(Vec::clear).is_some()
}

fn total(history: &mut History, rng: &mut StdRng) -> bool {
    let op = pick(history, rng, |op| matches!(op.end, End::Ok(Seen::Balances(_))));
    let Some(Op { end: End::Ok(Seen::Balances(balances)), .. }) = op else { return false };
    let at = rng.random_range(0..balances.len());
    balances[at] += 1;
    true
}

fn moved(history: &mut History, rng: &mut StdRng) -> bool {
    let accounts = usize::from(history.world.accounts);
    let op = pick(history, rng, |op| match &op.action {
        Action::Move(step) => is_done(op) && step.amount > 0 && step.from != step.to,
        _ => false,
    });
    let Some(Op { action: Action::Move(step), .. }) = op else { return false };
    let (step, at) = (*step, |place: crate::history::Place| {
        usize::from(place.book) * accounts + usize::from(place.account)
    });
    let balances = &mut history.ending.balances;
    balances[at(step.from)] = balances[at(step.from)].wrapping_sub(step.amount);
    balances[at(step.to)] = balances[at(step.to)].wrapping_add(step.amount);
    true
}

fn paid(history: &mut History, rng: &mut StdRng) -> bool {
    let op = pick(history, rng, |op| is_done(op) && matches!(op.action, Action::Pay { .. }));
    let Some(Op { action: Action::Pay { to, wei }, .. }) = op else { return false };
    let (to, wei) = (*to, *wei);
    *history.ending.purses.entry(to).or_default() += wei;
    true
}

fn nonce(history: &mut History, rng: &mut StdRng) -> bool {
    let all: Vec<_> = history.ending.nonces.keys().copied().collect();
    let Some(sender) = all.choose(rng) else { return false };
    history.ending.nonces.entry(*sender).and_modify(|nonce| *nonce += 1);
    true
}

fn falls(history: &mut History, rng: &mut StdRng) -> bool {
    let read = |op: &Op| matches!(&op.end, End::Ok(Seen::Account { nonce, .. }) if *nonce > 0);
    let Some(op) = pick(history, rng, read) else { return false };
    let mut later = op.clone();
    (later.begun, later.ended) = (op.ended + 1, op.ended + 2);
    if let End::Ok(Seen::Account { nonce, .. }) = &mut later.end {
        *nonce -= 1;
    }
    history.ops.push(later);
    true
}
