//! What the shard's senders ran in each round, kept for whoever makes one chain of all shards.
//!
//! Of a local block its transactions are kept under its round and number, and the numbers of a round's
//! blocks under the round; transactions of groups under their round; all in parts. With a transaction of a
//! local block stands its receipt: under its hash is only where. Those of groups, and of payments that have
//! ended, are found by hash.
//! What a round's logs name is kept under the round too, as short hashes: who looks for few logs in many
//! rounds need not look at the others.

use std::collections::{BTreeMap, HashMap};

use atoll_api::state::{
    LogNames, ProgressReply, Ran, RanReply, RanTx, RoundsRun, RoundsRunReply, StateError, log_names,
};
use atoll_store::StoreError;
use atoll_types::{
    Address, B256, Bytes, LocalBlock, LocalTx, Receipt, ReceiptKind, SharedTx, Tx, decode, encode,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    core::{Core, storage},
    events::Kept,
    values::{RECEIPT, Values, corrupt, entry_key},
};

/// About how many bytes of transactions and receipts are answered at a time.
const REPLY_BYTES: usize = 4 << 20;
/// Transactions that are answered at a time: each is looked up while the shard waits.
const REPLY_TXS: usize = 256;
/// Rounds of one entry that says in which of them anything ran.
const ROUNDS_MARKED: u64 = 256;

/// Transactions of one entry, and about how many bytes: larger ones are slow to put.
const ENTRY_TXS: usize = 32;
const ENTRY_BYTES: usize = 64 << 10;

/// Where a transaction of a local block is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub round: u64,
    pub block: u64,
    pub part: u32,
    pub at: u32,
}

impl Place {
    /// A receipt is longer.
    pub const BYTES: usize = 24;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let Self { round, block, part, at } = self;
        let of_block = u128::from(block) << 64 | u128::from(part) << 32 | u128::from(at);
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&round.to_be_bytes());
        bytes[8..].copy_from_slice(&of_block.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, of_block @ ..] = bytes;
        let round = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let all = u128::from_be_bytes(of_block);
        Self { round, block: (all >> 64) as u64, part: (all >> 32) as u32, at: all as u32 }
    }
}

/// The local blocks of a round.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Span {
    first: u64,
    last: u64,
}

/// A transaction of a local block.
#[derive(Deserialize)]
struct LocalEntry {
    raw: Bytes,
    sender: Address,
    /// That of a payment to another shard counts until it has ended.
    receipt: Receipt,
}

/// The same as it is put.
#[derive(Serialize)]
struct LocalEntryRef<'a> {
    raw: &'a Bytes,
    sender: Address,
    receipt: &'a Receipt,
}

/// A transaction of a group.
#[derive(Serialize, Deserialize)]
struct GroupEntry {
    /// Of its group in the plan, and its own in the group.
    index: (u32, u32),
    raw: Bytes,
    sender: Address,
}

impl<'a> LocalEntryRef<'a> {
    fn of(LocalTx { tx, receipt }: &'a LocalTx) -> Self {
        Self { raw: tx.raw(), sender: tx.sender(), receipt }
    }
}

fn numbered(kind: u8, number: u64) -> Vec<u8> {
    entry_key(kind, &number.to_be_bytes())
}

/// The key of a part of what is kept of a round; of local blocks also by their number.
fn part_key(kind: u8, round: u64, block: Option<u64>, part: u32) -> Vec<u8> {
    let mut key = numbered(kind, round);
    key.extend(block.into_iter().flat_map(u64::to_be_bytes));
    key.extend_from_slice(&part.to_be_bytes());
    key
}

fn span_key(round: u64) -> Vec<u8> {
    numbered(SPAN, round)
}

fn mark_key(round: u64) -> Vec<u8> {
    numbered(MARK, round / ROUNDS_MARKED)
}

fn names_key(round: u64) -> Vec<u8> {
    numbered(NAMES, round)
}

const BLOCK: u8 = b'l';
const GROUPS: u8 = b'g';
const MARK: u8 = b'm';
const NAMES: u8 = b'w';
const SPAN: u8 = b'n';

