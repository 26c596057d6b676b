//! How much gas a transaction needs, by trying it out.

use alloy_primitives::{Address, Bytes, TxKind, U256};
use anyhow::{bail, ensure};
use atoll_wire::v1::{CallOutcome, CallRequest, CallResponse};

use super::{abi, amount, client, client::Client};

/// What a plain payment costs.
const PAYMENT_GAS: u64 = 21_000;
/// Gas above what was used that a transaction gets at least: SSTORE wants over 2,300 to be left.
const SPARE_GAS: u64 = 5_000;
/// Limits that are tried out, each twice the one before.
const TRIES: u32 = 6;

/// A transaction to be tried out.
#[derive(Clone, Debug)]
pub struct Trial {
    pub from: Address,
    pub to: TxKind,
    pub value: U256,
    pub data: Bytes,
}

/// The gas limit for a transaction. What it used, which includes what it costs before it runs, and a
/// quarter more: refunds hide up to a fifth of what it needs at its height, each nested call keeps
/// back 1/64, and the state may be another by then. Then it is tried out whether that is enough.
pub async fn gas_limit(client: &Client, trial: &Trial) -> anyhow::Result<u64> {
    let used = run(client, trial, 0).await?;
    check(trial, &used)?;
    if let Some(exact) = exact(trial, used.gas_used) {
        return Ok(exact);
    }
    let mut limit = with_margin(used.gas_used);
    for _ in 0..TRIES {
        if run(client, trial, limit).await?.outcome() == CallOutcome::Succeeded {
            return Ok(limit);
        }
        limit = limit.saturating_mul(2);
    }
    bail!("cannot estimate the gas: {} are not enough; give --gas", limit / 2)
}

/// A payment that runs no code costs the same whatever happens.
pub(super) fn exact(trial: &Trial, used: u64) -> Option<u64> {
    (used == PAYMENT_GAS && trial.data.is_empty()).then_some(PAYMENT_GAS)
}

pub(super) fn with_margin(used: u64) -> u64 {
    used.saturating_add(used / 4).saturating_add(SPARE_GAS)
}

async fn run(client: &Client, trial: &Trial, gas: u64) -> anyhow::Result<CallResponse> {
    let request = CallRequest {
        from: client::bytes(trial.from.as_slice()),
        to: match &trial.to {
            TxKind::Call(to) => client::bytes(to.as_slice()),
            TxKind::Create => Default::default(),
        },
        data: trial.data.0.clone(),
        value: client::bytes(&trial.value.to_be_bytes_trimmed_vec()),
        gas,
        min_cut: 0,
    };
    client.call(request).await
}

fn check(trial: &Trial, reply: &CallResponse) -> anyhow::Result<()> {
    let send_anyway = "give --gas to send it all the same";
    match reply.outcome() {
        CallOutcome::Succeeded => {
            ensure!(reply.gas_used > 0, "the gateway says that the transaction uses no gas");
            Ok(())
        }
        CallOutcome::Reverted => {
            let reason = super::show::printable(&abi::revert_reason(&reply.return_data));
            bail!("the transaction would revert: {reason}; {send_anyway}")
        }
        CallOutcome::Halted | CallOutcome::Unspecified => bail!(
            "the transaction would fail: {} (sending {} from {}); {send_anyway}",
            super::show::printable(&reply.message),
            amount::show(trial.value),
            trial.from
        ),
    }
}
