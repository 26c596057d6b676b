//! What a client gets to verify.

use atoll_api::state::{ProveReply, ProvenCell};
use atoll_gateway::Limits;
use atoll_proof::{Anchor, Header, Key, Proof, StateRoot, Value, verify};
use atoll_tree::{Change, Config, MemoryScratch, Tree};
use atoll_types::{
    Address, Anchored, B256, Basic, CodeRef, KECCAK_EMPTY, ShardId, StateKey, StateValue, U256,
};
use atoll_wire::v1::{GetProofRequest, ProofBlock};
use tonic::Code;

use crate::fakes::block;
use crate::setup::{CHAIN_ID, Gateway};

const ACCOUNT: Address = Address::repeat_byte(0xac);

fn hash(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().expect("32 bytes")
}

fn header(block: ProofBlock) -> Header {
    let root = |root: atoll_wire::v1::proof_block::Root| StateRoot {
        cut: root.cut,
        root: hash(&root.hash),
    };
    let anchor = |anchor: atoll_wire::v1::proof_block::Anchor| Anchor {
        shard: anchor.shard as u16,
        head: anchor.head,
        cut: anchor.cut,
        digest: hash(&anchor.digest),
        root: anchor.root.map(root),
    };
    Header {
        chain_id: block.chain_id,
        number: block.number,
        body: hash(&block.body),
        anchors: block.anchors.into_iter().map(anchor).collect(),
    }
}

/// Proofs of these cells, from a tree of them.
fn proven(cells: &[(StateKey, StateValue)]) -> ProveReply {
    let config = Config::with_leaf_bytes(1 << 20);
    let mut tree = Tree::new(config, Box::<MemoryScratch>::default()).expect("memory");
    let there = cells.iter().filter(|(key, value)| *value != key.absent());
    let change = |(key, value): &(StateKey, StateValue)| Change {
        key: key.in_tree().hash(),
        value: Some(value.in_tree().hash()),
    };
    let root = tree.update(there.map(change).collect()).expect("memory");
    let mut cell = |(key, value): &(StateKey, StateValue)| ProvenCell {
        cell: (*key, *value),
        proof: tree.prove(&key.in_tree().hash()).expect("memory").encode().into(),
    };
    let cells = cells.iter().map(&mut cell).collect();
    ProveReply { root: atoll_types::StateRoot { cut: 1, root: root.into() }, block: 2, cells }
}

#[tokio::test]
async fn a_client_can_verify_what_it_gets_by_the_hash_of_a_block_alone() {
    let gateway = Gateway::with(Limits::default(), [(ACCOUNT, 1)]).await;
    let slots = [U256::from(7), U256::from(8)];
    let code = CodeRef { hash: KECCAK_EMPTY, incarnation: 3 };
    let reply = proven(&[
        (
            StateKey::Basic(ACCOUNT),
            StateValue::Basic(Basic { nonce: 5, balance: U256::from(0x1234) }),
        ),
        (StateKey::Code(ACCOUNT), StateValue::Code(code)),
        (StateKey::Slot(ACCOUNT, 3, slots[0]), StateValue::Slot(U256::from(9))),
        (StateKey::Slot(ACCOUNT, 3, slots[1]), StateValue::Slot(U256::ZERO)),
    ]);
    let mut holds = block(2, 2);
    let anchor = |shard, root| Anchored {
        shard: ShardId(shard),
        head: 1,
        cut: 1,
        digest: B256::repeat_byte(9),
        root,
    };
    holds.anchors = vec![anchor(0, None), anchor(1, Some(reply.root))];
    gateway.beacon.change(|script| script.blocks.extend([holds.clone(), block(3, 3)]));
    let mut client = gateway.client().await;
    let request = GetProofRequest {
        address: ACCOUNT.to_vec().into(),
        slots: slots.iter().map(|slot| slot.to_be_bytes_trimmed_vec().into()).collect(),
        min_cut: 1,
    };
    let early = client.get_proof(request.clone()).await.expect_err("no root");
    assert_eq!(early.code(), Code::Unavailable);
    gateway.shards[1].change(|script| script.proven = Some(reply));
    let proof = client.get_proof(request.clone()).await.expect("proofs").into_inner();
    assert_eq!(
        (proof.shard, proof.cut, proof.nonce, &proof.balance[..]),
        (1, 1, 5, &[0x12, 0x34][..])
    );
    let asked = gateway.shards[1].lock().proves.last().cloned().expect("it was asked");
    assert_eq!((asked.address, &asked.slots[..], asked.min_cut), (ACCOUNT, &slots[..], 1));
    let block = proof.block.expect("a block");
    assert_eq!(block.hash, holds.hash().to_vec());
    let header = header(block);
    assert_eq!((header.hash(), header.chain_id), (holds.hash().0, CHAIN_ID));
    let StateRoot { cut, root } = header.root_of(1).expect("the shard's root");
    assert_eq!((cut, &root[..]), (proof.cut, &proof.root[..]));
    let address = ACCOUNT.0.0;
    let mut balance = [0; 32];
    balance[30..].copy_from_slice(&proof.balance);
    let check = |key: Key, value: Value, bytes: &[u8]| {
        let proof = Proof::decode(bytes).expect("a proof");
        verify(&root, &key, Some(&value), &proof)
    };
    let basic = Value::Basic { nonce: 5, balance };
    assert_eq!(check(Key::Basic(address), basic, &proof.basic_proof), Ok(()));
    let code = Value::Code { hash: hash(&proof.code_hash), incarnation: 3 };
    assert_eq!(check(Key::Code(address), code, &proof.code_proof), Ok(()));
    for (slot, proven) in slots.iter().zip(&proof.slots) {
        let mut word = [0; 32];
        word[32 - proven.value.len()..].copy_from_slice(&proven.value);
        let key = Key::Slot { address, incarnation: 3, slot: slot.to_be_bytes() };
        assert_eq!(check(key, Value::Slot(word), &proven.proof), Ok(()));
        word[0] ^= 1;
        assert!(check(key, Value::Slot(word), &proven.proof).is_err());
    }
    let many = GetProofRequest { slots: vec![vec![1].into(); 33], ..request };
    let status = client.get_proof(many).await.expect_err("too many");
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "33 slots, the limit is 32")
    );
}