/// Whether an entry of the index only tells what ran before a round, receipts included: nothing that is done
/// later depends on it.
pub fn is_past(kept_from: u64, key: &[u8], value: &[u8]) -> bool {
    let Some((kind, name)) = key.split_first().filter(|_| kept_from > 0) else {
        return false;
    };
    let number = || Some(u64::from_be_bytes(*name.first_chunk()?));
    match *kind {
        BLOCK | GROUPS | NAMES | SPAN => number().is_some_and(|round| round < kept_from),
        MARK => number().is_some_and(|marks| (marks + 1) * ROUNDS_MARKED <= kept_from),
        RECEIPT => match value.try_into() {
            Ok(place) => Place::from_bytes(place).round < kept_from,
            Err(_) => decode::<Kept>(value).is_ok_and(|kept| kept.cut < kept_from),
        },
        _ => false,
    }
}

/// Keeps what a local block holds.
pub(crate) fn note_block(values: &mut Values, block: &LocalBlock) -> Result<(), StoreError> {
    if block.txs.is_empty() {
        return Ok(());
    }
    let number = block.number;
    let span: Option<Span> = values.find(&span_key(block.round))?;
    let span = Span { first: span.map_or(number, |span| span.first), last: number };
    values.put(span_key(block.round), encode(&span));
    for (txs, part) in parts(&block.txs).zip(0..) {
        let entries: Vec<_> = txs.iter().map(LocalEntryRef::of).collect();
        values.put(part_key(BLOCK, block.round, Some(number), part), encode(&entries));
        // A payment to another shard has its receipt when it is known how it ended.
        let local = |(tx, _): &(&LocalTx, u32)| tx.receipt.kind == ReceiptKind::Local;
        for (tx, at) in txs.iter().zip(0..).filter(local) {
            let place = Place { round: block.round, block: number, part, at };
            values.place_receipt(tx.receipt.tx, place);
        }
    }
    let local = block.txs.iter().flat_map(|local| &local.receipt.executed.logs);
    mark(values, block.round, local.flat_map(log_names).collect())
}

/// A block's transactions as they are put together.
fn parts(mut txs: &[LocalTx]) -> impl Iterator<Item = &[LocalTx]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |local: &&LocalTx| {
            let before = bytes;
            bytes += local.tx.raw().len() + receipt_bytes(&local.receipt);
            before < ENTRY_BYTES
        };
        let count = txs.iter().take(ENTRY_TXS).take_while(fits).count();
        let part;
        (part, txs) = txs.split_at(count);
        (!part.is_empty()).then_some(part)
    })
}

/// About how large it is.
fn receipt_bytes(receipt: &Receipt) -> usize {
    let logs = receipt.executed.logs.iter();
    256 + receipt.executed.output.len() + logs.map(|l| 192 + l.data.data.len()).sum::<usize>()
}

/// The receipt of a transaction of a local block, with the cut at which what it did can be read.
pub(crate) fn receipt_in(values: &Values, place: Place) -> Result<Kept, StoreError> {
    let Place { round, block, part, at } = place;
    let key = part_key(BLOCK, round, Some(block), part);
    let entries: Option<Vec<LocalEntry>> = values.find(&key)?;
    let entry = entries.and_then(|entries| entries.into_iter().nth(at as usize));
    let lost = || corrupt(format!("transaction {at} of part {part} of block {block} is lost"));
    let receipt = entry.map(|entry| entry.receipt);
    receipt.map(|receipt| Kept { cut: receipt.round + 1, receipt }).ok_or_else(lost)
}

