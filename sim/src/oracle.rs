//! The serial order that follows from what was logged, run by one machine with plain revm: receipts and
//! final state have to be the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use alloy_primitives::{Address, U256};
use anyhow::Context as _;
use atoll::{config::Chain, genesis::Genesis};
use atoll_state::Record;
use atoll_tests::{
    history::{Ended, History},
    order::serial_order,
    replay::{Expected, Replay},
};
use atoll_types::{KECCAK_EMPTY, StateKey, StateValue, decode};

use crate::{client::Book, disk::Disk, faults::Counts};

/// Differences of one run that are told.
const MOST: usize = 5;
/// Letters of each.
const LETTERS: usize = 600;

/// Compares what the shards with these disks have done with one machine, and tells the clients' book
/// where they differ. All that was begun has to have ended, and all have to be stopped in good order.
/// Returns what there was that the comparison is about.
pub fn compare(chain: &Chain, disks: &[Arc<Disk>], book: &Book) -> anyhow::Result<Counts> {
    let history = history(chain, disks, book)?;
    let (steps, order) = match serial_order(&history) {
        Ok(order) => order,
        Err(error) => {
            book.violation(format!("serial-equivalence: {error:#}"));
            return Ok(Counts::default());
        }
    };
    let replay = Replay::run(&history, &steps);
    let mut found = replay.differences.clone();
    let state = state(disks)?;
    let expected = replay.accounts();
    let accounts: BTreeSet<_> = state.keys().chain(expected.keys()).collect();
    for address in accounts {
        let here = state.get(address).cloned().unwrap_or_else(absent);
        let mut there = expected.get(address).cloned().unwrap_or_else(absent);
        there.storage.retain(|_, word| !word.is_zero());
        if here != there {
            found.push(format!("account {address}: {here:?}, one machine: {there:?}"));
        }
    }
    for difference in found.into_iter().take(MOST) {
        let difference: String = difference.chars().take(LETTERS).collect();
        book.violation(format!("serial-equivalence: {difference}"));
    }
    let counts = [
        ("local", order.local),
        ("payments", order.credits),
        ("payments-back", replay.counts.returned),
        ("payments-that-waited", order.delayed),
        ("payments-with-a-group", order.travelled),
        ("groups", order.groups),
        ("in-flight", order.in_flight),
        ("late-leases", order.late),
        ("aborts", order.aborts),
        ("wrong", order.wrong),
        ("behind", order.behind),
    ];
    Ok(Counts(counts.map(|(what, count)| (what, count as u64)).into()))
}

fn history(chain: &Chain, disks: &[Arc<Disk>], book: &Book) -> anyhow::Result<History> {
    let genesis = Genesis::new(chain)?;
    let mut shards = Vec::new();
    for disk in disks {
        let records = disk.records();
        let records = records.iter().map(|bytes| decode(bytes));
        shards.push(records.collect::<Result<Vec<Record>, _>>().context("a record of a log")?);
    }
    let cuts = |records: &Vec<Record>| {
        let block = |record: &Record| match record {
            Record::Cut(block) => Some(block.clone()),
            _ => None,
        };
        records.iter().filter_map(block).collect::<Vec<_>>()
    };
    let longest = shards.iter().map(cuts).max_by_key(Vec::len).unwrap_or_default();
    let mut txs = HashMap::new();
    for (hash, told) in &*book.told.borrow() {
        let receipt = told.done.clone().with_context(|| format!("{hash} is not final"))?;
        txs.insert(*hash, Ended::new(&told.signed, receipt)?);
    }
    let accounts = genesis.accounts.iter().map(|account| (account.address, account.clone()));
    Ok(History {
        placement: chain.placement(),
        genesis: accounts.collect(),
        beacon: std::iter::once(genesis.block.clone()).chain(longest).collect(),
        shards,
        txs,
    })
}

fn absent() -> Expected {
    Expected { code_hash: KECCAK_EMPTY, ..Expected::default() }
}

/// Every account of all shards, without slots that are zero.
fn state(disks: &[Arc<Disk>]) -> anyhow::Result<BTreeMap<Address, Expected>> {
    let mut values = BTreeMap::new();
    for disk in disks {
        for (key, value) in disk.entries(b's')? {
            let key: StateKey = decode(&key[1..]).context("a key")?;
            let value: StateValue = decode(&value).context("a value")?;
            values.insert(key, value);
        }
    }
    let mut accounts: BTreeMap<Address, Expected> = BTreeMap::new();
    for (key, value) in &values {
        let code = |address| values.get(&StateKey::Code(address)).map(|value| value.code());
        let account = accounts.entry(key.address()).or_insert_with(absent);
        match (key, value) {
            (StateKey::Basic(_), StateValue::Basic(basic)) => {
                (account.nonce, account.balance) = (basic.nonce, basic.balance);
            }
            (StateKey::Code(_), StateValue::Code(code)) => account.code_hash = code.hash,
            (StateKey::Slot(address, incarnation, slot), StateValue::Slot(word)) => {
                let now = code(*address).map_or(0, |code| code.incarnation);
                if *incarnation == now && *word != U256::ZERO {
                    account.storage.insert(*slot, *word);
                }
            }
            _ => anyhow::bail!("{key:?} holds {value:?}"),
        }
    }
    Ok(accounts)
}
