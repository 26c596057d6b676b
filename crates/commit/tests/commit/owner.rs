//! An owner's refusals: each rule can be broken, and breaking it changes nothing.

use std::collections::BTreeMap;

use atoll_commit::{Owner, OwnerConfig, OwnerError, Planner};
use atoll_types::{
    AbortCause, Address, B256, BeaconBlock, Credit, CreditKind, CreditsDue, Decision, GroupId,
    LocalBlock, LocalTx, PartMessage, Placement, PlannedGroup, ReceiptKind, Refusal, Settlement,
    ShardId, SharedTx, StateKey, StateValue, TxOutcome, U256, Verdict,
};

use crate::{
    toy::{self, CHAIN, Program, address_on, empty_part, transaction},
    world::planner_config,
};

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);

struct Stage {
    owner: Owner,
    block: BeaconBlock,
    sender: Address,
    friend: Address,
}

impl Stage {
    fn new() -> Self {
        let placement = Placement::new(2, BTreeMap::new());
        let sender = address_on(&placement, HERE, 1);
        let friend = address_on(&placement, THERE, 2);
        let coinbase = address_on(&placement, THERE, 3);
        let block = BeaconBlock::clone(Planner::new(planner_config(2, coinbase)).head());
        let config = OwnerConfig { chain_id: CHAIN, shard: HERE, placement, max_shared: 3 };
        Self { owner: Owner::new(config, &block), block, sender, friend }
    }

    fn shared(&self, nonce: u64, attempt: u32) -> SharedTx {
        let transfer = Some((self.friend, 5));
        let program = Program { transfer, ..Program::default() };
        let tx = transaction(self.sender, nonce, 100, &program);
        let keys = toy::run(&tx, &|key| {
            let mut basic = key.absent().basic();
            basic.balance = U256::from(1_000);
            basic.nonce = nonce;
            Some(if key.holds(&StateValue::Basic(basic)) {
                StateValue::Basic(basic)
            } else {
                key.absent()
            })
        })
        .used;
        SharedTx {
            tx,
            origin: HERE,
            attempt,
            wrong: 0,
            absences: 0,
            silences: 0,
            keys,
            last_valid_round: 50,
        }
    }

    fn next(&self) -> BeaconBlock {
        let mut block = self.block.clone();
        block.parent = self.block.hash();
        block.env.number += 1;
        block.decisions.clear();
        block.plan.clear();
        block.credits.clear();
        block
    }

    fn cut(&mut self, block: BeaconBlock) -> atoll_commit::CutEffects {
        self.owner.check_cut(&block).unwrap();
        let effects = self.owner.cut(&block, &|key| key.absent());
        self.block = block;
        effects
    }

    fn plan(&mut self, shared: &SharedTx) -> PlannedGroup {
        let mut block = self.next();
        let plan = PlannedGroup {
            id: GroupId { round: block.number(), index: 0 },
            executor: THERE,
            owners: vec![HERE, THERE],
            txs: vec![shared.reference()],
            gas: 100,
        };
        block.plan.push(plan.clone());
        assert_eq!(self.cut(block).opened, vec![plan.clone()]);
        plan
    }

    fn decide(&mut self, group: GroupId, verdict: Verdict) -> atoll_commit::CutEffects {
        let mut block = self.next();
        block.decisions.push(Decision { group, verdict });
        self.cut(block)
    }

    fn credit(&self, seq: u64) -> Credit {
        Credit {
            from: THERE,
            to: HERE,
            seq,
            account: self.sender,
            payer: self.friend,
            amount: U256::from(7),
            kind: CreditKind::Payment { tx: B256::repeat_byte(seq as u8) },
        }
    }
}

fn message(mut parts: Vec<atoll_types::Part>) -> PartMessage {
    let manifest = parts.iter().map(|part| (part.owner, part.hash())).collect();
    PartMessage { part: parts.remove(0), manifest }
}

/// A result that changes nothing.
fn parts(stage: &Stage, plan: &PlannedGroup) -> Vec<atoll_types::Part> {
    let mut parts: Vec<_> = plan.owners.iter().map(|owner| empty_part(plan, *owner)).collect();
    if let Some(keys) = stage.owner.keys(plan.id) {
        parts[0].writes = keys.writes.iter().map(|key| (*key, key.absent())).collect();
    }
    parts
}

