//! Who may come in, and who goes for it.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_consensus::{SignableTransaction, TxEip7702};
use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_eips::eip7702::{Authorization, SignedAuthorization};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use atoll_api::mempool::{End, Refused};
use atoll_mempool::{Config, Limits, MAX_TX_GAS, Pool, intrinsic_gas};
use atoll_types::{Placement, ShardId, Tx};
use revm::context_interface::cfg::gas::calculate_initial_tx_gas;
use revm::primitives::hardfork::SpecId;
use support::*;

#[test]
fn intrinsic_gas_is_that_of_revm() {
    let call = TxKind::Call(who(9));
    let mixed: Vec<u8> = (0..1000u32).map(|i| (i % 3) as u8).collect();
    for to in [call, TxKind::Create] {
        for input in [vec![], vec![0; 31], vec![0; 33], vec![7; 4000], mixed.clone()] {
            for (addresses, slots, authorizations) in [(0, 0, 1), (1, 0, 2), (3, 5, 7)] {
                let tx = with_lists(to, &input, addresses, slots, authorizations);
                let create = tx.to().is_none();
                let all_slots = addresses * slots;
                let gas = calculate_initial_tx_gas(
                    SpecId::OSAKA,
                    &input,
                    create,
                    addresses,
                    all_slots,
                    authorizations,
                    None,
                );
                let least = gas.initial_regular_gas.max(gas.floor_gas);
                assert_eq!(intrinsic_gas(&tx), least, "{to:?} {}", input.len());
            }
            let tx = Draft { to, input: input.clone().into(), ..draft(0, 10) }.by(who(1));
            let create = to == TxKind::Create;
            let gas = calculate_initial_tx_gas(SpecId::OSAKA, &input, create, 0, 0, 0, None);
            let least = gas.initial_regular_gas.max(gas.floor_gas);
            assert_eq!(intrinsic_gas(&tx), least, "{to:?} {}", input.len());
        }
    }
}

/// 7702 transactions cannot create, so `to` is what the lists are added to.
fn with_lists(to: TxKind, input: &[u8], addresses: u64, slots: u64, authorizations: u64) -> Tx {
    let item = AccessListItem { address: who(8), storage_keys: vec![B256::ZERO; slots as usize] };
    let authorization = Authorization { chain_id: U256::from(1), address: who(7), nonce: 0 };
    let signed = SignedAuthorization::new_unchecked(authorization, 0, U256::from(1), U256::from(1));
    let tx = TxEip7702 {
        chain_id: 1,
        gas_limit: 1_000_000,
        max_fee_per_gas: 10,
        max_priority_fee_per_gas: 10,
        to: to.into_to().unwrap_or(who(6)),
        input: Bytes::copy_from_slice(input),
        access_list: AccessList(vec![item; addresses as usize]),
        authorization_list: vec![signed; authorizations as usize],
        ..Default::default()
    };
    trusted(tx.into_signed(Signature::test_signature()).into(), who(1))
}

#[test]
fn one_gas_below_the_intrinsic_gas_is_refused() {
    let mut pool = pool(Limits::default());
    let input = Bytes::from_static(&[1; 10]);
    let with = |gas| Draft { gas, input: input.clone(), ..draft(0, 10) }.by(who(1));
    let needed = 21_000 + 10 * 4 * 10; // the floor of EIP-7623 is what counts
    let refused = Refused::IntrinsicGas { found: needed - 1, needed };
    assert_eq!(submit(&mut pool, &with(needed - 1), basic(0, RICH), 0), Err(refused));
    assert_eq!(submit(&mut pool, &with(needed), basic(0, RICH), 0), Ok(()));
}

