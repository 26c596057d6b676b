//! The root of the state at settled cuts: what it is of, that every way of starting gives it again, and
//! that it is noticed if not.

use atoll_api::state::{Prove, ProveReply};
use atoll_proof::{Proof, verify};
use atoll_tree::{Change, Config, MemoryScratch, Tree};
use atoll_types::{Anchored, StateRoot, decode};

use super::*;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Rng(u64);

impl Rng {
    /// `ATOLL_SEED` repeats a run.
    fn seeded() -> Self {
        let given = std::env::var("ATOLL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
        eprintln!("ATOLL_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }
}

impl Stage {
    fn slots(&self) -> Vec<StateKey> {
        (1..30).map(|slot| StateKey::Slot(self.bob, 0, U256::from(slot))).collect()
    }

    /// A block that only writes slots: some are set to nothing.
    fn write_slots(&mut self, rng: &mut Rng) {
        let tip = self.core.tip();
        let mut writes = BTreeMap::new();
        for _ in 0..rng.below(6) {
            let slot = 2 + rng.below(28);
            let word = StateValue::Slot(U256::from(rng.below(3)));
            writes.insert(StateKey::Slot(self.bob, 0, U256::from(slot)), word);
        }
        let block = LocalBlock {
            shard: HERE,
            number: tip.head + 1,
            parent: tip.digest,
            round: tip.cut,
            txs: Vec::new(),
            writes: writes.into_iter().collect(),
            codes: Vec::new(),
            credits: Vec::new(),
            fees: U256::ZERO,
            burned: U256::ZERO,
        };
        let done = self.core.append(Append { block, reads: Vec::new() });
        self.done(done);
    }

    /// What the actor does after a record.
    fn compute(&mut self) {
        if let Some(job) = self.core.roots.next_job() {
            let root = job.run().unwrap();
            self.core.roots.done(root);
        }
    }

    /// A beacon block in another second that has taken in this shard's root.
    fn publish(&mut self, settled: u64, root: Option<StateRoot>) {
        let cut = self.core.owner.cut_number();
        self.cut(|block| {
            block.env.timestamp += 1;
            block.settled = settled;
            let digest = B256::ZERO;
            block.anchors.push(Anchored { shard: HERE, head: 0, cut, digest, root });
        });
        self.compute();
    }

    /// The newest root is that of what can be read at its cut, if that can be read.
    fn check_root(&mut self) {
        let StateRoot { cut, root } = self.newest();
        if cut >= self.core.history.oldest() {
            assert_eq!(root, self.root_by_reading(cut), "at cut {cut}");
        }
    }

    fn root_by_reading(&mut self, cut: u64) -> B256 {
        let accounts = [self.alice, self.bob];
        let accounts = accounts.iter().flat_map(|a| [StateKey::Basic(*a), StateKey::Code(*a)]);
        let keys: Vec<StateKey> = accounts.chain(self.slots()).collect();
        let read = Read { keys: keys.clone(), codes: vec![], at: Some(cut), min_cut: 0 };
        let values = self.core.read(&read).unwrap().values;
        let there = keys.iter().zip(values).filter(|(key, value)| *value != key.absent());
        let changes = there.map(|(key, value)| Change {
            key: key.in_tree().hash(),
            value: Some(value.in_tree().hash()),
        });
        let config = Config { page_leaves: 2, resident_pages: 100 };
        let mut tree = Tree::new(config, Box::<MemoryScratch>::default()).unwrap();
        tree.update(changes.collect()).unwrap().into()
    }

    fn newest(&self) -> StateRoot {
        self.core.anchor().root.unwrap()
    }

    fn prove(&mut self, min_cut: u64) -> Option<ProveReply> {
        let slots = (1..30).map(U256::from).collect();
        let prove = Prove { address: self.bob, slots, min_cut };
        self.core.prove(&prove).map(Result::unwrap)
    }
}

fn assert_proven(proven: &ProveReply) {
    for cell in &proven.cells {
        let (key, value) = cell.cell;
        let proof = Proof::decode(&cell.proof).unwrap();
        let root = proven.root.root.0;
        assert_eq!(verify(&root, &key.in_tree(), Some(&value.in_tree()), &proof), Ok(()));
        let mut other = value.in_tree();
        if let atoll_proof::Value::Slot(word) = &mut other {
            word[31] ^= 4;
            assert!(verify(&root, &key.in_tree(), Some(&other), &proof).is_err());
        }
    }
}

#[test]
fn a_root_is_of_the_state_at_its_cut_however_the_shard_was_started() {
    let mut rng = Rng::seeded();
    let mut stage = Stage::new();
    let genesis = stage.newest();
    assert_eq!(genesis, StateRoot { cut: 0, root: stage.root_by_reading(0) });
    let mut settled = 0;
    let mut roots = 0;
    for _ in 0..200 {
        for _ in 0..rng.below(3) {
            stage.write_slots(&mut rng);
        }
        // Settled cuts lag behind, and not every block begins a second.
        settled += rng.below(stage.head.number() + 2 - settled);
        let before = stage.newest();
        if rng.below(3) > 0 {
            let told = (rng.below(4) > 0).then_some(before);
            stage.publish(settled, told);
        } else {
            stage.cut(|block| block.settled = settled);
            stage.compute();
        }
        let root = stage.newest();
        if root != before {
            roots += 1;
            stage.check_root();
        }
        match rng.below(8) {
            0 => stage.crash(),
            1 => stage.stop(),
            _ => continue,
        }
        // A replay computes what was due, whether the one before was published or not.
        let after = stage.newest();
        assert!(after.cut > root.cut || after == root, "{after:?} after {root:?}");
    }
    assert!(roots > 20, "{roots}");
}

#[test]
fn a_group_of_an_earlier_round_that_commits_late_is_in_the_root() {
    let mut stage = Stage::new();
    let root = stage.newest();
    stage.publish(1, Some(root));
    let shared = stage.shared(0, 1);
    stage.share(shared.clone());
    let plan = stage.plan(&shared);
    let parts = stage.parts(&plan, &shared, 12);
    let part = stage.keep(&plan, parts);
    let mut rng = Rng(1);
    stage.write_slots(&mut rng);
    // Everything before the group's round is settled: neither the group nor what came after is in it.
    let root = stage.newest();
    stage.publish(plan.id.round, Some(root));
    assert_eq!(stage.newest().cut, plan.id.round);
    assert_eq!(stage.newest().root, stage.root_by_reading(plan.id.round));
    let committed = stage.head.number() + 1;
    stage.cut(|block| {
        let verdict = Verdict::Commit { digest: part.digest(), late: Vec::new() };
        block.decisions.push(Decision { group: plan.id, verdict });
        block.settled = committed;
    });
    // Who waits for the receipt's cut on another shard has to wait for the decision.
    let lookup = Lookup { txs: vec![*shared.tx.hash()] };
    let status = stage.core.lookup(&lookup).unwrap().statuses.remove(0);
    assert!(matches!(status, Some(TxStatus::Done(event)) if event.cut == committed));
    let (root, held) = (stage.newest(), stage.core.history.oldest());
    stage.stop();
    stage.core.history = crate::history::History::starting_at(held);
    stage.publish(committed, Some(root));
    assert_eq!(stage.newest().cut, committed);
    stage.check_root();
    assert_ne!(stage.newest().root, root.root);
    let root = stage.newest();
    stage.crash();
    assert_eq!(stage.newest(), root);
}

#[test]
fn proofs_are_of_the_newest_published_root() {
    let mut stage = Stage::new();
    let mut rng = Rng(3);
    let slot = stage.slots()[5];
    assert!(stage.prove(0).is_none(), "nothing is published");
    stage.publish(0, Some(stage.newest()));
    let proven = stage.prove(0).unwrap();
    assert_eq!((proven.root.cut, proven.block, proven.cells.len()), (0, 1, 31));
    assert_proven(&proven);
    while stage.core.values.get(&slot).unwrap() == slot.absent() {
        stage.write_slots(&mut rng);
    }
    stage.publish(2, Some(stage.newest()));
    assert_eq!(stage.newest().cut, 2);
    assert!(stage.prove(0).is_none(), "the new root is not published, the old state is gone");
    let root = stage.newest();
    stage.publish(2, Some(root));
    let proven = stage.prove(2).unwrap();
    assert_eq!((proven.root, proven.block), (root, stage.head.number()));
    assert_proven(&proven);
    assert!(stage.prove(3).is_none(), "that cut's root is still to come");
    // Later writes are not in it.
    stage.write_slots(&mut rng);
    assert_proven(&stage.prove(2).unwrap());
    // Nor does a job begin before the root is published, however many become due.
    stage.publish(3, Some(root));
    let next = stage.newest();
    for settled in 4..6 {
        stage.write_slots(&mut rng);
        stage.publish(settled, Some(root));
        assert_eq!(stage.newest(), next);
    }
    stage.publish(6, Some(next));
    assert_eq!(stage.newest().cut, 6);
    assert_eq!(stage.newest().root, stage.root_by_reading(6));
}

#[test]
fn a_log_that_gives_another_root_than_was_published_is_refused() {
    let mut stage = Stage::new();
    stage.write_slots(&mut Rng(5));
    stage.publish(1, Some(stage.newest()));
    let root = stage.newest();
    stage.publish(1, Some(StateRoot { root: B256::repeat_byte(1), ..root }));
    assert!(stage.core.wrong_root.take().is_some(), "the running shard notices");
    let index = Arc::new(stage.index.clone());
    let error = Core::open(&stage.config, &mut stage.log, index, None).err().unwrap();
    let OpenError::Root(_) = &error else { panic!("{error}") };
    let text = error.to_string();
    assert!(text.contains(&root.root.to_string()) && text.contains("backup"), "{text}");
}

#[test]
fn a_value_that_was_changed_in_the_index_is_found_at_the_start() {
    let mut stage = Stage::new();
    stage.write_slots(&mut Rng(7));
    stage.publish(1, Some(stage.newest()));
    let (root, expected) = (stage.newest(), stage.face());
    stage.core.close(stage.log.next(), 0).unwrap();
    let marker = stage.index.take_clean().unwrap().unwrap();
    let mut key = b"s".to_vec();
    key.extend(encode(&StateKey::Basic(stage.bob)));
    let value: StateValue = decode(&stage.index.get(&key).unwrap().unwrap()).unwrap();
    let richer = Basic { balance: U256::from(1_000_000), ..value.basic() };
    stage.index.put(&key, &encode(&StateValue::Basic(richer))).unwrap();
    stage.index.mark_clean(&marker).unwrap();
    stage.reopen();
    assert_eq!(stage.face(), expected, "the log was replayed");
    assert_eq!(stage.newest(), root);
}
