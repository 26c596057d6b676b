//! Receipts of local blocks, which stand with their transactions.

use atoll_api::state::{Ran, RanTx};

use super::*;

impl Stage {
    /// All that ran in a round.
    fn ran(&self, round: u64) -> Vec<RanTx> {
        let mut ran = Vec::new();
        loop {
            let reply = self.core.ran(&Ran { round, skip: ran.len() as u32 }).unwrap();
            ran.extend(reply.txs);
            if !reply.more {
                return ran;
            }
        }
    }
}

/// Receipts of local blocks stand with their transactions, in parts of so many and of so many bytes.
#[test]
fn a_receipt_is_found_by_hash_and_by_round_wherever_it_stands() {
    let mut stage = Stage::new();
    let alice = stage.alice;
    let txs: Vec<Tx> = (0..70).map(|nonce| transaction(alice, nonce)).collect();
    let after = StateValue::Basic(Basic { nonce: 70, balance: U256::from(995) });
    let tip = stage.core.tip();
    let expected: Vec<Receipt> = (0..)
        .zip(&txs)
        .map(|(index, tx)| {
            let mut receipt = receipt(tx, ReceiptKind::Local, tip.cut, tip.head + 1);
            receipt.index = index;
            // A few that fill a part by themselves.
            let bytes = if index % 7 == 3 { 40 << 10 } else { index as usize };
            receipt.executed.output = vec![index as u8; bytes].into();
            receipt
        })
        .collect();
    let locals = txs.iter().zip(&expected);
    let block = LocalBlock {
        shard: HERE,
        number: tip.head + 1,
        parent: tip.digest,
        round: tip.cut,
        credits: Vec::new(),
        txs: locals.map(|(tx, r)| LocalTx { tx: tx.clone(), receipt: r.clone() }).collect(),
        writes: vec![(StateKey::Basic(alice), after)],
        codes: Vec::new(),
        fees: U256::from(3),
        burned: U256::from(2),
    };
    let done = stage.core.append(Append { block, reads: Vec::new() });
    stage.done(done);
    for state in ["as it was run", "after a clean stop"] {
        let ran = stage.ran(tip.cut);
        assert!(ran.iter().map(|ran| ran.tx.hash()).eq(txs.iter().map(Tx::hash)), "{state}");
        for (ran, expected) in ran.into_iter().zip(&expected) {
            assert_eq!(ran.receipt, *expected, "{state}");
            let kept = stage.core.values.receipt(&expected.tx).unwrap().unwrap();
            assert_eq!((&kept.receipt, kept.cut), (expected, tip.cut + 1), "{state}");
        }
        stage.stop();
    }
    assert!(stage.core.values.receipt(&B256::repeat_byte(9)).unwrap().is_none());
}
