use alloy_primitives::{Address, B256, U256, map::AddressMap};
use atoll_types::{Basic, CodeRef, KECCAK_EMPTY, KeySet, StateKey, StateValue, Write};
use revm::{Database, database_interface::DBErrorMarker, state::AccountInfo};

use crate::{Bytecode, OnMissing, StateView, env, env::Settings};

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
    uses_basic: bool,
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
    missing: Vec<StateKey>,
    missing_codes: Vec<B256>,
    /// A key is missing on which the outcome depends: nothing more is worth doing.
    stop: bool,
}

/// The end of a log: what it says, sorted.
pub(crate) struct Used {
    pub keys: KeySet,
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

    /// Takes what it says and empties it.
    pub fn finish(&mut self, writes: &[Write]) -> Used {
        let mut reads = std::mem::take(&mut self.slots);
        for (address, seen) in &self.accounts {
            reads.extend(seen.uses_basic.then_some(StateKey::Basic(*address)));
            reads.extend(seen.uses_code.then_some(StateKey::Code(*address)));
        }
        env::clear(&mut self.accounts);
        self.stop = false;
        let mut used = Used {
            keys: KeySet::new(reads, writes.iter().map(|(key, _)| *key)),
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
    settings: &'v Settings,
    on_missing: OnMissing,
    pub log: Log,
    /// The account that is loaded next, if it is loaded for its nonce or balance.
    expected: Option<Address>,
}

impl<'v> Db<'v> {
    pub fn new(
        view: &'v dyn StateView,
        on_missing: OnMissing,
        settings: &'v Settings,
        log: Log,
    ) -> Self {
        Self { view, settings, on_missing, log, expected: None }
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
        let Some(seen) = self.log.accounts.get_mut(&address) else {
            self.expected = Some(address);
            return;
        };
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
        self.view.read(&key).unwrap_or_else(|| {
            self.log.lack(key, self.on_missing);
            key.absent()
        })
    }

    /// A precompile's code is never looked at, and no transaction can put any there. But where there
    /// are empty accounts it matters whether it exists.
    fn read_code(&mut self, address: Address) -> (CodeRef, bool) {
        let empty_accounts = self.settings.rules.empty_accounts || self.keeps_empty();
        if !empty_accounts && self.settings.precompiles.contains(&address) {
            return (CodeRef::default(), false);
        }
        let key = StateKey::Code(address);
        let value = self.view.read(&key).unwrap_or_else(|| {
            self.log.lack(key, self.on_missing);
            key.absent()
        });
        (value.code(), true)
    }
}

impl Database for Db<'_> {
    type Error = Missing;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, Missing> {
        self.check()?;
        let (code, uses_code) = self.read_code(address);
        let basic = self.view.read(&StateKey::Basic(address));
        let seen =
            Seen { basic: basic.map(|value| value.basic()), code, uses_basic: false, uses_code };
        let Basic { nonce, balance } = seen.basic();
        self.log.accounts.insert(address, seen);
        if self.expected == Some(address) {
            self.use_basic(address);
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
        self.log.slots.push(key);
        let Some(value) = self.view.read(&key) else {
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