/// Keeps what committed groups ran of this shard's senders.
pub(crate) fn note_groups(
    values: &mut Values,
    receipts: &[Receipt],
    ended: &[SharedTx],
) -> Result<(), StoreError> {
    let bodies: HashMap<&B256, &Tx> =
        ended.iter().map(|shared| (shared.tx.hash(), &shared.tx)).collect();
    let mut rounds: BTreeMap<u64, (Vec<GroupEntry>, Vec<u32>)> = BTreeMap::new();
    for receipt in receipts {
        if let (ReceiptKind::Group(group), Some(tx)) = (receipt.kind, bodies.get(&receipt.tx)) {
            let index = (group.index, receipt.index);
            let entry = GroupEntry { index, raw: tx.raw().clone(), sender: tx.sender() };
            let (entries, names) = rounds.entry(group.round).or_default();
            entries.push(entry);
            names.extend(receipt.executed.logs.iter().flat_map(log_names));
        }
    }
    for (round, (entries, names)) in rounds {
        // Groups of one round may be decided at different cuts.
        let mut part = 0;
        while values.find::<Vec<GroupEntry>>(&part_key(GROUPS, round, None, part))?.is_some() {
            part += 1;
        }
        for (entries, part) in entries.chunks(ENTRY_TXS).zip(part..) {
            values.put(part_key(GROUPS, round, None, part), encode(&entries));
        }
        mark(values, round, names)?;
    }
    Ok(())
}

/// Notes that something ran in a round, and what its logs name.
fn mark(values: &mut Values, round: u64, names: Vec<u32>) -> Result<(), StoreError> {
    let kept: Option<Vec<u8>> = values.find(&names_key(round))?;
    if kept.is_none() || !names.is_empty() {
        let names = names_after(kept.unwrap_or_default(), names);
        values.put(names_key(round), encode(&names));
    }
    let mut marks: Vec<u8> = values.find(&mark_key(round))?.unwrap_or_default();
    marks.resize((ROUNDS_MARKED / 8) as usize, 0);
    let at = (round % ROUNDS_MARKED) as usize;
    let bit = 1 << (at % 8);
    if let Some(byte) = marks.get_mut(at / 8).filter(|byte| **byte & bit == 0) {
        *byte |= bit;
        values.put(mark_key(round), encode(&marks));
    }
    Ok(())
}

/// Names are kept sorted, four bytes each.
fn names_after(kept: Vec<u8>, mut names: Vec<u32>) -> Vec<u8> {
    names.extend(kept.as_chunks().0.iter().map(|name| u32::from_be_bytes(*name)));
    names.sort_unstable();
    names.dedup();
    names.into_iter().flat_map(u32::to_be_bytes).collect()
}

/// Whether one of each is among the names that are kept.
fn has_each(kept: &[u8], named: &[LogNames]) -> bool {
    let (kept, _) = kept.as_chunks::<4>();
    let has = |name: &u32| kept.binary_search(&name.to_be_bytes()).is_ok();
    named.iter().all(|names| names.any.iter().any(has))
}

impl Core {
    pub(crate) fn ran(&self, asked: &Ran) -> Result<RanReply, StateError> {
        self.check_kept(asked.round)?;
        let mut page = Page { skip: asked.skip, bytes: 0, txs: Vec::new() };
        let (mut groups, mut part) = (Vec::new(), 0);
        while let Some(more) = self.part::<GroupEntry>(GROUPS, asked.round, None, part)? {
            groups.extend(more);
            part += 1;
        }
        groups.sort_by_key(|entry| entry.index);
        for GroupEntry { raw, sender, .. } in groups {
            if !page.add(self, raw, sender, None)? {
                return Ok(RanReply { txs: page.txs, more: true });
            }
        }
        let span: Option<Span> = self.values.find(&span_key(asked.round)).map_err(storage)?;
        let blocks = span.map(|span| span.first..=span.last);
        for block in blocks.into_iter().flatten() {
            let mut part = 0;
            let of_block = |part| self.part::<LocalEntry>(BLOCK, asked.round, Some(block), part);
            while let Some(entries) = of_block(part)? {
                for LocalEntry { raw, sender, receipt } in entries {
                    if !page.add(self, raw, sender, Some(receipt))? {
                        return Ok(RanReply { txs: page.txs, more: true });
                    }
                }
                part += 1;
            }
        }
        Ok(RanReply { txs: page.txs, more: false })
    }

    /// A part of what is kept of a round.
    fn part<T: DeserializeOwned>(
        &self,
        kind: u8,
        round: u64,
        block: Option<u64>,
        part: u32,
    ) -> Result<Option<Vec<T>>, StateError> {
        self.values.find(&part_key(kind, round, block, part)).map_err(storage)
    }

