//! How a shard's state is opened, captured and closed: what it is besides the entries of its index
//! stands in one [`Rest`], in the marker of a clean stop as in a snapshot.

use std::{collections::BTreeMap, sync::Arc};

use atoll_commit::{Owner, Touched};
use atoll_journal::{First, OpenError as Refused, check_genesis, newest_whole, open, read_rest};
use atoll_store::{Index, Log, Replay, Snapshot, Snapshots, StoreError};
use atoll_types::{B256, StateKey, StateValue, decode, digest, encode};
use serde::{Deserialize, Serialize};

use super::{Core, CoreConfig, GenesisAccount, OpenError};
use crate::{
    changes::Changes,
    events::Events,
    history::History,
    quarantine::Quarantine,
    record::Record,
    roots::{Roots, Stopped},
    traced::Traced,
    values::Values,
    view::View,
};

/// What a shard's state is besides what is found by key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Rest {
    /// Of the chain's beginning.
    pub genesis: B256,
    /// Number of the first log record that is not in it.
    pub next: u64,
    pub owner: Owner,
    anchored: u64,
    unanchored: Vec<(u64, Vec<B256>)>,
    /// Oldest first.
    dropped: Vec<(B256, String)>,
    roots: Stopped,
    quarantine: Quarantine,
    /// The oldest round of which what ran is kept.
    pub kept_from: u64,
    /// Bytes of log since the last snapshot.
    tail_bytes: u64,
}

impl atoll_journal::Rest for Rest {
    fn genesis(&self) -> B256 {
        self.genesis
    }

    fn next(&self) -> u64 {
        self.next
    }
}

/// Everything that a shard's state is at one instant, to be written beside it.
pub(crate) struct Captured {
    pub rest: Rest,
    pub view: View,
}

impl Core {
    /// Opens a shard: from the index if it was stopped cleanly, else from the newest whole snapshot
    /// and the log behind it.
    pub fn open(
        config: &CoreConfig,
        log: &mut dyn Log,
        index: Arc<dyn Index>,
        snapshots: Option<&Snapshots>,
    ) -> Result<Self, OpenError> {
        let digest = genesis_of(config);
        let first = First { digest, record: encode(&Record::Genesis { digest }), read };
        if let Some(stop) = open(log, index.as_ref(), snapshots, &first)? {
            if let Some(core) = Self::whole(config, stop, index.clone(), 1)? {
                return Ok(core);
            }
            tracing::error!(
                "the values in the index have another root than at the stop; rebuilding it"
            );
        }
        Self::rebuild(config, log, index, snapshots)
    }

    /// `None` if the values in the index have not the root that they are to have.
    /// `gap`: how many cuts must have gone by before the state at one can be read.
    fn whole(
        config: &CoreConfig,
        rest: Rest,
        index: Arc<dyn Index>,
        gap: u64,
    ) -> Result<Option<Self>, OpenError> {
        let Rest {
            genesis,
            next,
            mut owner,
            anchored,
            unanchored,
            dropped,
            roots,
            quarantine,
            kept_from,
            tail_bytes,
        } = rest;
        let Some(roots) = Roots::open(owner.shard(), &config.tree, roots, index.as_ref())? else {
            return Ok(None);
        };
        owner.limit_shared(config.owner.max_shared);
        let mut events = Events::anchored_at(anchored);
        events.number_from(next);
        unanchored.into_iter().for_each(|(n, txs)| events.add_block(n, txs));
        dropped.into_iter().for_each(|(tx, reason)| events.remember_drop(tx, reason));
        Ok(Some(Self {
            history: History::starting_at(owner.cut_number() + gap),
            touched: Touched::since(owner.cut_number()),
            owner,
            values: Values::new(index, config.cached_values),
            events,
            changes: Changes::starting_at(next),
            quarantine,
            ended_at: 0,
            development: false,
            early: BTreeMap::new(),
            traced: Traced::default(),
            roots,
            wrong_root: None,
            kept_from,
            genesis,
            tail_bytes,
        }))
    }

    fn rebuild(
        config: &CoreConfig,
        log: &mut dyn Log,
        index: Arc<dyn Index>,
        snapshots: Option<&Snapshots>,
    ) -> Result<Self, OpenError> {
        let (start, damaged) = newest_whole(snapshots, log)?;
        index.wipe()?;
        let (mut core, from) = match &start {
            Some(snapshot) => Self::load(config, snapshot, index)?,
            None => (Self::new(config, index)?, 2),
        };
        core.tail_bytes = 0;
        log.replay(from, &mut |number, bytes| -> Result<(), OpenError> {
            let failed = |reason| Refused::Record { number, reason };
            let record: Record = decode(bytes).map_err(|e| failed(e.to_string()))?;
            core.replay(record).map_err(|e| failed(e.to_string()))?;
            if let Some(wrong) = core.wrong_root.take() {
                return Err(wrong.into());
            }
            core.roots.catch_up()?;
            core.tail_bytes += bytes.len() as u64;
            if core.values.is_behind() {
                core.flush()?;
            }
            Ok(())
        })?;
        // What was due at the snapshot, if nothing came behind it.
        core.roots.catch_up()?;
        core.flush()?;
        core.events.number_from(log.next());
        core.changes = Changes::starting_at(log.next());
        core.touched = Touched::since(core.owner.cut_number());
        damaged.set_aside()?;
        Ok(core)
    }

