use alloy_primitives::{Address, B256, U256, map::AddressMap};
use atoll_types::{Basic, CodeRef, KECCAK_EMPTY, KeySet, StateKey, StateValue, Write};
use revm::{Database, database_interface::DBErrorMarker, state::AccountInfo};

use crate::{
    Bytecode, OnMissing, StateView, env,
    env::Settings,
    parallel::{Dependencies, Loose, Trace, Traced},
};

/// Stands for the hash of no code at an account that exists although it is empty. Such accounts are
/// from before EIP-161; a live chain has none.
pub const EMPTY_ACCOUNT: B256 = B256::ZERO;

/// The view lacks something; what it is stands in the [`Log`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the view lacks a key")]
pub(crate) struct Missing;

impl DBErrorMarker for Missing {}

/// An account as it was when the transaction first came upon it.
#[derive(Debug)]
pub(crate) struct Seen {
    /// `None`: the view does not have it, which matters only if it is used.
    basic: Option<Basic>,
    pub code: CodeRef,
    /// Where they are from.
    traces: [Trace; 2],
    uses_basic: bool,
    /// Whether nonce and balance are used for more than whether there are any: what only gets value
    /// is the same whatever it had.
    exact: bool,
    uses_code: bool,
}

impl Seen {
    pub fn basic(&self) -> Basic {
        self.basic.unwrap_or_default()
    }
}

/// What a transaction used. Kept from one to the next for its memory.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub accounts: AddressMap<Seen>,
    slots: Vec<StateKey>,
    /// Where slots' values are from, and those of what was read only to see whether a write changes it.
    traces: Vec<Trace>,
    missing: Vec<StateKey>,
    missing_codes: Vec<B256>,
    /// A key is missing on which the outcome depends: nothing more is worth doing.
    stop: bool,
}

/// The end of a log: what it says, sorted.
pub(crate) struct Used {
    pub keys: KeySet,
    /// Only if asked for.
    pub dependencies: Dependencies,
    pub missing: Vec<StateKey>,
    pub missing_codes: Vec<B256>,
}

impl Used {
    pub fn lacks(&self) -> bool {
        !(self.missing.is_empty() && self.missing_codes.is_empty())
    }

    /// Counts a key as written if it was used at all.
    pub fn write_if_read(&mut self, key: StateKey) {
        let KeySet { reads, writes } = &mut self.keys;
        if let Ok(at) = reads.binary_search(&key) {
            reads.remove(at);
            let at = writes.partition_point(|written| *written < key);
            writes.insert(at, key);
        }
    }
}

impl Log {
    fn lack(&mut self, key: StateKey, on_missing: OnMissing) {
        self.missing.push(key);
        self.stop |= on_missing == OnMissing::Stop;
    }

    /// What the outcome depends on.
    fn dependencies(&self) -> Dependencies {
        let mut found = Dependencies::default();
        found.exact.reserve(self.traces.len() + 2 * self.accounts.len());
        found.exact.extend(&self.traces);
        for (address, seen) in &self.accounts {
            let [basic, code] = seen.traces;
            if seen.uses_basic && seen.exact {
                found.exact.push(basic);
            } else if seen.uses_basic {
                let (key, value) = (StateKey::Basic(*address), seen.basic.map(StateValue::Basic));
                found.loose.push(Loose { trace: basic, key, value });
            }
            found.exact.extend(seen.uses_code.then_some(code));
        }
        found
    }

    /// Takes what it says and empties it.
    pub fn finish(&mut self, writes: &[Write], with_dependencies: bool) -> Used {
        let dependencies =
            if with_dependencies { self.dependencies() } else { Dependencies::default() };
        self.traces.clear();
        let mut reads = std::mem::take(&mut self.slots);
        for (address, seen) in &self.accounts {
            reads.extend(seen.uses_basic.then_some(StateKey::Basic(*address)));
            reads.extend(seen.uses_code.then_some(StateKey::Code(*address)));
        }
        env::clear(&mut self.accounts);
        self.stop = false;
        let mut used = Used {
            keys: KeySet::new(reads, writes.iter().map(|(key, _)| *key)),
            dependencies,
            missing: std::mem::take(&mut self.missing),
            missing_codes: std::mem::take(&mut self.missing_codes),
        };
        used.missing.sort_unstable();
        used.missing.dedup();
        used.missing_codes.sort_unstable();
        used.missing_codes.dedup();
        used
    }
}

/// What revm reads from: a view, and the log of what was used of it.
///
/// An account comes in two keys, but revm loads it in one piece. So `basic` reads nonce and balance
/// if they are there, without counting them; whoever uses them says so before ([`Db::use_basic`]).
pub(crate) struct Db<'v> {
    view: &'v dyn StateView,
    /// The same view, if it is to be found out where values are from.
    traced: Option<&'v dyn Traced>,
    settings: &'v Settings,
    on_missing: OnMissing,
    pub log: Log,
    /// The account that is loaded next, if it is loaded for its nonce or balance, and whether that is
    /// for what they are.
    expected: Option<(Address, bool)>,
}