#[test]
fn a_part_that_breaks_a_rule_is_refused_by_its_name() {
    let mut stage = Stage::new();
    let shared = stage.shared(0, 1);
    stage.owner.share(shared.clone());
    let plan = stage.plan(&shared);
    let id = plan.id;
    let with = |change: &dyn Fn(&mut atoll_types::Part)| {
        let mut all = parts(&stage, &plan);
        change(&mut all[0]);
        stage.owner.check_part(&message(all))
    };
    let anchor = stage.owner.anchor();
    assert_eq!(with(&|_| {}), Ok(true));
    assert_eq!(
        with(&|part| part.chain_id = 9),
        Err(Refusal::WrongChain { found: 9, expected: CHAIN })
    );
    assert_eq!(with(&|part| part.epoch = 9), Err(Refusal::WrongEpoch { found: 9, expected: 0 }));
    assert_eq!(
        with(&|part| part.owner = THERE),
        Err(Refusal::NotForThisShard { group: id, found: THERE, expected: HERE })
    );
    let other = GroupId { round: 9, index: 9 };
    assert_eq!(with(&|part| part.group = other), Err(Refusal::GroupNotOpen { group: other }));
    assert_eq!(
        with(&|part| part.executor = HERE),
        Err(Refusal::NotExecutor { group: id, found: HERE, expected: THERE })
    );
    let outside = StateKey::Code(stage.sender);
    let write = |part: &mut atoll_types::Part| part.writes.push((outside, outside.absent()));
    assert_eq!(with(&write), Err(Refusal::OutsideFence { group: id, key: outside }));
    let basic = StateKey::Basic(stage.sender);
    let unfit = |part: &mut atoll_types::Part| part.writes[0].1 = outside.absent();
    assert_eq!(with(&unfit), Err(Refusal::OutsideFence { group: id, key: basic }));
    let lacks = |part: &mut atoll_types::Part| part.writes.clear();
    assert_eq!(with(&lacks), Err(Refusal::LacksFenced { group: id, key: basic }));
    let mut forged = message(parts(&stage, &plan));
    forged.part.fees = U256::from(1);
    assert_eq!(stage.owner.check_part(&forged), Err(Refusal::ManifestMismatch { group: id }));
    forged = message(parts(&stage, &plan));
    forged.manifest.pop();
    assert_eq!(stage.owner.check_part(&forged), Err(Refusal::ManifestMismatch { group: id }));
    assert_eq!(stage.owner.anchor(), anchor, "a check changes nothing");
    stage.owner.keep_part(message(parts(&stage, &plan)));
    assert_eq!(stage.owner.check_part(&message(parts(&stage, &plan))), Ok(false));
    let mut all = parts(&stage, &plan);
    all[1].fees = U256::from(1);
    assert_eq!(stage.owner.check_part(&message(all)), Err(Refusal::OtherResult { group: id }));
}

#[test]
fn a_result_of_another_shards_group_is_refused() {
    let mut stage = Stage::new();
    let shared = stage.shared(0, 1);
    stage.owner.share(shared.clone());
    let mut plan = stage.plan(&shared);
    let refused = stage.owner.check_result(plan.id, &parts(&stage, &plan));
    assert_eq!(refused, Err(Refusal::NotExecutor { group: plan.id, found: HERE, expected: THERE }));
    plan.id.index = 4;
    let refused = stage.owner.check_result(plan.id, &parts(&stage, &plan));
    assert_eq!(refused, Err(Refusal::GroupNotOpen { group: plan.id }));
}

