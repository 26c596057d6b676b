//! What the shard's senders ran in each round, kept for whoever makes one chain of all shards.
//!
//! Of a local block its transactions are kept under its round and number, and the numbers of a round's
//! blocks under the round; transactions of groups under their round; all in parts. Receipts are found by hash.

use std::collections::{BTreeMap, HashMap};

use atoll_api::state::{
    ProgressReply, Ran, RanReply, RanTx, RoundsRun, RoundsRunReply, StateError,
};
use atoll_store::StoreError;
use atoll_types::{
    Address, B256, Bytes, LocalBlock, LocalTx, Receipt, ReceiptKind, SharedTx, Tx, decode, encode,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    core::{Core, storage},
    events::Kept,
    values::{RECEIPT, Values, entry_key},
};

/// About how many bytes of transactions and receipts are answered at a time.
const REPLY_BYTES: usize = 4 << 20;
/// Transactions that are answered at a time: each is looked up while the shard waits.
const REPLY_TXS: usize = 256;
/// Rounds of one entry that says in which of them anything ran.
const ROUNDS_MARKED: u64 = 256;

/// Transactions of one entry: larger ones are slow to put.
const ENTRY_TXS: usize = 32;

/// The local blocks of a round.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Span {
    first: u64,
    last: u64,
}

/// A transaction of a local block. A payment to another shard has its receipt here until it has
/// ended.
#[derive(Serialize, Deserialize)]
struct LocalEntry {
    raw: Bytes,
    sender: Address,
    payment: Option<Receipt>,
}

/// A transaction of a group.
#[derive(Serialize, Deserialize)]
struct GroupEntry {
    /// Of its group in the plan, and its own in the group.
    index: (u32, u32),
    raw: Bytes,
    sender: Address,
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

const BLOCK: u8 = b'l';
const GROUPS: u8 = b'g';
const MARK: u8 = b'm';
const SPAN: u8 = b'n';

/// Whether an entry of the index only tells what ran before a round, receipts included: nothing that is done
/// later depends on it.
pub fn is_past(kept_from: u64, key: &[u8], value: &[u8]) -> bool {
    let Some((kind, name)) = key.split_first().filter(|_| kept_from > 0) else {
        return false;
    };
    let number = || Some(u64::from_be_bytes(*name.first_chunk()?));
    match *kind {
        BLOCK | GROUPS | SPAN => number().is_some_and(|round| round < kept_from),
        MARK => number().is_some_and(|marks| (marks + 1) * ROUNDS_MARKED <= kept_from),
        RECEIPT => decode::<Kept>(value).is_ok_and(|kept| kept.cut < kept_from),
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
    let entry = |local: &LocalTx| LocalEntry {
        raw: local.tx.raw().clone(),
        sender: local.tx.sender(),
        payment: (local.receipt.kind == ReceiptKind::Credit).then(|| local.receipt.clone()),
    };
    for (txs, part) in block.txs.chunks(ENTRY_TXS).zip(0..) {
        let entries: Vec<LocalEntry> = txs.iter().map(entry).collect();
        values.put(part_key(BLOCK, block.round, Some(number), part), encode(&entries));
    }
    mark(values, block.round)
}

/// Keeps what committed groups ran of this shard's senders.
pub(crate) fn note_groups(
    values: &mut Values,
    receipts: &[Receipt],
    ended: &[SharedTx],
) -> Result<(), StoreError> {
    let bodies: HashMap<&B256, &Tx> =
        ended.iter().map(|shared| (shared.tx.hash(), &shared.tx)).collect();
    let mut rounds: BTreeMap<u64, Vec<GroupEntry>> = BTreeMap::new();
    for receipt in receipts {
        if let (ReceiptKind::Group(group), Some(tx)) = (receipt.kind, bodies.get(&receipt.tx)) {
            let index = (group.index, receipt.index);
            let entry = GroupEntry { index, raw: tx.raw().clone(), sender: tx.sender() };
            rounds.entry(group.round).or_default().push(entry);
        }
    }
    for (round, entries) in rounds {
        // Groups of one round may be decided at different cuts.
        let mut part = 0;
        while values.find::<Vec<GroupEntry>>(&part_key(GROUPS, round, None, part))?.is_some() {
            part += 1;
        }
        for (entries, part) in entries.chunks(ENTRY_TXS).zip(part..) {
            values.put(part_key(GROUPS, round, None, part), encode(&entries));
        }
        mark(values, round)?;
    }
    Ok(())
}

/// Notes that something ran in a round.
fn mark(values: &mut Values, round: u64) -> Result<(), StoreError> {
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
                for LocalEntry { raw, sender, payment } in entries {
                    if !page.add(self, raw, sender, payment)? {
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
        let last = asked.last.min(asked.first.saturating_add(RoundsRun::MAX - 1));
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
            rounds.extend((round..next.min(last.saturating_add(1))).filter(is_marked));
            if next == u64::MAX {
                break;
            }
            round = next;
        }
        Ok(RoundsRunReply { rounds })
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
        payment: Option<Receipt>,
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
        let kept = core.values.receipt(tx.hash()).map_err(storage)?;
        let Some(receipt) = kept.map(|kept| kept.receipt).or(payment) else {
            return Err(broken(format!("the receipt of {} is lost", tx.hash())));
        };
        let logs = receipt.executed.logs.iter();
        let logs: usize = logs.map(|log| 192 + log.data.data.len()).sum();
        self.bytes += 256 + tx.raw().len() + receipt.executed.output.len() + logs;
        if self.bytes > REPLY_BYTES && !self.txs.is_empty() {
            return Ok(false);
        }
        self.txs.push(RanTx { tx, receipt });
        Ok(true)
    }
}
