//! The beacon's rules: grouping, decisions, credits, lag, restart.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use atoll_commit::{BeaconRecord, Planner, PlannerConfig};
use atoll_types::{
    AbortCause, Address, Anchor, B256, CreditsDue, Decision, Fingerprints, GroupAck, GroupDigest,
    GroupId, Intent, ShardId, ShardKeys, StateRoot, TxRef, Verdict,
};

use crate::{toy::Rng, world::planner_config};

const SHARDS: u16 = 3;

fn planner() -> Planner {
    planner_that_bundles(0)
}

fn planner_that_bundles(bundle_gas: u64) -> Planner {
    Planner::new(PlannerConfig { bundle_gas, ..planner_config(SHARDS, Address::ZERO) })
}

fn intent(name: u64, reads: &[(u16, u64)], writes: &[(u16, u64)]) -> Intent {
    let mut keys: BTreeMap<u16, ShardKeys> = BTreeMap::new();
    let empty = |shard: u16| ShardKeys {
        shard: ShardId(shard),
        reads: Fingerprints::new(),
        writes: Fingerprints::new(),
    };
    for (shard, key) in reads {
        keys.entry(*shard).or_insert_with(|| empty(*shard)).reads.push(*key);
    }
    for (shard, key) in writes {
        keys.entry(*shard).or_insert_with(|| empty(*shard)).writes.push(*key);
    }
    Intent {
        tx: TxRef { hash: B256::from(atoll_types::U256::from(name)), attempt: 1 },
        origin: ShardId(0),
        sender: name,
        nonce: 0,
        gas_limit: 100,
        halvings: 0,
        last_valid_round: 1_000,
        keys: keys.into_values().collect(),
    }
}