#[test]
fn a_shared_transaction_that_breaks_a_rule_is_refused_by_its_name() {
    let mut stage = Stage::new();
    let shared = stage.shared(0, 1);
    let tx = *shared.tx.hash();
    let with = |change: &dyn Fn(&mut SharedTx)| {
        let mut shared = shared.clone();
        change(&mut shared);
        stage.owner.check_share(&shared)
    };
    assert_eq!(with(&|_| {}), Ok(true));
    assert_eq!(
        with(&|shared| shared.origin = THERE),
        Err(Refusal::NotOwner { owner: HERE, here: THERE })
    );
    let foreign = |shared: &mut SharedTx| {
        shared.keys = atoll_types::KeySet::new([StateKey::Code(stage.friend)], []);
    };
    assert_eq!(with(&foreign), Err(Refusal::NotOwner { owner: HERE, here: HERE }));
    let unsorted = with(&|shared| shared.keys.writes.reverse());
    assert!(matches!(unsorted, Err(Refusal::Malformed { .. })));
    let expired = Err(Refusal::Expired { last: 0, cut: 0 });
    assert_eq!(with(&|shared| shared.last_valid_round = 0), expired);
    stage.owner.share(shared.clone());
    assert_eq!(stage.owner.check_share(&shared), Ok(false));
    let refused = Err(Refusal::OldAttempt { tx, attempt: 1 });
    assert_eq!(stage.owner.check_share(&stage.shared(0, 2)), refused, "the first has not ended");
    let mut other = shared.clone();
    other.last_valid_round += 1;
    let refused = Err(Refusal::OldAttempt { tx, attempt: 1 });
    assert_eq!(stage.owner.check_share(&other), refused, "all owners hold the same");
    stage.owner.share(stage.shared(0, 2));
    let refused = Err(Refusal::OldAttempt { tx, attempt: 2 });
    assert_eq!(stage.owner.check_share(&shared), refused);
    stage.owner.share(stage.shared(1, 1));
    stage.owner.share(stage.shared(2, 1));
    let refused = Err(Refusal::TooManyShared { limit: 3 });
    assert_eq!(stage.owner.check_share(&stage.shared(3, 1)), refused);
}

#[test]
fn credits_come_once_in_order_and_to_their_owner() {
    let mut stage = Stage::new();
    let check = |stage: &Stage, credit: Credit| stage.owner.check_credits(THERE, &[credit]);
    let gap = Err(Refusal::CreditGap { from: THERE, found: 2, newest: 0 });
    assert_eq!(check(&stage, stage.credit(2)), gap);
    let mut credit = stage.credit(1);
    credit.account = stage.friend;
    assert_eq!(check(&stage, credit), Err(Refusal::NotOwner { owner: THERE, here: HERE }));
    credit = stage.credit(1);
    credit.from = ShardId(5);
    assert!(matches!(check(&stage, credit), Err(Refusal::Malformed { .. })));
    let credits = [stage.credit(1), stage.credit(2)];
    for _ in 0..3 {
        assert_eq!(stage.owner.check_credits(THERE, &credits), Ok(()));
        stage.owner.receive(THERE, &credits);
    }
    assert_eq!(stage.owner.held_credits(), U256::from(14));
    let mut block = stage.next();
    block.credits.push(CreditsDue { from: THERE, to: HERE, up_to: 3 });
    assert!(matches!(stage.owner.check_cut(&block), Err(OwnerError::NotHeld { .. })));
    block.credits[0].up_to = 2;
    let effects = stage.cut(block.clone());
    let last = effects.writes.last().unwrap();
    assert_eq!((last.value.basic().balance, last.epoch), (U256::from(14), 0));
    // The same are due again: nothing is deposited twice.
    let mut again = stage.next();
    again.credits = block.credits;
    assert_eq!(stage.cut(again).writes, Vec::new());
    assert_eq!(stage.owner.held_credits(), U256::ZERO);
}

#[test]
fn a_credit_to_a_fenced_account_waits_for_the_fence() {
    let mut stage = Stage::new();
    let shared = stage.shared(0, 1);
    stage.owner.share(shared.clone());
    let plan = stage.plan(&shared);
    stage.owner.receive(THERE, &[stage.credit(1)]);
    let mut block = stage.next();
    block.credits.push(CreditsDue { from: THERE, to: HERE, up_to: 1 });
    assert_eq!(stage.cut(block).writes, Vec::new());
    assert_eq!(stage.owner.settlements(), Vec::new(), "nothing has become of it");
    assert_eq!(stage.owner.held_credits(), U256::from(7));
    let effects = stage.decide(plan.id, Verdict::Abort(AbortCause::Silent));
    assert_eq!(effects.writes.len(), 1);
    assert_eq!(stage.owner.settlements()[0].up_to, 1);
}

