//! A block's hash covers every field of its header.

use atoll_proof::{Anchor, Header, StateRoot};

#[test]
fn every_field_is_in_the_hash() {
    let root = StateRoot { cut: 8, root: [9; 32] };
    let anchor = Anchor { shard: 1, head: 5, cut: 9, digest: [6; 32], root: Some(root) };
    let header = Header {
        chain_id: 7,
        number: 10,
        body: [3; 32],
        anchors: vec![anchor, Anchor { shard: 2, root: None, ..anchor }],
    };
    assert_eq!((header.root_of(1), header.root_of(2), header.root_of(3)), (Some(root), None, None));
    let changes: [fn(&mut Header); 12] = [
        |header| header.chain_id += 1,
        |header| header.number += 1,
        |header| header.body[31] ^= 1,
        |header| header.anchors[0].shard += 4,
        |header| header.anchors[0].head += 1,
        |header| header.anchors[0].cut += 1,
        |header| header.anchors[0].digest[0] ^= 1,
        |header| header.anchors[0].root = None,
        |header| header.anchors[0].root.as_mut().unwrap().cut += 1,
        |header| header.anchors[0].root.as_mut().unwrap().root[5] ^= 1,
        |header| header.anchors.swap(0, 1),
        |header| header.anchors.truncate(1),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = header.clone();
        change(&mut other);
        assert_ne!(other.hash(), header.hash(), "change {number}");
    }
    assert_eq!(header.clone().hash(), header.hash());
}
