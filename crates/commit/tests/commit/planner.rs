//! The beacon's rules: grouping, decisions, credits, lag, restart.

use std::collections::{BTreeMap, HashMap, HashSet};

use atoll_commit::{BeaconRecord, Planner, PlannerConfig};
use atoll_types::{
    Address, Anchor, B256, CreditsDue, Decision, GroupAck, GroupId, Intent, ShardId, ShardKeys,
    TxRef, Verdict,
};

use crate::{toy::Rng, world::planner_config};

const SHARDS: u16 = 3;

fn planner() -> Planner {
    Planner::new(planner_config(SHARDS, Address::ZERO))
}

fn intent(name: u64, reads: &[(u16, u64)], writes: &[(u16, u64)]) -> Intent {
    let mut keys: BTreeMap<u16, ShardKeys> = BTreeMap::new();
    let empty =
        |shard: u16| ShardKeys { shard: ShardId(shard), reads: Vec::new(), writes: Vec::new() };
    for (shard, key) in reads {
        keys.entry(*shard).or_insert_with(|| empty(*shard)).reads.push(*key);
    }
    for (shard, key) in writes {
        keys.entry(*shard).or_insert_with(|| empty(*shard)).writes.push(*key);
    }
    Intent {
        tx: TxRef { hash: B256::from(atoll_types::U256::from(name)), attempt: 1 },
        origin: ShardId(0),
        sender: Address::left_padding_from(&name.to_be_bytes()),
        nonce: 0,
        gas_limit: 100,
        last_valid_round: 1_000,
        keys: keys.into_values().collect(),
    }
}

fn anchor(shard: u16, cut: u64, acks: &[(GroupId, u8)]) -> Anchor {
    let ack = |(group, digest): &(GroupId, u8)| GroupAck {
        group: *group,
        digest: B256::repeat_byte(*digest),
    };
    Anchor {
        shard: ShardId(shard),
        head: cut,
        cut,
        digest: B256::ZERO,
        gas_used: 0,
        acks: acks.iter().map(ack).collect(),
        credits_sent: Vec::new(),
        credits_received: Vec::new(),
        grants: 0,
    }
}

fn make(planner: &mut Planner) -> BeaconRecord {
    let record = planner.propose(2_000, B256::ZERO);
    planner.apply(&record);
    record
}

fn all_at(planner: &mut Planner, cut: u64) {
    (0..SHARDS).for_each(|shard| planner.anchor(anchor(shard, cut, &[])));
}

fn members(record: &BeaconRecord) -> Vec<HashSet<B256>> {
    let groups = record.block.plan.iter();
    groups.map(|group| group.txs.iter().map(|tx| tx.hash).collect()).collect()
}

