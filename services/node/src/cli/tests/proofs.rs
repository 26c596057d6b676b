//! `atoll proof` believes nothing that is not proved.

use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use atoll_proof::{Anchor, End, Header, Key, Proof, StateRoot, Value, leaf};
use atoll_wire::v1::{GetProofResponse, ProofBlock, SlotProof, proof_block};

use crate::cli::proof::Proven;
use crate::cli::show::Report as _;

const ADDRESS: Address = Address::repeat_byte(0x11);

/// An account with three wei, the only one of shard 2.
fn reply() -> GetProofResponse {
    let value = Value::Basic { nonce: 0, balance: U256::from(3).to_be_bytes() };
    let (key_hash, value_hash) = (Key::Basic(ADDRESS.0.0).hash(), value.hash());
    let root = leaf(&key_hash, &value_hash);
    let own = Proof { end: End::Own, siblings: vec![] };
    let absent = Proof { end: End::Other { key_hash, value_hash }, siblings: vec![] };
    let anchor = proof_block::Anchor {
        shard: 2,
        head: 4,
        cut: 5,
        digest: vec![6; 32].into(),
        root: Some(proof_block::Root { cut: 3, hash: root.to_vec().into() }),
    };
    GetProofResponse {
        shard: 2,
        cut: 3,
        root: root.to_vec().into(),
        balance: vec![3].into(),
        basic_proof: own.encode().into(),
        code_hash: KECCAK256_EMPTY.to_vec().into(),
        code_proof: absent.encode().into(),
        slots: vec![SlotProof {
            slot: vec![7].into(),
            proof: absent.encode().into(),
            ..Default::default()
        }],
        block: Some(ProofBlock {
            chain_id: 8,
            number: 9,
            body: vec![1; 32].into(),
            anchors: vec![anchor],
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn proofs_that_hold_are_shown_and_others_refused() {
    let slots = [U256::from(7)];
    let proven = Proven::verify(ADDRESS, &slots, reply()).unwrap();
    let root = StateRoot { cut: 3, root: reply().root[..].try_into().unwrap() };
    let anchor = Anchor { shard: 2, head: 4, cut: 5, digest: [6; 32], root: Some(root) };
    let header = Header { chain_id: 8, number: 9, body: [1; 32], anchors: vec![anchor] };
    assert_eq!(proven.block_hash(), B256::from(header.hash()));
    let (text, json) = (proven.text(), proven.json());
    assert!(text.contains("3 wei") && text.contains("if that is the hash of block 9"), "{text}");
    assert_eq!((&json["balance"], &json["cut"]), (&"3".into(), &3.into()));
    assert_eq!(json["block"]["hash"], proven.block_hash().to_string());
    let changes: [fn(&mut GetProofResponse); 9] = [
        |reply| reply.balance = vec![4].into(),
        |reply| reply.nonce = 1,
        |reply| reply.incarnation = 1,
        |reply| reply.code_hash = vec![5; 32].into(),
        |reply| reply.slots[0].value = vec![1].into(),
        |reply| reply.slots.clear(),
        |reply| reply.shard = 1,
        |reply| reply.basic_proof = vec![].into(),
        |reply| reply.block = None,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = reply();
        change(&mut other);
        assert!(Proven::verify(ADDRESS, &slots, other).is_err(), "change {number}");
    }
}