#[test]
fn a_payment_to_a_contract_goes_back_and_its_receipt_says_so() {
    let mut stage = Stage::new();
    // The way there: this shard pays, its payment comes back, then it hears what became of it.
    let tx = transaction(stage.sender, 0, 100, &Program::default());
    let credit = Credit {
        from: HERE,
        to: THERE,
        seq: 0,
        account: stage.friend,
        payer: stage.sender,
        amount: U256::from(5),
        kind: CreditKind::Payment { tx: *tx.hash() },
    };
    let receipt = toy::receipt(&tx, ReceiptKind::Credit, 0, Some(Default::default()));
    let hash = *tx.hash();
    let block = LocalBlock {
        shard: HERE,
        number: 1,
        parent: stage.owner.digest(),
        round: 0,
        txs: vec![LocalTx { tx, receipt }],
        writes: Vec::new(),
        codes: Vec::new(),
        credits: vec![credit],
        fees: U256::ZERO,
        burned: U256::ZERO,
    };
    stage.owner.check_block(&block, &[]).unwrap();
    stage.owner.append(&block);
    assert!(stage.owner.is_pending(&hash));
    let settlement = Settlement { by: THERE, from: HERE, up_to: 1, returned_up_to: 1, cut: 4 };
    assert!(stage.owner.is_news(&settlement));
    assert_eq!(stage.owner.settle(settlement), Vec::new(), "it waits for what comes back");
    assert!(!stage.owner.is_news(&settlement));
    let later = Settlement { up_to: 1, returned_up_to: 9, ..settlement };
    stage.owner.settle(later);
    let mut back = stage.credit(1);
    back.kind = CreditKind::Returned { tx: hash };
    let ended = stage.owner.receive(THERE, &[back]);
    assert_eq!(ended.len(), 1);
    assert!(!ended[0].0.executed.status);
    assert!(!stage.owner.is_pending(&hash));
    assert_eq!(stage.owner.credits_after(THERE, 0).count(), 0);
    // The other way round: code turns up where a payment goes to.
    let mut stage = Stage::new();
    stage.owner.receive(THERE, &[stage.credit(1)]);
    let mut block = stage.next();
    block.credits.push(CreditsDue { from: THERE, to: HERE, up_to: 1 });
    let code = |key: &StateKey| match key {
        StateKey::Code(_) => {
            StateValue::Code(atoll_types::CodeRef { hash: B256::repeat_byte(3), incarnation: 0 })
        }
        other => other.absent(),
    };
    assert_eq!(stage.owner.cut(&block, &code).writes, Vec::new());
    let back: Vec<Credit> = stage.owner.credits_after(THERE, 0).collect();
    assert_eq!((back[0].account, back[0].amount), (stage.friend, U256::from(7)));
    assert_eq!(stage.owner.settlements()[0].returned_up_to, 1);
}

#[test]
fn settlements_are_met_one_after_another_while_credits_flow() {
    let mut stage = Stage::new();
    for number in 1..=3 {
        let tx = transaction(stage.sender, number - 1, 100, &Program::default());
        let kind = CreditKind::Payment { tx: *tx.hash() };
        let credit = Credit { from: HERE, to: THERE, seq: 0, kind, ..stage.credit(1) };
        let receipt = toy::receipt(&tx, ReceiptKind::Credit, 0, Some(Default::default()));
        let block = LocalBlock {
            shard: HERE,
            number,
            parent: stage.owner.digest(),
            round: 0,
            txs: vec![LocalTx { tx, receipt }],
            writes: Vec::new(),
            codes: Vec::new(),
            credits: vec![credit],
            fees: U256::ZERO,
            burned: U256::ZERO,
        };
        stage.owner.append(&block);
    }
    // Each newer settlement speaks of a credit that is still on its way.
    let settle = |up_to| Settlement { by: THERE, from: HERE, up_to, returned_up_to: up_to, cut: 1 };
    for number in 1..=3 {
        stage.owner.settle(settle(number));
    }
    assert_eq!(stage.owner.receive(THERE, &[stage.credit(1)]).len(), 1);
    assert_eq!(stage.owner.receive(THERE, &[stage.credit(2)]).len(), 0);
    assert_eq!(stage.owner.receive(THERE, &[stage.credit(3)]).len(), 2);
}