#[test]
fn random_rounds_unite_what_conflicts_oldest_first_within_the_caps() {
    let mut rng = Rng(5);
    for _ in 0..150 {
        let mut planner = planner();
        let mut all: Vec<Intent> = Vec::new();
        for name in 0..60 {
            let key = |rng: &mut Rng| {
                let key = rng.below(40) as u64;
                ((key % u64::from(SHARDS)) as u16, key)
            };
            let writes: Vec<_> = (0..1 + rng.below(2)).map(|_| key(&mut rng)).collect();
            let reads: Vec<_> = (0..rng.below(3)).map(|_| key(&mut rng)).collect();
            let mut intent = intent(name, &reads, &writes);
            intent.gas_limit = 50 + rng.below(500) as u64;
            all.push(intent.clone());
            planner.announce(intent);
        }
        let record = planner.propose(2_000, B256::ZERO);
        let config = planner.config();
        let by_hash: HashMap<B256, &Intent> = all.iter().map(|i| (i.tx.hash, i)).collect();
        let mut of_key: HashMap<u64, (HashSet<usize>, bool)> = HashMap::new();
        let mut taken: HashSet<B256> = HashSet::new();
        let mut gas = 0;
        for (index, group) in record.block.plan.iter().enumerate() {
            let intents: Vec<&Intent> = group.txs.iter().map(|tx| by_hash[&tx.hash]).collect();
            assert!(intents.is_sorted_by(|a, b| a.sender < b.sender), "in beacon order");
            let sum: u64 = intents.iter().map(|intent| intent.gas_limit).sum();
            assert_eq!(sum, group.gas);
            assert!(sum <= config.group_gas || intents.len() == 1);
            assert!(group.owners.contains(&group.executor));
            gas += sum;
            for keys in intents.iter().flat_map(|intent| &intent.keys) {
                assert!(group.owners.contains(&keys.shard));
                for key in &keys.reads {
                    of_key.entry(*key).or_default().0.insert(index);
                }
                for key in &keys.writes {
                    let uses = of_key.entry(*key).or_default();
                    uses.0.insert(index);
                    uses.1 = true;
                }
            }
            taken.extend(group.txs.iter().map(|tx| tx.hash));
        }
        assert!(gas <= config.round_gas && taken.len() <= config.round_txs as usize);
        assert!(taken.contains(&all[0].tx.hash), "the oldest is always taken");
        for (groups, written) in of_key.values() {
            assert!(!written || groups.len() == 1, "groups of a round share only what they read");
        }
        // Nobody is overtaken by whom it conflicts with.
        for (at, late) in all.iter().enumerate().filter(|(_, i)| taken.contains(&i.tx.hash)) {
            for early in all[..at].iter().filter(|i| !taken.contains(&i.tx.hash)) {
                assert!(!conflict(early, late), "{late:?} overtakes {early:?}");
            }
        }
        // Two in a group are there because of a chain of conflicts.
        for group in members(&record) {
            let first = *group.iter().next().unwrap();
            let mut reached = HashSet::from([first]);
            loop {
                let next: Vec<B256> = group
                    .iter()
                    .filter(|tx| !reached.contains(*tx))
                    .filter(|tx| reached.iter().any(|r| conflict(by_hash[r], by_hash[*tx])))
                    .copied()
                    .collect();
                if next.is_empty() {
                    break;
                }
                reached.extend(next);
            }
            assert_eq!(reached, group);
        }
    }
}

fn conflict(a: &Intent, b: &Intent) -> bool {
    let keys = |i: &Intent| -> (HashSet<u64>, HashSet<u64>) {
        let all = |list: fn(&ShardKeys) -> &Vec<u64>| {
            i.keys.iter().flat_map(list).copied().collect::<HashSet<u64>>()
        };
        (all(|keys| &keys.reads), all(|keys| &keys.writes))
    };
    let ((a_reads, a_writes), (b_reads, b_writes)) = (keys(a), keys(b));
    !a_writes.is_disjoint(&b_writes)
        || !a_writes.is_disjoint(&b_reads)
        || !a_reads.is_disjoint(&b_writes)
}

#[test]
fn one_over_the_caps_is_alone_rather_than_never() {
    let mut planner = planner();
    let mut huge = intent(1, &[], &[(0, 1)]);
    huge.gas_limit = u64::MAX;
    planner.announce(huge.clone());
    huge.tx.hash = B256::repeat_byte(2);
    planner.announce(huge);
    planner.announce(intent(3, &[], &[(0, 1)]));
    assert_eq!(make(&mut planner).block.plan.len(), 1);
    assert_eq!(planner.waiting(), 2);
}

#[test]
fn the_executor_owns_the_busiest_key() {
    let mut planner = planner();
    for name in 0..5 {
        planner.announce(intent(name, &[(2, 70)], &[(0, 10 + name), (1, 99)]));
    }
    let record = make(&mut planner);
    assert_eq!(record.block.plan.len(), 1);
    assert_eq!(record.block.plan[0].executor, ShardId(1));
    assert_eq!(record.block.plan[0].owners, [ShardId(0), ShardId(1), ShardId(2)]);
}