#[test]
fn gas_limits_of_the_block_and_of_a_transaction_hold() {
    for (block_gas_limit, limit) in [(60_000_000, MAX_TX_GAS), (30_000, 30_000)] {
        let mut pool = pool(Limits { block_gas_limit, ..Limits::default() });
        let with = |gas| Draft { gas, ..draft(0, 10) }.by(who(1));
        let refused = Refused::GasLimit { found: limit + 1, limit };
        assert_eq!(submit(&mut pool, &with(limit + 1), basic(0, RICH), 0), Err(refused));
        assert_eq!(submit(&mut pool, &with(limit), basic(0, RICH), 0), Ok(()));
    }
    assert_eq!(MAX_TX_GAS, 16_777_216);
}

#[test]
fn what_is_below_the_minimum_price_or_of_another_shard_is_refused() {
    let mut pool = pool(Limits { min_fee_per_gas: 9, ..Limits::default() });
    let refused = Refused::Underpriced { found: 8, minimum: 9 };
    assert_eq!(submit(&mut pool, &tx(who(1), 0, 8), basic(0, RICH), 0), Err(refused));
    fill(&mut pool, &[tx(who(1), 0, 9)]);

    let exceptions = BTreeMap::from([(who(1), ShardId(1))]);
    let placement = Arc::new(Placement::new(1, exceptions));
    let mut pool = Pool::new(Config { placement, ..config(Limits::default()) });
    let refused = Refused::WrongShard { owner: ShardId(1), here: ShardId(0) };
    assert_eq!(submit(&mut pool, &tx(who(1), 0, 10), basic(0, RICH), 0), Err(refused));
}

#[test]
fn the_same_transaction_is_known_and_a_used_nonce_is_too_low() {
    let mut pool = pool(Limits::default());
    let first = tx(who(1), 3, 10);
    assert_eq!(submit(&mut pool, &first, basic(3, RICH), 0), Ok(()));
    assert_eq!(submit(&mut pool, &first, basic(3, RICH), 0), Err(Refused::AlreadyKnown));
    let refused = Refused::NonceTooLow { next: 3, found: 2 };
    assert_eq!(submit(&mut pool, &tx(who(1), 2, 10), basic(3, RICH), 0), Err(refused));
    assert_eq!(take_all(&mut pool).len(), 1);
    assert_eq!(submit(&mut pool, &first, basic(3, RICH), 0), Err(Refused::AlreadyKnown));
}

#[test]
fn a_nonce_too_far_ahead_is_refused() {
    let mut pool = pool(Limits { max_nonce_gap: 5, ..Limits::default() });
    let refused = Refused::NonceTooFar { next: 2, found: 8, limit: 5 };
    assert_eq!(submit(&mut pool, &tx(who(1), 8, 10), basic(2, RICH), 0), Err(refused));
    assert_eq!(submit(&mut pool, &tx(who(1), 7, 10), basic(2, RICH), 0), Ok(()));
    let end = tx(who(2), u64::MAX, 10);
    assert_eq!(submit(&mut pool, &end, basic(u64::MAX, RICH), 0), Ok(()));
    assert_eq!(take_all(&mut pool), [end]);
}

#[test]
fn a_replacement_pays_a_tenth_more_of_both_fees() {
    let mut pool = pool(Limits::default());
    let old = Draft { cap: 101, tip: 11, ..draft(0, 0) }.by(who(1));
    fill(&mut pool, std::slice::from_ref(&old));
    let mut offer = |cap, tip| {
        let new = Draft { cap, tip, ..draft(0, 0) }.by(who(1));
        submit(&mut pool, &new, basic(0, RICH), 0)
    };
    let refused = |found, needed| Err(Refused::ReplacementUnderpriced { found, needed });
    assert_eq!(offer(111, 100), refused(111, 112)); // 101 × 1.1, rounded up
    assert_eq!(offer(200, 12), refused(12, 13));
    assert_eq!(offer(112, 13), Ok(()));
    assert!(!pool.contains(old.hash()));
    assert_eq!(pool.status().pending, 1);
    assert_eq!(pool.metrics().replaced.get(), 1);
}

