use alloy_primitives::{Address, Bytes, U256};
use atoll_types::{Basic, CodeRef, Executed, KECCAK_EMPTY, StateKey, StateValue, Write};
use revm::{
    context::{Transaction, TxEnv, result::ExecutionResult},
    state::{Account, EvmState},
};

use crate::{
    Effects,
    db::{Db, EMPTY_ACCOUNT, Seen},
    env::Settings,
};

/// The receipt's content for what revm gives.
pub(crate) fn executed(result: ExecutionResult, gas_price: u128) -> Executed {
    let status = result.is_success();
    let gas_used = result.tx_gas_used();
    let contract = result.created_address();
    let (logs, output) = match result {
        ExecutionResult::Success { logs, output, .. } => (logs, output.into_data()),
        // revm hands out no logs of its own in these cases; those of precompiles do not count.
        ExecutionResult::Revert { output, .. } => (Vec::new(), output),
        ExecutionResult::Halt { .. } => (Vec::new(), Bytes::new()),
    };
    Executed {
        status,
        gas_used,
        effective_gas_price: gas_price,
        logs,
        contract,
        output: contract.map_or(output, |_| Bytes::new()),
    }
}

/// Compares revm's state after a transaction with what the transaction found. Asks the view for keys
/// that are written without having been read, so that more keys may be missing after it.
pub(crate) fn collect(
    db: &mut Db<'_>,
    state: &EvmState,
    tx: &TxEnv,
    settings: &Settings,
    executed: Executed,
) -> Effects {
    let mut writes = Vec::new();
    let mut codes = Vec::new();
    let mut destroyed = false;
    for (address, account) in state {
        if account.is_touched() {
            destroyed |= account.is_selfdestructed();
            collect_account(db, *address, account, &mut writes, &mut codes);
        }
    }
    writes.sort_unstable_by_key(|(key, _)| *key);
    codes.sort_unstable();
    codes.dedup();
    let gas = U256::from(executed.gas_used);
    let base_fee = settings.block.basefee;
    let price = tx.effective_gas_price(base_fee.into());
    let fee = if settings.pays_coinbase {
        U256::ZERO
    } else {
        gas * U256::from(price.saturating_sub(base_fee.into()))
    };
    let burned = if destroyed {
        // A balance that is destroyed leaves no other trace than that it is gone.
        lost(db, state).wrapping_sub(fee)
    } else {
        let blobs = U256::from(tx.total_blob_gas()) * U256::from(settings.blob_base_fee());
        gas * U256::from(base_fee) + blobs
    };
    Effects { executed, writes, codes, fee, burned }
}

fn collect_account(
    db: &mut Db<'_>,
    address: Address,
    account: &Account,
    writes: &mut Vec<Write>,
    codes: &mut Vec<Bytes>,
) {
    let (old, code) = seen(db, address);
    let basic = basic_after(account);
    if basic != old {
        db.use_changed(address);
        writes.push((StateKey::Basic(address), StateValue::Basic(basic)));
    }
    if let Some(code) = code_after(account, code, db.keeps_empty()) {
        writes.push((StateKey::Code(address), StateValue::Code(code)));
        let added = account.info.code.as_ref().filter(|code| !code.is_empty());
        if code.hash != KECCAK_EMPTY && code.hash != EMPTY_ACCOUNT {
            codes.extend(added.map(|code| code.original_bytes()));
        }
    }
    if account.is_selfdestructed() {
        return;
    }
    for (slot, word) in account.changed_storage_slots() {
        let key = StateKey::Slot(address, code.incarnation, *slot);
        // revm takes the slots of a new account to be zero, without a look.
        let value = StateValue::Slot(word.present_value);
        if !account.is_created() || db.read_for_write(key) != value {
            writes.push((key, value));
        }
    }
}

/// What the transaction found at an address.
fn seen(db: &Db<'_>, address: Address) -> (Basic, CodeRef) {
    let seen = db.log.accounts.get(&address);
    let basic = seen.map(Seen::basic).unwrap_or_default();
    (basic, seen.map(|seen| seen.code).unwrap_or_default())
}

fn basic_after(account: &Account) -> Basic {
    if account.is_selfdestructed() {
        return Basic::default();
    }
    Basic { nonce: account.info.nonce, balance: account.info.balance }
}

/// The new code reference, if it changes.
fn code_after(account: &Account, old: CodeRef, keeps_empty: bool) -> Option<CodeRef> {
    if account.is_selfdestructed() {
        // Under EIP-6780 only an account of this same transaction is destroyed, which leaves no
        // slots, and no record to change. Under older rules the slots have to be voided.
        let incarnation = old.incarnation.saturating_add(1);
        return (old.hash != KECCAK_EMPTY).then_some(CodeRef { hash: KECCAK_EMPTY, incarnation });
    }
    let hash = match account.info.code_hash {
        KECCAK_EMPTY if account.info.is_empty() && keeps_empty => EMPTY_ACCOUNT,
        // It exists for other reasons now, and perhaps not for ever.
        KECCAK_EMPTY if !account.info.is_empty() && old.hash == EMPTY_ACCOUNT => EMPTY_ACCOUNT,
        hash => hash,
    };
    (hash != old.hash).then_some(CodeRef { hash, ..old })
}

/// By how much all balances together have fallen.
fn lost(db: &Db<'_>, state: &EvmState) -> U256 {
    let touched = state.iter().filter(|(_, account)| account.is_touched());
    touched.fold(U256::ZERO, |sum, (address, account)| {
        sum.wrapping_add(seen(db, *address).0.balance).wrapping_sub(basic_after(account).balance)
    })
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use revm::state::AccountInfo;

    use super::*;

    #[test]
    fn destroying_an_account_that_had_code_voids_its_slots() {
        let old = CodeRef { hash: B256::repeat_byte(1), incarnation: 4 };
        let info = AccountInfo::default().with_code_hash(old.hash);
        let mut account = Account::from(info).with_touched_mark();
        assert_eq!(code_after(&account, old, false), None);
        account.mark_selfdestruct();
        let voided = CodeRef { hash: KECCAK_EMPTY, incarnation: 5 };
        assert_eq!(code_after(&account, old, false), Some(voided));
        assert_eq!(basic_after(&account), Basic::default());
        // One that lives and dies in the same transaction leaves nothing to void.
        assert_eq!(code_after(&account, voided, false), None);
    }
}