#[test]
fn commit_needs_every_owners_cut_and_one_digest() {
    let mut planner = planner();
    planner.announce(intent(1, &[(2, 5)], &[(0, 1), (1, 2)]));
    let id = make(&mut planner).block.plan[0].id;
    let undecided = |planner: &mut Planner, why: &str| {
        assert!(!planner.all_decidable(), "{why}");
        assert_eq!(planner.propose(2_000, B256::ZERO).block.decisions, Vec::new(), "{why}");
    };
    planner.anchor(anchor(0, 1, &[(id, 7)]));
    planner.anchor(anchor(1, 1, &[(id, 7)]));
    undecided(&mut planner, "one that only reads has not acknowledged");
    planner.anchor(anchor(2, 1, &[(id, 8)]));
    undecided(&mut planner, "another digest");
    let mut early = anchor(2, 0, &[(id, 7)]);
    early.head = 9;
    let mut before = planner.clone();
    before.anchor(early);
    undecided(&mut before, "an older anchor does not count");
    planner.anchor(anchor(2, 2, &[(GroupId { round: 9, index: 0 }, 7), (id, 7)]));
    assert!(planner.all_decidable());
    let record = make(&mut planner);
    let verdict = Verdict::Commit(B256::repeat_byte(7));
    assert_eq!(record.block.decisions, [Decision { group: id, verdict }]);
    assert_eq!((planner.open(), make(&mut planner).block.decisions.len()), (0, 0));
}

#[test]
fn an_anchor_of_a_cut_before_the_group_cannot_commit_it() {
    let mut planner = planner();
    planner.announce(intent(1, &[], &[(0, 1), (1, 2)]));
    let id = make(&mut planner).block.plan[0].id;
    planner.anchor(anchor(0, 1, &[(id, 7)]));
    planner.anchor(anchor(1, 0, &[(id, 7)]));
    assert_eq!(make(&mut planner).block.decisions, Vec::new());
}

#[test]
fn an_undecided_group_is_aborted_after_n_blocks_and_its_keys_are_free_then() {
    let mut planner = planner();
    planner.announce(intent(1, &[], &[(0, 1), (1, 2)]));
    let id = make(&mut planner).block.plan[0].id;
    planner.announce(intent(2, &[(1, 2)], &[(0, 3)]));
    planner.announce(intent(3, &[(1, 8)], &[(0, 4)]));
    let mut planned = Vec::new();
    for _ in 0..planner.config().abort_after {
        let head = planner.head().number();
        all_at(&mut planner, head);
        let record = make(&mut planner);
        planned.push((record.block.plan.len(), record.block.decisions.clone()));
        let settled = if record.block.decisions.is_empty() { 1 } else { record.block.number() };
        // What was planned meanwhile has not been decided either.
        assert!(record.block.settled <= settled.max(2));
    }
    let abort = Decision { group: id, verdict: Verdict::Abort };
    let last = planned.pop().unwrap();
    assert_eq!(last, (1, vec![abort]), "what waited for the fence is in the same block");
    assert_eq!(planned.iter().map(|(plan, _)| plan).sum::<usize>(), 1);
    assert!(planned.iter().all(|(_, decisions)| decisions.is_empty()));
}

#[test]
fn credits_are_due_up_to_what_was_both_sent_and_received() {
    let mut planner = planner();
    let mut sender = anchor(0, 0, &[]);
    sender.credits_sent = vec![(ShardId(1), 5)];
    let mut receiver = anchor(1, 0, &[]);
    receiver.credits_received = vec![(ShardId(0), 3)];
    planner.anchor(sender.clone());
    assert_eq!(make(&mut planner).block.credits, Vec::new());
    planner.anchor(receiver.clone());
    assert!(planner.has_work());
    let due = |up_to| vec![CreditsDue { from: ShardId(0), to: ShardId(1), up_to }];
    assert_eq!(make(&mut planner).block.credits, due(3));
    assert_eq!(make(&mut planner).block.credits, Vec::new(), "once");
    // At the same cut and head: newer all the same. What comes late does not undo it.
    let old = receiver.clone();
    receiver.credits_received = vec![(ShardId(0), 9)];
    planner.anchor(receiver);
    planner.anchor(old);
    assert_eq!(make(&mut planner).block.credits, due(5));
}