fn anchor(shard: u16, cut: u64, acks: &[(GroupId, u8)]) -> Anchor {
    let ack = |(group, digest): &(GroupId, u8)| GroupAck {
        group: *group,
        digest: B256::repeat_byte(*digest),
        sources: Vec::new(),
        late: Vec::new(),
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
        root: None,
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
    let mut bundles = 0;
    for _ in 0..300 {
        let bundle_gas = [0, 700][rng.below(2)];
        let mut planner = planner_that_bundles(bundle_gas);
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
        // Two in a group are there because of a chain of conflicts, or because the chains that they are
        // in have the same owners and fit into a bundle.
        for group in members(&record) {
            let chains = chains(&group, &by_hash);
            let owners = |chain: &HashSet<B256>| -> BTreeSet<ShardId> {
                chain.iter().flat_map(|tx| &by_hash[tx].keys).map(|keys| keys.shard).collect()
            };
            let gas: u64 = group.iter().map(|tx| by_hash[tx].gas_limit).sum();
            assert!(chains.len() == 1 || gas <= bundle_gas, "{gas} gas in a bundle");
            assert!(chains.iter().all(|chain| owners(chain) == owners(&chains[0])));
            bundles += usize::from(chains.len() > 1);
        }
    }
    assert!(bundles > 50, "{bundles} bundles");
}

/// What is linked by conflicts in a group.
fn chains(group: &HashSet<B256>, by_hash: &HashMap<B256, &Intent>) -> Vec<HashSet<B256>> {
    let mut left = group.clone();
    let mut chains = Vec::new();
    while let Some(first) = left.iter().next().copied() {
        let mut reached = HashSet::from([first]);
        loop {
            let linked = |tx: &B256| reached.iter().any(|r| conflict(by_hash[r], by_hash[tx]));
            let next: Vec<B256> = left.iter().filter(|tx| linked(tx)).copied().collect();
            let before = reached.len();
            reached.extend(next);
            if reached.len() == before {
                break;
            }
        }
        left.retain(|tx| !reached.contains(tx));
        chains.push(reached);
    }
    chains
}

#[test]
fn what_waits_for_other_groups_is_not_bundled_with_what_does_not() {
    let mut planner = planner_that_bundles(u64::MAX);
    planner.announce(intent(1, &[], &[(0, 1), (1, 2)]));
    all_at(&mut planner, 0);
    make(&mut planner);
    all_at(&mut planner, 1);
    planner.announce(intent(2, &[], &[(0, 1), (1, 3)]));
    planner.announce(intent(3, &[], &[(0, 4), (1, 5)]));
    planner.announce(intent(4, &[], &[(0, 0), (1, 2)]));
    planner.announce(intent(5, &[], &[(0, 8), (1, 9)]));
    let groups = members(&make(&mut planner));
    let sizes: Vec<usize> = groups.iter().map(HashSet::len).collect();
    assert_eq!(sizes, [2, 2], "two behind the first group, and two behind none");
}

fn conflict(a: &Intent, b: &Intent) -> bool {
    let keys = |i: &Intent| -> (HashSet<u64>, HashSet<u64>) {
        let all = |list: fn(&ShardKeys) -> &Fingerprints| {
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
    let verdict = Verdict::Commit { digest: B256::repeat_byte(7), late: Vec::new() };
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
fn an_undecided_group_is_aborted_after_n_blocks_with_those_behind_it() {
    let mut planner = planner();
    planner.announce(intent(1, &[], &[(0, 1), (1, 2)]));
    let first = make(&mut planner).block.plan[0].id;
    // One takes a value in flight; one has nothing to do with it, and is agreed on.
    planner.announce(intent(2, &[(1, 2)], &[(0, 3)]));
    planner.announce(intent(3, &[(1, 8)], &[(0, 4)]));
    let second = make(&mut planner).block.plan.clone();
    let (behind, apart) = (second[0].id, second[1].id);
    let mut decided = Vec::new();
    for _ in 0..planner.config().abort_after {
        let head = planner.head().number();
        for shard in 0..2 {
            planner.anchor(anchor(shard, head, &[(apart, 3)]));
        }
        planner.anchor(anchor(2, head, &[]));
        decided.push(make(&mut planner).block.decisions.clone());
        assert!(planner.head().settled <= first.round || planner.open() == 0);
    }
    let end = |group, cause| Decision { group, verdict: Verdict::Abort(cause) };
    let commit = Verdict::Commit { digest: B256::repeat_byte(3), late: Vec::new() };
    assert_eq!(decided[0], vec![Decision { group: apart, verdict: commit }]);
    let aborts = vec![end(first, AbortCause::Silent), end(behind, AbortCause::Dependant)];
    assert_eq!(decided[planner.config().abort_after as usize - 2], aborts);
    assert_eq!(decided.iter().flatten().count(), 3);
}

#[test]
fn a_groups_age_counts_from_when_it_has_nothing_more_to_wait_for() {
    let mut planner = planner();
    planner.announce(intent(1, &[], &[(0, 1), (1, 2)]));
    let first = make(&mut planner).block.plan[0].id;
    planner.announce(intent(2, &[], &[(0, 1), (1, 3)]));
    let second = make(&mut planner).block.plan[0].id;
    let after = planner.config().abort_after;
    let mut ends = Vec::new();
    while ends.len() < 2 {
        let head = planner.head().number();
        // The first one is acknowledged at the last moment.
        let acks = if head + 1 >= first.round + after - 1 { vec![(first, 1)] } else { vec![] };
        for shard in 0..3 {
            let acks = if shard < 2 { &acks[..] } else { &[] };
            planner.anchor(anchor(shard, head, acks));
        }
        let block = make(&mut planner).block;
        ends.extend(block.decisions.iter().map(|end| (end.group, block.number())));
    }
    let committed = first.round + after - 1;
    assert_eq!(ends, [(first, committed), (second, committed + after)]);
}

#[test]
fn an_abort_names_the_owners_that_have_not_followed() {
    let mut planner = planner();
    planner.announce(intent(1, &[], &[(0, 1), (1, 2)]));
    let group = make(&mut planner).block.plan[0].id;
    let decisions = loop {
        planner.anchor(anchor(0, planner.head().number(), &[(group, 1)]));
        let decisions = make(&mut planner).block.decisions.clone();
        if !decisions.is_empty() {
            break decisions;
        }
    };
    let verdict = Verdict::Abort(AbortCause::Missing(vec![ShardId(1)]));
    assert_eq!(decisions, vec![Decision { group, verdict }]);
}

/// An acknowledgement of the executor's shard.
fn said(anchor: &mut Anchor, sources: &[(GroupId, u8)], late: &[u16]) {
    let source = |(group, digest): &(GroupId, u8)| GroupDigest {
        group: *group,
        digest: B256::repeat_byte(*digest),
    };
    let ack = anchor.acks.last_mut().unwrap();
    ack.sources = sources.iter().map(source).collect();
    ack.late = late.iter().map(|shard| ShardId(*shard)).collect();
}

/// Two groups on one key, the second on the value that the first one makes of it. The first commits
/// with digest 1, and the second has used the value under digest `used`.
fn chain_of_two(used: u8) -> (Planner, GroupId, BeaconRecord) {
    let mut planner = planner();
    planner.announce(intent(1, &[], &[(0, 1), (1, 2)]));
    let first = make(&mut planner).block.plan[0].id;
    planner.announce(intent(2, &[], &[(0, 1), (1, 3)]));
    let second = make(&mut planner).block.plan[0].id;
    let executor = usize::from(planner.head().plan[0].executor.0);
    let anchors = |acks: &[(GroupId, u8)]| {
        let mut both = [anchor(0, 2, acks), anchor(1, 2, acks)];
        if acks.last().is_some_and(|ack| ack.0 == second) {
            said(&mut both[executor], &[(first, used)], &[]);
        }
        both
    };
    // The second one alone has to wait.
    for anchor in anchors(&[(second, 5)]) {
        planner.anchor(anchor);
    }
    assert_eq!(make(&mut planner).block.decisions, Vec::new());
    for mut anchor in anchors(&[(first, 1), (second, 5)]) {
        (anchor.head, anchor.cut) = (3, 3);
        planner.anchor(anchor);
    }
    let record = make(&mut planner);
    (planner, second, record)
}

#[test]
fn a_result_commits_with_the_values_in_flight_that_it_was_made_from() {
    let (planner, second, record) = chain_of_two(1);
    let decided: Vec<GroupId> = record.block.decisions.iter().map(|d| d.group).collect();
    assert_eq!((decided.len(), decided[1], planner.open()), (2, second, 0));
    let commit = |d: &Decision| matches!(d.verdict, Verdict::Commit { .. });
    assert!(record.block.decisions.iter().all(commit));
}

#[test]
fn a_result_made_from_another_value_is_void() {
    let (planner, second, record) = chain_of_two(9);
    let void = Decision { group: second, verdict: Verdict::Abort(AbortCause::Dependant) };
    assert_eq!((&record.block.decisions[1], planner.open()), (&void, 0));
}

#[test]
fn an_owner_by_a_late_lease_has_to_have_its_part() {
    let mut planner = planner();
    planner.announce(intent(1, &[], &[(0, 1), (1, 2)]));
    let plan = make(&mut planner).block.plan[0].clone();
    for shard in [0, 1] {
        let mut anchor = anchor(shard, 1, &[(plan.id, 1)]);
        if ShardId(shard) == plan.executor {
            said(&mut anchor, &[], &[2]);
        }
        planner.anchor(anchor);
    }
    assert_eq!(make(&mut planner).block.decisions, Vec::new());
    planner.anchor(anchor(2, 1, &[(plan.id, 1)]));
    let verdict = Verdict::Commit { digest: B256::repeat_byte(1), late: vec![ShardId(2)] };
    assert_eq!(make(&mut planner).block.decisions, vec![Decision { group: plan.id, verdict }]);
}

#[test]
fn a_key_has_a_chain_of_so_many_groups_and_no_more() {
    let mut planner = planner();
    let chain = planner.config().max_chain;
    for name in 0..chain as u64 + 3 {
        planner.announce(intent(name, &[], &[(0, 1), (1, 100 + name)]));
        all_at(&mut planner, name);
        make(&mut planner);
    }
    assert_eq!((planner.open(), planner.waiting()), (chain, 3));
}

#[test]
fn what_hung_in_silence_goes_into_smaller_groups() {
    let mut planner = planner();
    let gas = planner.config().group_gas;
    let heavy = |name, halvings| Intent {
        gas_limit: gas / 3,
        halvings,
        ..intent(name, &[], &[(0, 1), (1, 100 + name)])
    };
    planner.announce(heavy(1, 0));
    planner.announce(heavy(2, 0));
    assert_eq!(make(&mut planner).block.plan[0].txs.len(), 2);
    planner.announce(heavy(3, 1));
    planner.announce(heavy(4, 0));
    assert_eq!(make(&mut planner).block.plan[0].txs.len(), 1);
    assert_eq!(planner.waiting(), 1);
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
    for name in 1..planner.config().max_chain as u64 {
        planner.announce(intent(100 + name, &[], &[(0, 1), (1, 100 + name)]));
        make(&mut planner);
    }
    let mut waits = intent(2, &[], &[(0, 1), (1, 3)]);
    waits.last_valid_round = planner.head().number() + 2;
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

#[test]
fn a_block_takes_in_roots_and_a_new_one_is_work() {
    let mut planner = planner();
    let root = |cut, byte| Some(StateRoot { cut, root: B256::repeat_byte(byte) });
    let told = |planner: &mut Planner, root| {
        planner.anchor(Anchor { root, ..anchor(0, 1, &[]) });
        planner.has_work()
    };
    all_at(&mut planner, 1);
    make(&mut planner);
    assert!(!planner.has_work());
    assert!(told(&mut planner, root(1, 1)));
    let taken = make(&mut planner).block.anchors.clone();
    assert_eq!(taken.iter().map(|anchored| anchored.root).collect::<Vec<_>>(), [root(1, 1)]);
    // Nothing has changed since: that can wait for the heartbeat.
    assert!(!told(&mut planner, root(2, 1)));
    assert!(!told(&mut planner, root(1, 7)), "an older one that came late is no news");
    assert_eq!(make(&mut planner).block.anchors[0].root, root(2, 1));
    assert!(told(&mut planner, root(3, 2)));
}