impl<'v> Db<'v> {
    pub fn new(
        view: &'v dyn StateView,
        traced: Option<&'v dyn Traced>,
        on_missing: OnMissing,
        settings: &'v Settings,
        log: Log,
    ) -> Self {
        Self { view, traced, settings, on_missing, log, expected: None }
    }

    fn read(&self, key: &StateKey) -> (Option<StateValue>, Trace) {
        match self.traced {
            None => (self.view.read(key), Trace::default()),
            Some(traced) => traced.trace(key),
        }
    }

    /// EIP-7610.
    pub fn has_storage(&self, address: &Address) -> bool {
        self.view.has_storage(address)
    }

    /// Whether an account that is empty exists all the same once it was touched.
    pub fn keeps_empty(&self) -> bool {
        self.settings.rules.keeps_empty()
    }

    /// Counts the account's nonce and balance as used, from now on or from when it is loaded.
    pub fn use_basic(&mut self, address: Address) {
        self.note_basic(address, true);
    }

    /// The same for one that only gets value, or of which only matters whether it is empty.
    pub fn use_emptiness(&mut self, address: Address) {
        self.note_basic(address, false);
    }

    /// Counts an account as used whose nonce or balance has changed, for no other reason.
    pub fn use_changed(&mut self, address: Address) {
        let known = self.log.accounts.get(&address).is_some_and(|seen| seen.uses_basic);
        self.note_basic(address, !known);
    }

    fn note_basic(&mut self, address: Address, exact: bool) {
        let Some(seen) = self.log.accounts.get_mut(&address) else {
            self.expected = Some((address, exact));
            return;
        };
        seen.exact |= exact;
        if !std::mem::replace(&mut seen.uses_basic, true) && seen.basic.is_none() {
            self.log.lack(StateKey::Basic(address), self.on_missing);
        }
    }

    /// An error if the attempt has to end.
    pub fn check(&self) -> Result<(), Missing> {
        if self.log.stop { Err(Missing) } else { Ok(()) }
    }

    /// The value of a key that is written without having been read, which is needed all the same:
    /// whoever hands out keys has to know of every write.
    pub fn read_for_write(&mut self, key: StateKey) -> StateValue {
        let (value, trace) = self.read(&key);
        self.log.traces.push(trace);
        value.unwrap_or_else(|| {
            self.log.lack(key, self.on_missing);
            key.absent()
        })
    }

    /// A precompile's code is never looked at, and no transaction can put any there. But where there
    /// are empty accounts it matters whether it exists.
    fn read_code(&mut self, address: Address) -> (CodeRef, Option<Trace>) {
        let empty_accounts = self.settings.rules.empty_accounts || self.keeps_empty();
        if !empty_accounts && self.settings.precompiles.contains(&address) {
            return (CodeRef::default(), None);
        }
        let key = StateKey::Code(address);
        let (value, trace) = self.read(&key);
        let value = value.unwrap_or_else(|| {
            self.log.lack(key, self.on_missing);
            key.absent()
        });
        (value.code(), Some(trace))
    }
}

impl Database for Db<'_> {
    type Error = Missing;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, Missing> {
        self.check()?;
        let (code, used_code) = self.read_code(address);
        let (basic, trace) = self.read(&StateKey::Basic(address));
        let seen = Seen {
            basic: basic.map(|value| value.basic()),
            code,
            traces: [trace, used_code.unwrap_or_default()],
            uses_basic: false,
            exact: false,
            uses_code: used_code.is_some(),
        };
        let Basic { nonce, balance } = seen.basic();
        self.log.accounts.insert(address, seen);
        if let Some((expected, exact)) = self.expected
            && expected == address
        {
            self.note_basic(address, exact);
        }
        self.check()?;
        // EIP-161: what is empty does not exist. The refund of EIP-7702 depends on it.
        let exists = nonce != 0 || !balance.is_zero() || code.hash != KECCAK_EMPTY;
        Ok(exists.then(|| AccountInfo {
            balance,
            nonce,
            code_hash: if code.hash == EMPTY_ACCOUNT { KECCAK_EMPTY } else { code.hash },
            account_id: None,
            code: None,
        }))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, Missing> {
        self.check()?;
        self.view.code(&hash).ok_or_else(|| {
            self.log.missing_codes.push(hash);
            self.log.stop = true;
            Missing
        })
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, Missing> {
        self.check()?;
        let seen = self.log.accounts.get(&address);
        let incarnation = seen.map_or(0, |seen| seen.code.incarnation);
        let key = StateKey::Slot(address, incarnation, slot);
        let (value, trace) = self.read(&key);
        self.log.slots.push(key);
        self.log.traces.push(trace);
        let Some(value) = value else {
            self.log.lack(key, self.on_missing);
            return self.check().map(|()| U256::ZERO);
        };
        Ok(value.slot())
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, Missing> {
        self.check()?;
        Ok(self.view.block_hash(number).unwrap_or_default())
    }
}