#[test]
fn nothing_is_planned_on_a_shard_that_lags_and_only_its_own_wait() {
    let mut planner = planner();
    let lag = planner.config().max_lag;
    for _ in 0..lag {
        planner.anchor(anchor(0, planner.head().number(), &[]));
        planner.anchor(anchor(1, planner.head().number(), &[]));
        make(&mut planner);
    }
    // The first one touches the absent shard and a key that everybody wants.
    let mut stuck = intent(1, &[], &[(0, 1), (2, 2)]);
    stuck.nonce = 4;
    planner.announce(stuck.clone());
    let mut same_sender = intent(2, &[], &[(0, 9)]);
    (same_sender.sender, same_sender.nonce) = (stuck.sender, 5);
    planner.announce(same_sender);
    for name in 10..14 {
        planner.announce(intent(name, &[], &[(0, 1), (1, name)]));
    }
    let record = make(&mut planner);
    assert_eq!(record.block.plan.len(), 1);
    assert_eq!(record.block.plan[0].txs.len(), 4, "an absent shard delays what touches it");
    assert_eq!(planner.waiting(), 2, "and its sender's later ones");
    planner.anchor(anchor(2, planner.head().number(), &[]));
    for shard in 0..2 {
        let cut = planner.head().number();
        planner.anchor(anchor(shard, cut, &[(record.block.plan[0].id, 1)]));
    }
    let record = make(&mut planner);
    assert_eq!(record.block.plan.iter().map(|group| group.txs.len()).sum::<usize>(), 2);
}

#[test]
fn intents_are_taken_once_and_dropped_after_their_last_round() {
    let mut planner = planner();
    let first = intent(1, &[], &[(0, 1), (1, 2)]);
    assert!(planner.announce(first.clone()));
    assert!(!planner.announce(first.clone()));
    make(&mut planner);
    assert!(!planner.announce(first.clone()), "it was planned");
    let mut waits = intent(2, &[], &[(0, 1), (1, 3)]);
    waits.last_valid_round = 3;
    assert!(planner.announce(waits.clone()));
    assert_eq!((make(&mut planner).block.dropped.len(), planner.waiting()), (0, 1));
    assert_eq!((make(&mut planner).block.dropped.len(), planner.waiting()), (0, 1));
    assert!(!planner.announce(waits.clone()));
    assert_eq!(make(&mut planner).block.dropped, [waits.tx]);
    assert_eq!(planner.waiting(), 0);
    assert!(!planner.announce(waits), "too late");
}

#[test]
fn a_restarted_planner_knows_what_its_blocks_said() {
    let config: PlannerConfig = planner_config(SHARDS, Address::ZERO);
    let mut planner = Planner::new(config.clone());
    let mut records = Vec::new();
    let first = intent(1, &[], &[(0, 1), (1, 2)]);
    planner.announce(first.clone());
    for cut in 0..6 {
        for shard in 0..SHARDS {
            let mut anchor = anchor(shard, cut, &[]);
            anchor.gas_used = 1_000_000_000 * cut;
            planner.anchor(anchor);
        }
        let record = planner.propose(2_000 + 1_000 * cut, B256::ZERO);
        planner.apply(&record);
        records.push(record);
    }
    let mut again = Planner::new(config);
    records.iter().for_each(|record| again.apply(record));
    assert_eq!(again.head(), planner.head());
    assert!(!again.announce(first), "it was planned before the restart");
    let (expected, found) = (planner.propose(9_000, B256::ZERO), again.propose(9_000, B256::ZERO));
    assert_eq!(found, expected);
    assert_eq!(found.anchors, Vec::new(), "an old anchor is not taken in again");
    // What is newer than the restart counts, what is older does not.
    again.anchor(anchor(0, 2, &[]));
    assert_eq!(again.propose(9_000, B256::ZERO).anchors, Vec::new());
    again.anchor(anchor(0, 9, &[]));
    assert_eq!(again.propose(9_000, B256::ZERO).anchors.len(), 1);
}

#[test]
fn ten_thousand_that_conflict_are_grouped_in_no_time() {
    // Readers and writers of one key by turns: the pairs would be a hundred million.
    let config = PlannerConfig {
        group_gas: u64::MAX,
        round_gas: u64::MAX,
        round_txs: 10_000,
        max_waiting: 20_000,
        ..planner_config(SHARDS, Address::ZERO)
    };
    let mut planner = Planner::new(config);
    for name in 0..10_000u64 {
        let hot = [(0, 1)];
        let own = [(1, 1_000 + name)];
        let writes = if name.is_multiple_of(2) { [own[0], hot[0]].to_vec() } else { own.to_vec() };
        let reads: &[(u16, u64)] = if name.is_multiple_of(2) { &[] } else { &hot };
        planner.announce(intent(name, reads, &writes));
    }
    let record = make(&mut planner);
    assert_eq!((record.block.plan.len(), record.block.plan[0].txs.len()), (1, 10_000));
}