    fn check_kept(&self, asked: u64) -> Result<(), StateError> {
        let oldest = self.kept_from;
        if asked < oldest { Err(StateError::Pruned { asked, oldest }) } else { Ok(()) }
    }

    pub(crate) fn rounds_run(&self, asked: &RoundsRun) -> Result<RoundsRunReply, StateError> {
        self.check_kept(asked.first)?;
        let most = if asked.named.is_empty() { RoundsRun::MAX } else { RoundsRun::MAX_NAMED };
        let last = asked.last.min(asked.first.saturating_add(most - 1));
        let mut rounds = Vec::new();
        let mut round = asked.first;
        while round <= last {
            let marks: Option<Vec<u8>> = self.values.find(&mark_key(round)).map_err(storage)?;
            let next = (round / ROUNDS_MARKED + 1).saturating_mul(ROUNDS_MARKED);
            let marks = marks.unwrap_or_default();
            let is_marked = |round: &u64| {
                let at = (round % ROUNDS_MARKED) as usize;
                marks.get(at / 8).is_some_and(|byte| byte & (1 << (at % 8)) != 0)
            };
            for round in (round..next.min(last.saturating_add(1))).filter(is_marked) {
                if asked.named.is_empty() || self.may_name(round, &asked.named)? {
                    rounds.push(round);
                }
            }
            if next == u64::MAX {
                break;
            }
            round = next;
        }
        Ok(RoundsRunReply { rounds })
    }

    /// Whether logs of a round may name one of each. Also so if it is not known what they name.
    fn may_name(&self, round: u64, named: &[LogNames]) -> Result<bool, StateError> {
        let kept: Option<Vec<u8>> = self.values.find(&names_key(round)).map_err(storage)?;
        Ok(kept.is_none_or(|kept| has_each(&kept, named)))
    }

    pub(crate) fn progress(&self) -> ProgressReply {
        let cut = self.owner.cut_number();
        let ended_before = self.owner.oldest_payment().unwrap_or(cut);
        ProgressReply { cut, ended_before, ended_at: self.ended_at }
    }
}

/// One answer as it grows.
struct Page {
    skip: u32,
    bytes: usize,
    txs: Vec<RanTx>,
}

impl Page {
    /// False if there is no room for it.
    fn add(
        &mut self,
        core: &Core,
        raw: Bytes,
        sender: Address,
        known: Option<Receipt>,
    ) -> Result<bool, StateError> {
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(true);
        }
        if self.txs.len() >= REPLY_TXS {
            return Ok(false);
        }
        let broken = |reason: String| StateError::Storage { reason };
        let tx = Tx::trusted(raw, sender, None).map_err(|error| broken(error.to_string()))?;
        let receipt = match known {
            Some(receipt) if receipt.kind == ReceiptKind::Local => Some(receipt),
            payment => {
                let kept = core.values.receipt(tx.hash()).map_err(storage)?;
                kept.map(|kept| kept.receipt).or(payment)
            }
        };
        let Some(receipt) = receipt else {
            return Err(broken(format!("the receipt of {} is lost", tx.hash())));
        };
        self.bytes += tx.raw().len() + receipt_bytes(&receipt);
        if self.bytes > REPLY_BYTES && !self.txs.is_empty() {
            return Ok(false);
        }
        self.txs.push(RanTx { tx, receipt });
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_found_by_what_it_names_and_not_by_half_of_it() {
        let kept = names_after(names_after(Vec::new(), vec![7, 3, 7]), vec![u32::MAX, 3, 0]);
        assert_eq!(kept.len(), 4 * 4);
        let any = |any: &[u32]| LogNames { any: any.to_vec() };
        assert!(
            has_each(&kept, &[any(&[7])]) && has_each(&kept, &[any(&[1, u32::MAX]), any(&[0])])
        );
        assert!(!has_each(&kept, &[any(&[7]), any(&[8])]));
        assert!(!has_each(&names_after(Vec::new(), Vec::new()), &[any(&[0])]));
    }
}
