//! What the shard's senders ran in each round, kept for whoever makes one chain of all shards.
//!
//! Of a local block its transactions are kept under its number, and the numbers of a round's blocks
//! under the round; transactions of groups under their round; all in parts. With a transaction of a local
//! block stands its receipt: under its hash is only where. Those of groups, and of payments that have
//! ended, are found by hash.

use std::collections::{BTreeMap, HashMap};

use atoll_api::state::{
    ProgressReply, Ran, RanReply, RanTx, RoundsRun, RoundsRunReply, StateError,
};
use atoll_store::StoreError;
use atoll_types::{
    Address, B256, Bytes, LocalBlock, LocalTx, Receipt, ReceiptKind, SharedTx, Tx, encode,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    core::{Core, storage},
    events::Kept,
    values::{Values, corrupt, entry_key},
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
    pub block: u64,
    pub part: u32,
    pub at: u32,
}

impl Place {
    /// A receipt is longer.
    pub const BYTES: usize = 16;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let Self { block, part, at } = self;
        (u128::from(block) << 64 | u128::from(part) << 32 | u128::from(at)).to_be_bytes()
    }

    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let all = u128::from_be_bytes(bytes);
        Self { block: (all >> 64) as u64, part: (all >> 32) as u32, at: all as u32 }
    }
}

/// The local blocks of a round.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Span {
    first: u64,
    last: u64,
}

/// A transaction of a local block. That of a payment to another shard counts until it has ended.
#[derive(Deserialize)]
struct LocalEntry {
    raw: Bytes,
    sender: Address,
    /// Entries of earlier versions have those of payments alone.
    receipt: Option<Receipt>,
}

/// The same as it is put.
#[derive(Serialize)]
struct LocalEntryRef<'a> {
    raw: &'a Bytes,
    sender: Address,
    receipt: Option<&'a Receipt>,
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
        Self { raw: tx.raw(), sender: tx.sender(), receipt: Some(receipt) }
    }
}

fn numbered(kind: u8, number: u64) -> Vec<u8> {
    entry_key(kind, &number.to_be_bytes())
}

/// The key of a part of what is kept under a number.
fn part_key(kind: u8, number: u64, part: u32) -> Vec<u8> {
    let mut key = numbered(kind, number);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

fn span_key(round: u64) -> Vec<u8> {
    numbered(b'n', round)
}

fn mark_key(round: u64) -> Vec<u8> {
    numbered(b'm', round / ROUNDS_MARKED)
}

const BLOCK: u8 = b'l';
const GROUPS: u8 = b'g';

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
        values.put(part_key(BLOCK, number, part), encode(&entries));
        // A payment to another shard has its receipt when it is known how it ended.
        let local = |(tx, _): &(&LocalTx, u32)| tx.receipt.kind == ReceiptKind::Local;
        for (tx, at) in txs.iter().zip(0..).filter(local) {
            values.place_receipt(tx.receipt.tx, Place { block: number, part, at });
        }
    }
    mark(values, block.round)
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
    let Place { block, part, at } = place;
    let entries: Option<Vec<LocalEntry>> = values.find(&part_key(BLOCK, block, part))?;
    let entry = entries.and_then(|entries| entries.into_iter().nth(at as usize));
    let receipt = entry.and_then(|entry| entry.receipt);
    let lost = || corrupt(format!("transaction {at} of part {part} of block {block} is lost"));
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
        while values.find::<Vec<GroupEntry>>(&part_key(GROUPS, round, part))?.is_some() {
            part += 1;
        }
        for (entries, part) in entries.chunks(ENTRY_TXS).zip(part..) {
            values.put(part_key(GROUPS, round, part), encode(&entries));
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
        let mut page = Page { skip: asked.skip, bytes: 0, txs: Vec::new() };
        let (mut groups, mut part) = (Vec::new(), 0);
        while let Some(more) = self.part::<GroupEntry>(GROUPS, asked.round, part)? {
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
            while let Some(entries) = self.part::<LocalEntry>(BLOCK, block, part)? {
                for LocalEntry { raw, sender, receipt } in entries {
                    if !page.add(self, raw, sender, receipt)? {
                        return Ok(RanReply { txs: page.txs, more: true });
                    }
                }
                part += 1;
            }
        }
        Ok(RanReply { txs: page.txs, more: false })
    }

    /// A part of what is kept under a number.
    fn part<T: DeserializeOwned>(
        &self,
        kind: u8,
        number: u64,
        part: u32,
    ) -> Result<Option<Vec<T>>, StateError> {
        self.values.find(&part_key(kind, number, part)).map_err(storage)
    }

    pub(crate) fn rounds_run(&self, asked: &RoundsRun) -> Result<RoundsRunReply, StateError> {
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