    /// The state at the chain's beginning.
    fn new(config: &CoreConfig, index: Arc<dyn Index>) -> Result<Self, OpenError> {
        let mut core = Self {
            owner: Owner::new(config.owner.clone(), &config.genesis),
            values: Values::new(index, config.cached_values),
            history: History::default(),
            events: Events::default(),
            changes: Changes::starting_at(0),
            touched: Touched::since(0),
            quarantine: Quarantine::default(),
            ended_at: 0,
            development: false,
            early: BTreeMap::new(),
            traced: Traced::default(),
            roots: Roots::new(config.owner.shard, &config.tree)?,
            wrong_root: None,
            kept_from: 0,
            genesis: genesis_of(config),
            tail_bytes: 0,
        };
        core.begin(&config.accounts)?;
        Ok(core)
    }

    /// The state that a whole snapshot holds, and the first log record behind it.
    fn load(
        config: &CoreConfig,
        snapshot: &Snapshot,
        index: Arc<dyn Index>,
    ) -> Result<(Self, u64), OpenError> {
        let mut put = |key: &[u8], value: &[u8]| index.put(key, value);
        let rest: Rest = read_rest(snapshot, &mut put)?;
        check_genesis(&rest, genesis_of(config))?;
        let next = rest.next;
        match Self::whole(config, rest, index, 0)? {
            Some(core) => Ok((core, next)),
            None => {
                let reason = "its values have another root than it says".to_owned();
                Err(Refused::Snapshot { path: snapshot.path.clone(), reason }.into())
            }
        }
    }

    /// Puts everything that waits into the index, at once.
    fn flush(&mut self) -> Result<(), StoreError> {
        while let Some(entries) = self.values.take_entries() {
            self.values.putter().put_all(&entries)?;
            self.values.entries_put();
        }
        Ok(())
    }

    /// Bytes of log since the last snapshot, when this was opened.
    pub(crate) fn tail_bytes(&self) -> u64 {
        self.tail_bytes
    }

    fn rest(&self, next: u64, tail_bytes: u64) -> Rest {
        Rest {
            genesis: self.genesis,
            next,
            owner: self.owner.clone(),
            anchored: self.events.anchored(),
            unanchored: self.events.unanchored().iter().cloned().collect(),
            dropped: self.events.all_dropped(),
            roots: self.roots.stop(),
            quarantine: self.quarantine.clone(),
            kept_from: self.kept_from,
            tail_bytes,
        }
    }

    /// The state as it is now, before log record number `next`. To be released when it was written.
    /// What ran before round `keep` is forgotten as it is written, but for payments that have not ended.
    pub(crate) fn capture(&mut self, next: u64, keep: u64) -> Captured {
        let keep = self.owner.oldest_payment().map_or(keep, |oldest| oldest.min(keep));
        self.kept_from = self.kept_from.max(keep);
        Captured { rest: self.rest(next, 0), view: self.values.capture() }
    }

    /// Leaves the index complete and marked, so that the next start need not replay the log, whose
    /// next record would be number `next`, and which has had `tail_bytes` since the last snapshot.
    pub fn close(&mut self, next: u64, tail_bytes: u64) -> Result<(), StoreError> {
        // Entries on their way count as put only when their writer says so; put them again.
        self.values.entries_put_again()?;
        self.flush()?;
        self.values.index().mark_clean(&encode(&self.rest(next, tail_bytes)))
    }

    fn begin(&mut self, accounts: &[GenesisAccount]) -> Result<(), OpenError> {
        let here = self.owner.shard();
        let placement = self.owner.placement().clone();
        let mut state = Vec::new();
        for account in accounts.iter().filter(|a| placement.owner(&a.address) == here) {
            let basic = atoll_types::Basic { nonce: account.nonce, balance: account.balance };
            state.push((StateKey::Basic(account.address), StateValue::Basic(basic)));
            if !account.code.is_empty() {
                self.values.put_code(&account.code)?;
                let hash = alloy_primitives::keccak256(&account.code);
                let code = atoll_types::CodeRef { hash, incarnation: 0 };
                state.push((StateKey::Code(account.address), StateValue::Code(code)));
            }
            for (slot, word) in &account.storage {
                let key = StateKey::Slot(account.address, 0, *slot);
                state.push((key, StateValue::Slot(*word)));
            }
        }
        state.iter().for_each(|(key, value)| self.values.set(*key, *value));
        Ok(self.roots.begin(&state)?)
    }
}

/// The digest of what a shard's chain begins with.
pub fn genesis_of(config: &CoreConfig) -> B256 {
    let atoll_commit::OwnerConfig { chain_id, shard, placement, .. } = &config.owner;
    digest("atoll/genesis", &(chain_id, shard, placement, &config.genesis, &*config.accounts))
}

/// The digest in a record that begins a log.
fn read(record: &[u8]) -> Option<B256> {
    match decode(record) {
        Ok(Record::Genesis { digest }) => Some(digest),
        _ => None,
    }
}
