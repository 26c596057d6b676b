use alloy_primitives::{
    Address, B256, Log, U256,
    map::{AddressMap, AddressSet, HashSet},
};
use revm::{
    context::{JournalEntry, JournalTr, journal::JournalInner},
    context_interface::{
        context::{SStoreResult, SelfDestructResult, StateLoad},
        journaled_state::{
            AccountInfoLoad, AccountLoad, JournalCheckpoint, JournalLoadError, TransferError,
            account::JournaledAccount,
        },
    },
    inspector::JournalExt,
    primitives::hardfork::SpecId,
    state::{Account, Bytecode, EvmState},
};

use crate::db::{Db, Missing};

type Load<T> = Result<StateLoad<T>, Missing>;
type LoadOrSkip<T> = Result<StateLoad<T>, JournalLoadError<Missing>>;
type Loaded<'a, 'v> = JournaledAccount<'a, Db<'v>, JournalEntry>;

/// revm's journal, which tells the [`Db`] when a nonce or a balance is used.
///
/// Every method that gives out an account, or moves value, says so before it goes on. Those through
/// which only code is read do not: `load_account_with_code`, and `load_account_info_skip_cold_load`
/// with `load_code`. What revm 43 does with their result depends on nonce and balance in one place,
/// the cost of a CALL with value to an empty account; see `handler::call`.
pub(crate) struct Tracked<'v> {
    pub inner: JournalInner<JournalEntry>,
    pub db: Db<'v>,
}

impl Tracked<'_> {
    fn full(&mut self, address: Address) -> Result<(), Missing> {
        self.db.use_basic(address);
        self.db.check()
    }
}

impl<'v> JournalTr for Tracked<'v> {
    type Database = Db<'v>;
    type State = EvmState;
    type JournaledAccount<'a>
        = Loaded<'a, 'v>
    where
        Self: 'a;

    fn new(db: Db<'v>) -> Self {
        Self { inner: JournalInner::new(), db }
    }

    fn db_and_state(&self) -> (&Db<'v>, &EvmState) {
        (&self.db, &self.inner.state)
    }

    fn db_and_state_mut(&mut self) -> (&mut Db<'v>, &mut EvmState) {
        (&mut self.db, &mut self.inner.state)
    }

    fn load_account(&mut self, address: Address) -> Load<&Account> {
        self.full(address)?;
        self.inner.load_account(&mut self.db, address)
    }

    fn load_account_with_code(&mut self, address: Address) -> Load<&Account> {
        self.inner.load_code(&mut self.db, address)
    }

    fn load_account_delegated(&mut self, address: Address) -> Load<AccountLoad> {
        self.full(address)?;
        self.inner.load_account_delegated(&mut self.db, address)
    }

    fn code_hash(&mut self, address: Address) -> Load<B256> {
        let account = self.load_account(address)?;
        let hash = if account.is_empty() { B256::ZERO } else { account.info.code_hash };
        Ok(StateLoad::new(hash, account.is_cold))
    }

    fn load_account_mut_skip_cold_load(
        &mut self,
        address: Address,
        skip: bool,
    ) -> LoadOrSkip<Loaded<'_, 'v>> {
        self.full(address)?;
        self.inner.load_account_mut_optional(&mut self.db, address, skip)
    }

    fn load_account_mut_optional_code(
        &mut self,
        address: Address,
        code: bool,
    ) -> Load<Loaded<'_, 'v>> {
        self.full(address)?;
        self.inner
            .load_account_mut_optional_code(&mut self.db, address, code, false)
            .map_err(JournalLoadError::unwrap_db_error)
    }