#[test]
fn blocks_keep_off_fences_pins_and_other_shards() {
    let mut stage = Stage::new();
    let shared = stage.shared(0, 1);
    let key = StateKey::Basic(stage.sender);
    stage.owner.share(shared.clone());
    let block = |stage: &Stage| LocalBlock {
        shard: HERE,
        number: 1,
        parent: stage.owner.digest(),
        round: stage.owner.cut_number(),
        txs: Vec::new(),
        writes: Vec::new(),
        codes: Vec::new(),
        credits: Vec::new(),
        fees: U256::ZERO,
        burned: U256::ZERO,
    };
    let mut pinned = block(&stage);
    let receipt = toy::receipt(&shared.tx, ReceiptKind::Local, 0, None);
    pinned.txs.push(LocalTx { tx: shared.tx.clone(), receipt });
    let hash = *shared.tx.hash();
    assert_eq!(stage.owner.check_block(&pinned, &[]), Err(OwnerError::Pinned(hash)));
    let plan = stage.plan(&shared);
    let mut fenced = block(&stage);
    fenced.writes.push((key, key.absent()));
    assert_eq!(stage.owner.check_block(&fenced, &[]), Err(OwnerError::Fenced(key)));
    let foreign = StateKey::Basic(stage.friend);
    fenced.writes[0].0 = foreign;
    let refused = OwnerError::Foreign { key: foreign, owner: THERE, here: HERE };
    assert_eq!(stage.owner.check_block(&fenced, &[]), Err(refused));
    let mut old = block(&stage);
    old.round -= 1;
    assert!(matches!(stage.owner.check_block(&old, &[]), Err(OwnerError::NotHead { .. })));
    let effects = stage.decide(plan.id, Verdict::Abort(AbortCause::Silent));
    assert_eq!((effects.returned[0].attempt, effects.returned[0].wrong), (2, 0));
    let mut free = block(&stage);
    free.writes.push((key, key.absent()));
    assert_eq!(stage.owner.check_block(&free, &[]), Ok(()));
}

#[test]
fn cuts_follow_one_another_and_commit_only_what_is_held() {
    let mut stage = Stage::new();
    let shared = stage.shared(0, 1);
    stage.owner.share(shared.clone());
    let plan = stage.plan(&shared);
    let mut gap = stage.next();
    gap.env.number += 1;
    let refused = OwnerError::CutGap { found: 3, newest: 1 };
    assert_eq!(stage.owner.check_cut(&gap), Err(refused));
    let mut fork = stage.next();
    fork.parent = B256::repeat_byte(1);
    assert_eq!(stage.owner.check_cut(&fork), Err(OwnerError::OtherChain(2)));
    let mut all = parts(&stage, &plan);
    let key = StateKey::Basic(stage.sender);
    let value = atoll_types::Basic { nonce: 1, ..Default::default() };
    all[0].writes[0].1 = atoll_types::StateValue::Basic(value);
    all[0].outcomes.push((*shared.tx.hash(), TxOutcome::Executed));
    let message = message(all);
    let digest = message.digest();
    let mut commit = stage.next();
    commit.decisions.push(Decision { group: plan.id, verdict: committed(digest) });
    assert!(matches!(stage.owner.check_cut(&commit), Err(OwnerError::NotHeld { .. })));
    stage.owner.keep_part(message);
    let mut other = commit.clone();
    other.decisions[0].verdict = committed(B256::ZERO);
    assert!(matches!(stage.owner.check_cut(&other), Err(OwnerError::NotHeld { .. })));
    let effects = stage.cut(commit);
    assert_eq!((effects.writes[0].epoch, effects.ended.len()), (1, 1));
    assert_eq!(
        effects.unfenced,
        stage.shared(0, 1).keys.writes[..]
            .iter()
            .copied()
            .filter(|k| *k == key)
            .collect::<Vec<_>>()
    );
    // The same decision again finds nothing to decide.
    let again = stage.decide(plan.id, committed(digest));
    assert_eq!((again.writes.len(), again.ended.len()), (0, 0));
    assert_eq!(stage.owner.own_shared().count(), 0);
}