#[test]
fn what_is_taken_or_escalated_cannot_be_replaced() {
    let mut pool = pool(Limits::default());
    let first = tx(who(1), 0, 10);
    fill(&mut pool, std::slice::from_ref(&first));
    take_all(&mut pool);
    let dearer = tx(who(1), 0, 100);
    assert_eq!(submit(&mut pool, &dearer, basic(0, RICH), 0), Err(Refused::UnderWay));
    report(&mut pool, &first, End::Escalated);
    assert_eq!(submit(&mut pool, &dearer, basic(0, RICH), 0), Err(Refused::UnderWay));
    report(&mut pool, &first, End::Returned);
    assert_eq!(submit(&mut pool, &dearer, basic(0, RICH), 0), Ok(()));
}

#[test]
fn all_of_a_senders_transactions_together_must_be_paid_for() {
    let mut pool = pool(Limits::default());
    let cost = 21_000 * 10;
    let balance = 3 * cost + 5;
    for nonce in [0, 1, 7] {
        let tx = tx(who(1), nonce, 10);
        assert_eq!(submit(&mut pool, &tx, basic(0, balance), 0), Ok(()));
    }
    let refused =
        |want| Refused::InsufficientFunds { have: U256::from(balance), want: U256::from(want) };
    let fourth = tx(who(1), 2, 10);
    assert_eq!(submit(&mut pool, &fourth, basic(0, balance), 0), Err(refused(4 * cost)));
    // A parent's replacement is checked together with what comes after it.
    let with = |value| Draft { value, ..draft(0, 11) }.by(who(1));
    let parent = with(5);
    let want = 3 * cost + 21_000 + 5;
    assert_eq!(submit(&mut pool, &parent, basic(0, balance), 0), Err(refused(want)));
    let huge = Draft { cap: u128::MAX, ..draft(0, 11) }.by(who(2));
    assert!(matches!(
        submit(&mut pool, &huge, basic(0, RICH), 0),
        Err(Refused::InsufficientFunds { .. })
    ));
    assert_eq!(pool.status().pending, 2);
    assert_eq!(pool.status().queued, 1);
}

#[test]
fn a_sender_has_a_quota_but_can_fill_its_own_gap() {
    let mut pool = pool(Limits { max_sender_txs: 3, ..Limits::default() });
    let own = [5, 6, 7].map(|nonce| tx(who(1), nonce, 10));
    fill(&mut pool, &own);
    let refused = Refused::SenderFull { limit: 3 };
    assert_eq!(submit(&mut pool, &tx(who(1), 8, 99), basic(0, RICH), 0), Err(refused.clone()));
    fill(&mut pool, &[tx(who(1), 0, 10)]);
    assert!(!pool.contains(own[2].hash()), "the last one made room");
    fill(&mut pool, &[tx(who(1), 1, 10), tx(who(1), 2, 10)]);
    assert_eq!(pool.status().pending, 3);
    assert_eq!(submit(&mut pool, &tx(who(1), 3, 99), basic(0, RICH), 0), Err(refused));
    assert_eq!(pool.metrics().evicted.get(), 3);
}

#[test]
fn a_full_pool_gives_up_what_cannot_run_first_and_then_what_pays_least() {
    let mut pool = pool(Limits { max_txs: 4, ..Limits::default() });
    let queued = tx(who(1), 5, 1000);
    let (cheap, child) = (tx(who(2), 0, 10), tx(who(2), 1, 50));
    let dear = tx(who(3), 0, 40);
    fill(&mut pool, &[queued.clone(), cheap.clone(), child.clone(), dear]);
    // Any price will do against what cannot run.
    fill(&mut pool, &[tx(who(4), 0, 8)]);
    assert!(!pool.contains(queued.hash()));
    // The child earns no more than its parent lets it, so it goes first of the two.
    fill(&mut pool, &[tx(who(5), 0, 9)]);
    assert!(pool.contains(child.hash()), "8 is less than 10");
    fill(&mut pool, &[tx(who(6), 0, 20)]);
    fill(&mut pool, &[tx(who(7), 0, 30)]);
    assert!(!pool.contains(child.hash()));
    assert!(pool.contains(cheap.hash()));
    let full = Refused::MempoolFull { limit: 4, unit: "transactions".into() };
    assert_eq!(submit(&mut pool, &tx(who(8), 0, 10), basic(0, RICH), 0), Err(full.clone()));
    // What cannot run pushes out nothing that can, whatever it offers.
    assert_eq!(submit(&mut pool, &tx(who(8), 1, 5000), basic(0, RICH), 0), Err(full));
    assert_eq!(pool.metrics().evicted.get(), 4);
}

