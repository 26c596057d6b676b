//! How a shard's state is opened, captured and closed: what it is besides the entries of its index
//! stands in one [`Rest`], in the marker of a clean stop as in a snapshot.

use std::{collections::BTreeMap, sync::Arc};

use atoll_commit::{Owner, Touched};
use atoll_store::{
    Index, Item, Log, OnEntry, Replay, Snapshot, Snapshots, StoreError, read_snapshot,
};
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
    /// Bytes of log since the last snapshot.
    tail_bytes: u64,
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
        let genesis = genesis_of(config);
        let none =
            snapshots.map_or(Ok(true), |found| Ok::<_, StoreError>(found.list()?.is_empty()))?;
        let marker = index.take_clean()?;
        let stopped = marker.as_deref().and_then(|bytes| decode::<Rest>(bytes).ok());
        // A record damaged at the end looks like one that a crash has torn; after a clean stop it is not.
        if let (Some(marker), Some(stop)) = (&marker, &stopped)
            && stop.next > log.next()
        {
            // The next start has to know too.
            index.mark_clean(marker)?;
            let (last, indexed) = (log.next() - 1, stop.next - 1);
            return Err(OpenError::LogLost { last, indexed });
        }
        if log.next() == 1 && none {
            log.append(&encode(&Record::Genesis { digest: genesis }))?;
            log.sync()?;
        }
        if log.first() == 1 && log.next() > 1 {
            check_genesis(log, genesis)?;
        }
        if let Some(stop) = stopped.filter(|stop| stop.next == log.next()) {
            check_rest(&stop, genesis)?;
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
            early: BTreeMap::new(),
            roots,
            wrong_root: None,
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
        let mut damaged = Vec::new();
        let start = match snapshots {
            Some(snapshots) => snapshots.newest_whole(log, &mut |snapshot, error| {
                tracing::warn!(%error, "a snapshot is damaged; using the one before it");
                damaged.push(snapshot.clone());
            })?,
            None => None,
        };
        index.wipe()?;
        let (mut core, from) = match &start {
            Some((snapshot, _)) => Self::load(config, snapshot, index)?,
            None => (Self::new(config, index)?, 2),
        };
        core.tail_bytes = 0;
        log.replay(from, &mut |number, bytes| -> Result<(), OpenError> {
            let failed = |reason| OpenError::Record { number, reason };
            let record: Record = decode(bytes).map_err(|e| failed(e.to_string()))?;
            core.replay(record).map_err(|e| OpenError::Replay { number, reason: e.to_string() })?;
            if let Some(wrong) = core.wrong_root.take() {
                return Err(wrong.into());
            }
            core.roots.catch_up()?;
            core.tail_bytes += bytes.len() as u64;
            if core.values.waiting() > 100_000 {
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
        for (snapshot, snapshots) in damaged.iter().zip(snapshots.into_iter().cycle()) {
            let aside = snapshots.set_aside(snapshot)?;
            tracing::warn!(path = %aside.display(), "the damaged snapshot was moved here");
        }
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
            early: BTreeMap::new(),
            roots: Roots::new(config.owner.shard, &config.tree)?,
            wrong_root: None,
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
        let rest = read_rest(snapshot, &mut put)?;
        check_rest(&rest, genesis_of(config))?;
        let next = rest.next;
        match Self::whole(config, rest, index, 0)? {
            Some(core) => Ok((core, next)),
            None => {
                let reason = "its values have another root than it says".to_owned();
                Err(OpenError::Snapshot { path: snapshot.path.clone(), reason })
            }
        }
    }

    /// Puts everything that waits into the index, at once.
    fn flush(&mut self) -> Result<(), StoreError> {
        if let Some(entries) = self.values.take_entries() {
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
            tail_bytes,
        }
    }

    /// The state as it is now, before log record number `next`. To be released when it was written.
    pub(crate) fn capture(&mut self, next: u64) -> Captured {
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

/// Reads what a snapshot says, and hands its entries on.
pub fn read_rest(snapshot: &Snapshot, entry: OnEntry<'_>) -> Result<Rest, OpenError> {
    let mut meta = Vec::new();
    read_snapshot(&snapshot.path, &mut |item| -> Result<(), StoreError> {
        match item {
            Item::Meta(piece) => meta.extend_from_slice(piece),
            Item::Entry(key, value) => entry(key, value)?,
        }
        Ok(())
    })?;
    let path = snapshot.path.clone();
    let rest: Rest = decode(&meta)
        .map_err(|e| OpenError::Snapshot { path: path.clone(), reason: e.to_string() })?;
    if rest.next != snapshot.number {
        let reason = format!("it says that record {} follows it", rest.next);
        return Err(OpenError::Snapshot { path, reason });
    }
    Ok(rest)
}

/// The digest of what a shard's chain begins with.
pub fn genesis_of(config: &CoreConfig) -> B256 {
    let atoll_commit::OwnerConfig { chain_id, shard, placement, .. } = &config.owner;
    digest("atoll/genesis", &(chain_id, shard, placement, &config.genesis, &*config.accounts))
}

fn check_rest(rest: &Rest, expected: B256) -> Result<(), OpenError> {
    let found = rest.genesis;
    if found == expected { Ok(()) } else { Err(OpenError::OtherGenesis { found, expected }) }
}

fn check_genesis(log: &dyn Log, expected: B256) -> Result<(), OpenError> {
    let mut found = None;
    log.visit(1, &mut |_, bytes| {
        found = decode::<Record>(bytes).ok();
        std::ops::ControlFlow::Break(())
    })?;
    match found {
        Some(Record::Genesis { digest }) if digest == expected => Ok(()),
        Some(Record::Genesis { digest: found }) => Err(OpenError::OtherGenesis { found, expected }),
        _ => Err(OpenError::Record { number: 1, reason: "it is not a genesis record".into() }),
    }
}
