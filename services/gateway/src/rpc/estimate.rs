//! `eth_estimateGas` and `eth_createAccessList`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{Address, B256, U256};
use alloy_rpc_types_eth::TransactionRequest;
use atoll_evm::{CallEnd, CallOutcome, CallRun, TX_GAS_LIMIT_CAP};
use atoll_types::{KeySet, StateKey};
use serde_json::{Value, json};

use super::Shared;
use super::account::succeeded;
use super::error::Failure;
use super::params::{Asked, Params, call_request};
use super::quantity;
use crate::call::{Known, Patch};

/// How far an estimate may be above what is needed, in thousandths. As in geth.
const TOLERANCE: u64 = 15;
/// Gas that a call with value hands to its callee besides.
const STIPEND: u64 = 2_300;
/// Times that an access list is tried before the last one is told.
const LISTS: usize = 8;

impl Shared {
    pub async fn estimate_gas(&self, params: &Params) -> Result<Value, Failure> {
        let (request, asked, patch) = self.read_call(params).await?;
        Ok(quantity(self.estimate(&request, &asked, patch).await?))
    }

    /// The least gas limit with which a request succeeds, or a little more.
    pub async fn estimate(
        &self,
        request: &TransactionRequest,
        asked: &Asked,
        patch: Patch,
    ) -> Result<u64, Failure> {
        let mut high = request.gas.filter(|gas| *gas >= 21_000).unwrap_or(TX_GAS_LIMIT_CAP);
        high = high.min(TX_GAS_LIMIT_CAP).min(self.ledger.limits.call_gas);
        high = high.min(self.affordable(request, asked, &patch).await?);
        let patch = Arc::new(patch);
        let mut known = self.known(patch);
        let result = self.with_gas(request, asked, high, &mut known).await?;
        let used = match result.outcome {
            CallOutcome::Done(result)
                if matches!(result.end, CallEnd::Halted { out_of_gas: true, .. }) =>
            {
                return Err(exceeds(high));
            }
            outcome => succeeded(outcome)?.gas_used,
        };
        if self.suffices(request, asked, used, &mut known).await? {
            return Ok(used);
        }
        let mut low = used;
        let likely = (used + STIPEND) * 64 / 63;
        if likely < high {
            match self.suffices(request, asked, likely, &mut known).await? {
                true => high = likely,
                false => low = likely,
            }
        }
        while low + 1 < high && (high - low) * 1_000 > high * TOLERANCE {
            let middle = low.midpoint(high).min(low * 2);
            match self.suffices(request, asked, middle, &mut known).await? {
                true => high = middle,
                false => low = middle,
            }
        }
        Ok(high)
    }

    /// The most gas that the sender can pay for.
    async fn affordable(
        &self,
        request: &TransactionRequest,
        asked: &Asked,
        patch: &Patch,
    ) -> Result<u64, Failure> {
        let price = request.gas_price.or(request.max_fee_per_gas).unwrap_or_default();
        let value = request.value.unwrap_or_default();
        let Some(from) = request.from.filter(|_| price > 0 || !value.is_zero()) else {
            return Ok(u64::MAX);
        };
        let have = self.basic(asked, from, patch).await?;
        let Some(left) = have.checked_sub(value) else {
            return Err(Failure::server(format!(
                "insufficient funds for gas * price + value: address {from} have {have} want {value}"
            )));
        };
        if price == 0 {
            return Ok(u64::MAX);
        }
        let gas = (left / U256::from(price)).saturating_to::<u64>();
        if gas < 21_000 { Err(exceeds(gas)) } else { Ok(gas) }
    }

    async fn with_gas(
        &self,
        request: &TransactionRequest,
        asked: &Asked,
        gas: u64,
        known: &mut Known,
    ) -> Result<CallRun, Failure> {
        self.run(call_request(request, gas), asked.point, known).await
    }

    async fn suffices(
        &self,
        request: &TransactionRequest,
        asked: &Asked,
        gas: u64,
        known: &mut Known,
    ) -> Result<bool, Failure> {
        let run = self.with_gas(request, asked, gas, known).await?;
        Ok(matches!(&run.outcome, CallOutcome::Done(result) if result.end == CallEnd::Success))
    }

    pub async fn create_access_list(&self, params: &Params) -> Result<Value, Failure> {
        let (mut request, asked, patch) = self.read_call(params).await?;
        let gas = request.gas.unwrap_or(TX_GAS_LIMIT_CAP).min(self.ledger.limits.call_gas);
        let mut known = self.known(Arc::new(patch));
        let (from, to) = (request.from.unwrap_or_default(), request.to.and_then(|to| to.into_to()));
        let coinbase = asked.point.env.coinbase;
        for _ in 0..LISTS {
            let run = self.with_gas(&request, &asked, gas, &mut known).await?;
            let list = access_list(&run.used, &[from, to.unwrap_or(from), coinbase]);
            if request.access_list.as_ref() != Some(&list) {
                request.access_list = Some(list);
                continue;
            }
            let mut answer = json!({ "accessList": list });
            match run.outcome {
                CallOutcome::Done(result) => {
                    answer["gasUsed"] = quantity(result.gas_used);
                    match result.end {
                        CallEnd::Success => {}
                        CallEnd::Reverted => {
                            answer["error"] = json!(Failure::reverted(&result.output).message);
                        }
                        CallEnd::Halted { reason, .. } => answer["error"] = json!(reason),
                    }
                }
                outcome => return Err(succeeded(outcome).err().unwrap_or_else(Failure::no_block)),
            }
            return Ok(answer);
        }
        Err(Failure::server(format!("the access list still changes after {LISTS} runs")))
    }
}

fn exceeds(gas: u64) -> Failure {
    Failure::server(format!("gas required exceeds allowance ({gas})"))
}

/// What a run has used, without what is warm by itself.
fn access_list(used: &KeySet, warm: &[Address]) -> AccessList {
    let mut accounts: BTreeMap<Address, BTreeSet<B256>> = BTreeMap::new();
    for key in used.all() {
        let slots = accounts.entry(key.address()).or_default();
        if let StateKey::Slot(_, _, slot) = key {
            slots.insert(B256::from(*slot));
        }
    }
    let is_precompile = |address: &Address| {
        let number = U256::from_be_slice(address.as_slice());
        number <= U256::from(0x11) || number == U256::from(0x100)
    };
    let told = accounts.into_iter().filter(|(address, slots)| {
        !slots.is_empty() || !(warm.contains(address) || is_precompile(address))
    });
    let item = |(address, slots): (Address, BTreeSet<B256>)| AccessListItem {
        address,
        storage_keys: slots.into_iter().collect(),
    };
    AccessList(told.map(item).collect())
}