#[test]
fn bytes_are_limited_and_a_refused_newcomer_leaves_all_as_it_was() {
    let small: Vec<_> = (1..=10).map(|n| tx(who(n), 0, 10 * u128::from(n))).collect();
    let size: usize = small.iter().map(|tx| tx.raw().len()).sum();
    let mut pool = pool(Limits { max_bytes: size, ..Limits::default() });
    fill(&mut pool, &small);
    let (input, gas) = (Bytes::from(vec![0; 4 * small[0].raw().len()]), 60_000);
    let large = |price| Draft { input: input.clone(), gas, ..draft(0, price) }.by(who(99));
    let before = pool.status();
    let full = Refused::MempoolFull { limit: size as u64, unit: "bytes".into() };
    assert_eq!(submit(&mut pool, &large(30), basic(0, RICH), 0), Err(full));
    assert_eq!(pool.status(), before);
    assert!(small.iter().all(|tx| pool.contains(tx.hash())));
    fill(&mut pool, &[large(95)]);
    let left = small.iter().filter(|tx| pool.contains(tx.hash())).count();
    assert!(left < 6 && pool.contains(small[9].hash()));
    assert!(pool.status().size_bytes <= size as u64);
}

#[test]
fn a_flood_of_far_future_nonces_pushes_out_nothing_that_can_run() {
    let limits = Limits { max_txs: 100, ..Limits::default() };
    let mut pool = pool(limits);
    let good: Vec<_> = (1..=60).map(|n| tx(who(n), 0, 10)).collect();
    fill(&mut pool, &good);
    for n in 0..1000u64 {
        let sender = Address::left_padding_from(&(1000 + n).to_be_bytes());
        let far = tx(sender, 1 + n % 900, 100_000 + u128::from(n));
        let _ = submit(&mut pool, &far, basic(0, RICH), 0);
    }
    assert!(good.iter().all(|tx| pool.contains(tx.hash())));
    assert_eq!(pool.status().queued, 40);
    let more: Vec<_> = (61..=100).map(|n| tx(who(n), 0, 10)).collect();
    fill(&mut pool, &more);
    assert_eq!(pool.status().pending, 100);
    assert_eq!(take_all(&mut pool).len(), 100);
}

#[test]
fn high_prices_behind_one_that_cannot_pay_the_base_fee_count_for_nothing() {
    let mut pool = pool(Limits { max_txs: 4, ..Limits::default() });
    pool.base_fee(50);
    let chain: Vec<_> = [10, 9000, 9000, 9000]
        .into_iter()
        .enumerate()
        .map(|(nonce, price)| tx(who(1), nonce as u64, price))
        .collect();
    fill(&mut pool, &chain);
    fill(&mut pool, &[tx(who(2), 0, 60), tx(who(3), 0, 60)]);
    assert!(!pool.contains(chain[3].hash()) && !pool.contains(chain[2].hash()));
    assert_eq!(take_all(&mut pool).len(), 2);
}

#[test]
fn refusals_are_counted_by_reason() {
    let mut pool = pool(Limits::default());
    let known = tx(who(1), 0, 10);
    fill(&mut pool, std::slice::from_ref(&known));
    let _ = submit(&mut pool, &known, basic(0, RICH), 0);
    let _ = submit(&mut pool, &tx(who(2), 0, 10), basic(1, RICH), 0);
    let metrics = pool.metrics();
    let counts: Vec<_> = metrics.refused().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counts, [("already_known", 1), ("nonce_too_low", 1)]);
    assert_eq!(metrics.admitted.get(), 1);
}