#[test]
fn a_slow_owner_keeps_the_next_attempt_through_the_end_of_the_one_before() {
    let mut stage = Stage::new();
    // What another shard's sender shares here: the roles are the other way round.
    let tx = transaction(
        stage.friend,
        0,
        100,
        &Program { transfer: Some((stage.sender, 1)), ..Program::default() },
    );
    let keys = atoll_types::KeySet::new(
        [],
        [StateKey::Basic(stage.sender), StateKey::Basic(stage.friend)],
    );
    let attempt = |attempt, last_valid_round| SharedTx {
        tx: tx.clone(),
        origin: THERE,
        attempt,
        wrong: 0,
        absences: 0,
        silences: 0,
        keys: keys.clone(),
        last_valid_round,
    };
    stage.owner.share(attempt(1, 50));
    // The origin has seen the abort already and shares the second attempt, before the first one is
    // even opened here.
    assert_eq!(stage.owner.check_share(&attempt(2, 60)), Ok(true));
    stage.owner.share(attempt(2, 60));
    let plan = stage.plan(&attempt(1, 50));
    stage.decide(plan.id, Verdict::Abort(AbortCause::Silent));
    assert_eq!(stage.owner.fenced().count(), 0);
    let plan = stage.plan(&attempt(2, 60));
    assert_eq!(stage.owner.fenced().count(), 1);
    assert_eq!(stage.owner.bodies(&plan).count(), 1);
    stage.decide(plan.id, Verdict::Abort(AbortCause::Silent));
    assert_eq!(stage.owner.check_share(&attempt(3, 60)), Ok(true));
    // A drop of what began anew since does not concern what began anew.
    stage.owner.share(attempt(3, 60));
    let mut block = stage.next();
    block.dropped.push(attempt(3, 60).reference());
    stage.cut(block);
    assert_eq!(stage.owner.check_share(&attempt(3, 60)), Ok(false));
    // Nor is a plan of the attempt before the one that is held a plan of that one.
    stage.owner.share(attempt(4, 7));
    let plan = stage.plan(&attempt(3, 60));
    stage.decide(plan.id, Verdict::Abort(AbortCause::Silent));
    assert_eq!(stage.block.number(), 7);
    let mut block = stage.next();
    block.dropped.push(attempt(4, 7).reference());
    stage.cut(block);
    assert_eq!(stage.owner.check_share(&attempt(1, 60)), Ok(true), "it was forgotten");
}

fn committed(digest: B256) -> Verdict {
    Verdict::Commit { digest, late: Vec::new() }
}

#[test]
fn later_ones_of_a_sender_stay_away_with_the_one_before_them() {
    let mut stage = Stage::new();
    let [first, second] = [0, 1].map(|nonce| stage.shared(nonce, 1));
    for shared in [&first, &second] {
        assert_eq!(stage.owner.check_share(shared), Ok(true));
        assert!(stage.owner.share(shared.clone()));
    }
    let [one, two] = [&first, &second].map(|shared| stage.plan(shared));
    let missing = AbortCause::Missing(vec![THERE]);
    assert_eq!(stage.decide(one.id, Verdict::Abort(missing)).returned, []);
    // It would come back at once, only to be behind.
    let effects = stage.decide(two.id, Verdict::Abort(AbortCause::Dependant));
    assert_eq!(effects.returned, []);
    let back = stage.cut(stage.next()).returned;
    let nonces: Vec<u64> = back.iter().map(|shared| shared.tx.nonce()).collect();
    assert_eq!(nonces, [0, 1]);
    let again = stage.decide(one.id, Verdict::Abort(AbortCause::Silent));
    assert_eq!(again.returned, [], "it was decided");
    for shared in back {
        stage.owner.withdraw(shared.reference()).expect("it has returned");
    }
    assert!(!stage.owner.is_pinned(&stage.sender));
}
