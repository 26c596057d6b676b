//! What was acknowledged is there at the end, once, and says the same.

use std::collections::BTreeMap;

use super::{Anomaly, Found};
use crate::history::{End, History};

pub(super) fn check(history: &History, found: &mut Found) {
    let mut by_nonce = BTreeMap::new();
    for op in &history.ops {
        let Some(tx) = &op.tx else { continue };
        let last = history.ending.receipts.get(&tx.hash);
        match &op.end {
            End::Ok(_) | End::Reverted if op.told.is_empty() => {
                found.add(Anomaly::Malformed, || format!("{op:?} has no receipt"));
            }
            End::Ok(_) | End::Reverted if last.is_none() => {
                found.add(Anomaly::LostAck, || format!("{op:?}"));
            }
            End::Refused if last.is_some() => {
                found.add(Anomaly::RefusedTookEffect, || format!("{op:?}, at last {last:?}"));
            }
            _ => {}
        }
        let Some((succeeded, content)) = last else { continue };
        let other_end = match op.end {
            End::Ok(_) => !succeeded,
            End::Reverted => *succeeded,
            End::Refused | End::Unknown => false,
        };
        if other_end || op.told.iter().any(|told| told != content) {
            found.add(Anomaly::ChangedReceipt, || format!("{op:?}, at last {content}"));
        }
        if let Some(other) = by_nonce.insert((tx.sender, tx.nonce), tx.hash)
            && other != tx.hash
        {
            found.add(Anomaly::NonceTwice, || format!("{tx:?} and {other}"));
        }
    }
    // The nonces that were used are those below the last one.
    let mut used: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for (sender, nonce) in by_nonce.into_keys() {
        used.entry(sender).or_default().push(nonce);
    }
    for (sender, last) in &history.ending.nonces {
        let used = used.remove(sender).unwrap_or_default();
        if !used.iter().copied().eq(0..*last) {
            found.add(Anomaly::WrongNonce, || {
                format!("{sender} has nonce {last} and receipts of {used:?}")
            });
        }
    }
    for sender in used.into_keys() {
        found.add(Anomaly::Malformed, || format!("{sender} has no nonce at the end"));
    }
}
