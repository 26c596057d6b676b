//! Each account is a register that only rises: a nonce, or what a purse was paid.

use std::collections::BTreeMap;

use atoll_types::Address;

use super::{Anomaly, Found};
use crate::history::{Action, At, End, History, Op, Seen};

/// Something that has certainly, or possibly, raised a register.
struct Rise {
    client: u32,
    begun: At,
    /// When it was acknowledged, if it was.
    acknowledged: Option<At>,
    nonce: u64,
    wei: u64,
}

pub(super) fn check(history: &History, found: &mut Found) {
    let mut rises: BTreeMap<Address, Vec<Rise>> = BTreeMap::new();
    let mut paid: BTreeMap<Address, u64> = BTreeMap::new();
    for op in &history.ops {
        let Some(tx) = &op.tx else { continue };
        let done = matches!(op.end, End::Ok(_) | End::Reverted);
        let may = done || history.ending.receipts.contains_key(&tx.hash);
        let rise = |nonce, wei| Rise {
            client: op.client,
            begun: op.begun,
            acknowledged: done.then_some(op.ended),
            nonce,
            wei,
        };
        if may {
            rises.entry(tx.sender).or_default().push(rise(tx.nonce + 1, 0));
        }
        if let Action::Pay { to, wei } = op.action
            && history.took_effect(op)
        {
            rises.entry(to).or_default().push(rise(0, wei));
            *paid.entry(to).or_default() += wei;
        }
    }
    let mut reads: BTreeMap<Address, Vec<(&Op, u64, u64)>> = BTreeMap::new();
    for op in &history.ops {
        if let (Action::Account(of), End::Ok(Seen::Account { nonce, balance })) =
            (&op.action, &op.end)
        {
            reads.entry(*of).or_default().push((op, *nonce, *balance));
        }
    }
    for (address, mut reads) in reads {
        let purse = history.world.purses.contains(&address);
        let rises = rises.get(&address).map_or(&[][..], Vec::as_slice);
        for (op, nonce, balance) in &reads {
            let (lowest, highest) = bounds(rises, op);
            let balance = if purse { *balance } else { 0 };
            if *nonce < lowest.0 || *nonce > highest.0 {
                found.add(Anomaly::OutOfBounds, || {
                    format!("nonce {nonce} of {address}, from {} to {}", lowest.0, highest.0)
                });
            }
            if balance < lowest.1 || balance > highest.1 {
                found.add(Anomaly::OutOfBounds, || {
                    format!("{address} holds {balance}, from {} to {}", lowest.1, highest.1)
                });
            }
        }
        went_back(address, purse, &mut reads, found);
    }
    for purse in &history.world.purses {
        let held = history.ending.purses.get(purse).copied().unwrap_or_default();
        let due = paid.get(purse).copied().unwrap_or_default();
        if held != due {
            found.add(Anomaly::WrongBalance, || format!("{purse} holds {held}, was paid {due}"));
        }
    }
}

/// The lowest and the highest nonce and balance that a read may show: what was acknowledged before it
/// began, what was begun before it ended. A payment counts as acknowledged for who made it: other
/// clients do not know its cut, and may see the purse's shard before it.
fn bounds(rises: &[Rise], read: &Op) -> ((u64, u64), (u64, u64)) {
    let (mut lowest, mut highest) = ((0, 0), (0, 0));
    for rise in rises {
        let before = rise.acknowledged.is_some_and(|at| at < read.begun);
        if before {
            lowest.0 = lowest.0.max(rise.nonce);
        }
        if before && rise.client == read.client {
            lowest.1 += rise.wei;
        }
        if rise.begun < read.ended {
            highest.0 = highest.0.max(rise.nonce);
            highest.1 += rise.wei;
        }
    }
    (lowest, highest)
}

/// A read that begins after another has ended does not show less.
fn went_back(address: Address, purse: bool, reads: &mut [(&Op, u64, u64)], found: &mut Found) {
    let mut ended: Vec<_> =
        reads.iter().map(|(op, nonce, balance)| (op.ended, *nonce, *balance)).collect();
    ended.sort_by_key(|(at, ..)| *at);
    reads.sort_by_key(|(op, ..)| op.begun);
    let mut ended = ended.into_iter().peekable();
    let mut seen = (0, 0);
    for (op, nonce, balance) in reads {
        while let Some((_, nonce, balance)) = ended.next_if(|(at, ..)| *at < op.begun) {
            seen = (seen.0.max(nonce), seen.1.max(balance));
        }
        if *nonce < seen.0 || purse && *balance < seen.1 {
            found.add(Anomaly::WentBack, || {
                format!("{address} has ({nonce}, {balance}) after {seen:?}: {op:?}")
            });
        }
    }
}