    fn load_account_info_skip_cold_load(
        &mut self,
        address: Address,
        code: bool,
        skip: bool,
    ) -> Result<AccountInfoLoad<'_>, JournalLoadError<Missing>> {
        if !code {
            self.full(address)?;
        }
        let spec = self.inner.cfg.spec;
        let load = self.inner.load_account_optional(&mut self.db, address, code, skip)?;
        let is_empty = load.state_clear_aware_is_empty(spec);
        Ok(AccountInfoLoad::new(&load.data.info, load.is_cold, is_empty))
    }

    fn selfdestruct(
        &mut self,
        address: Address,
        target: Address,
        skip: bool,
    ) -> LoadOrSkip<SelfDestructResult> {
        self.full(address)?;
        self.full(target)?;
        self.inner.selfdestruct(&mut self.db, address, target, skip)
    }

    fn transfer(
        &mut self,
        from: Address,
        to: Address,
        value: U256,
    ) -> Result<Option<TransferError>, Missing> {
        self.load_account(from)?;
        self.load_account(to)?;
        Ok(self.inner.transfer_loaded(from, to, value))
    }

    /// Cannot fail for a missing key: the database refuses the next access, and the attempt ends as
    /// missing in any case.
    fn transfer_loaded(
        &mut self,
        from: Address,
        to: Address,
        value: U256,
    ) -> Option<TransferError> {
        if !value.is_zero() {
            self.db.use_basic(from);
            self.db.use_emptiness(to);
        }
        let failed = self.inner.transfer_loaded(from, to, value);
        if failed == Some(TransferError::OverflowPayment) {
            self.db.use_basic(to);
        }
        failed
    }

    fn balance_incr(&mut self, address: Address, value: U256) -> Result<(), Missing> {
        self.full(address)?;
        self.inner.balance_incr(&mut self.db, address, value)
    }

    fn create_account_checkpoint(
        &mut self,
        caller: Address,
        address: Address,
        value: U256,
        spec: SpecId,
    ) -> Result<JournalCheckpoint, TransferError> {
        self.db.use_basic(caller);
        self.db.use_basic(address);
        // Checked with nonce and code, though it is not known of a live account.
        if self.db.has_storage(&address) {
            return Err(TransferError::CreateCollision);
        }
        self.inner.create_account_checkpoint(caller, address, value, spec)
    }

    #[expect(deprecated)]
    fn caller_accounting_journal_entry(&mut self, address: Address, old: U256, bump: bool) {
        self.db.use_basic(address);
        self.inner.caller_accounting_journal_entry(address, old, bump);
    }

    #[expect(deprecated)]
    fn nonce_bump_journal_entry(&mut self, address: Address) {
        self.db.use_basic(address);
        self.inner.nonce_bump_journal_entry(address);
    }

    fn sload_skip_cold_load(
        &mut self,
        address: Address,
        slot: U256,
        skip: bool,
    ) -> LoadOrSkip<U256> {
        self.inner.sload_assume_account_present(&mut self.db, address, slot, skip)
    }

    fn sstore_skip_cold_load(
        &mut self,
        address: Address,
        slot: U256,
        value: U256,
        skip: bool,
    ) -> LoadOrSkip<SStoreResult> {
        self.inner.sstore_assume_account_present(&mut self.db, address, slot, value, skip)
    }

    fn tload(&mut self, address: Address, slot: U256) -> U256 {
        self.inner.tload(address, slot)
    }

    fn tstore(&mut self, address: Address, slot: U256, value: U256) {
        self.inner.tstore(address, slot, value);
    }

    fn log(&mut self, log: Log) {
        self.inner.log(log);
    }

    fn take_logs(&mut self) -> Vec<Log> {
        self.inner.take_logs()
    }

    fn logs(&self) -> &[Log] {
        &self.inner.logs
    }

    fn warm_access_list(&mut self, list: AddressMap<HashSet<U256>>) {
        self.inner.warm_addresses.set_access_list(list);
    }

    fn warm_coinbase_account(&mut self, address: Address) {
        self.inner.warm_addresses.set_coinbase(address);
    }

    fn warm_precompiles(&mut self, addresses: &AddressSet) {
        self.inner.warm_addresses.set_precompile_addresses(addresses);
    }

    fn precompile_addresses(&self) -> &AddressSet {
        self.inner.warm_addresses.precompiles()
    }

    fn set_spec_id(&mut self, spec: SpecId) {
        self.inner.set_spec_id(spec);
    }

    fn set_eip7708_config(&mut self, disabled: bool, delayed_clear_disabled: bool) {
        self.inner.set_eip7708_config(disabled, delayed_clear_disabled);
    }

    fn touch_account(&mut self, address: Address) {
        self.inner.touch(address);
    }

    fn set_code_with_hash(&mut self, address: Address, code: Bytecode, hash: B256) {
        self.inner.set_code_with_hash(address, code, hash);
    }

    fn checkpoint(&mut self) -> JournalCheckpoint {
        self.inner.checkpoint()
    }

    fn checkpoint_commit(&mut self) {
        self.inner.checkpoint_commit();
    }

    fn checkpoint_revert(&mut self, checkpoint: JournalCheckpoint) {
        self.inner.checkpoint_revert(checkpoint);
    }

    fn depth(&self) -> usize {
        self.inner.depth
    }

    fn commit_tx(&mut self) {
        self.inner.commit_tx();
    }

    fn discard_tx(&mut self) {
        self.inner.discard_tx();
    }

    fn finalize(&mut self) -> EvmState {
        self.inner.finalize()
    }
}

impl JournalExt for Tracked<'_> {
    fn journal(&self) -> &[JournalEntry] {
        &self.inner.journal
    }
}
