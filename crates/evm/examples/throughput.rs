//! Prints what payments and token transfers cost on one thread, in memory:
//! `cargo run --release -p atoll-evm --example throughput`.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::{hint::black_box, time::Instant};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex, keccak256};
use atoll_evm::{Empty, Executor, OnMissing, Outcome, Overlay};
use atoll_types::{Basic, BlockEnv, CodeRef, StateKey, StateValue, Tx};

const SENDERS: u64 = 1_000;
const TXS: u64 = 200_000;
const CHAIN: u64 = 1;

fn env() -> BlockEnv {
    BlockEnv {
        chain_id: CHAIN,
        number: 1,
        timestamp: 1,
        randomness: B256::ZERO,
        base_fee: 7,
        coinbase: Address::repeat_byte(0xcc),
        gas_limit: 1 << 40,
    }
}

fn account(number: u64) -> Address {
    Address::from_word(keccak256(number.to_be_bytes()))
}

/// Transaction `index` of senders that take turns.
fn tx(index: u64, to: Address, value: u64, input: Bytes) -> Tx {
    let envelope = TxEnvelope::from(
        TxEip1559 {
            chain_id: CHAIN,
            nonce: index / SENDERS,
            gas_limit: 100_000,
            max_fee_per_gas: 10,
            max_priority_fee_per_gas: 1,
            to: TxKind::Call(to),
            value: U256::from(value),
            access_list: Default::default(),
            input,
        }
        .into_signed(Signature::test_signature()),
    );
    let sender = account(index % SENDERS);
    Tx::trusted(envelope.encoded_2718().into(), sender, None).expect("a transaction")
}

fn measure(name: &str, txs: &[Tx], code: Option<(Address, Bytes)>) {
    let mut state = Overlay::new(&Empty);
    for number in 0..SENDERS {
        let basic = Basic { nonce: 0, balance: U256::from(u64::MAX) };
        state.set(StateKey::Basic(account(number)), StateValue::Basic(basic));
    }
    if let Some((address, code)) = code {
        let hash = state.insert_code(code);
        let code = CodeRef { hash, incarnation: 0 };
        state.set(StateKey::Code(address), StateValue::Code(code));
    }
    let mut executor = Executor::new(&env());
    let start = Instant::now();
    for tx in txs {
        let run = executor.transact(black_box(tx), &state, OnMissing::Stop);
        let Outcome::Executed(effects) = &run.outcome else {
            panic!("{run:?}");
        };
        assert!(effects.executed.status);
        state.apply(effects);
        black_box(run);
    }
    let each = start.elapsed() / txs.len() as u32;
    println!("{name}: {each:?} each");
}

fn main() {
    let payments: Vec<_> =
        (0..TXS).map(|index| tx(index, account(index * 7 % 5_000), 1, Bytes::new())).collect();
    measure("payment", &payments, None);
    let start = Instant::now();
    for tx in payments.iter().take(1_000) {
        let mut executor = Executor::new(&env());
        black_box(executor.transact(tx, &Empty, OnMissing::Stop));
    }
    println!("new executor, with a refused payment: {:?} each", start.elapsed() / 1_000);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contracts/artifacts/Token.json");
    let text = std::fs::read_to_string(path).expect("an artefact");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let code = hex::decode(json["deployedBytecode"].as_str().expect("code")).expect("hex");
    let token = Address::repeat_byte(0x70);
    let mints: Vec<_> = (0..TXS)
        .map(|index| {
            let mut input = keccak256("mint(address,uint256)")[..4].to_vec();
            input.extend(account(index * 7 % 5_000).into_word());
            input.extend(U256::ONE.to_be_bytes::<32>());
            tx(index, token, 0, input.into())
        })
        .collect();
    measure("token mint", &mints, Some((token, code.into())));
}
