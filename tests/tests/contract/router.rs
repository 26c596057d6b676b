use std::collections::HashMap;

use atoll_api::{
    BeaconClient, ExecutorClient, MempoolClient, RouterClient, StateClient,
    router::{Deliver, Escalate, Fetch, RouterError, RouterStats},
};
use atoll_fabric::{Context, Fault, Local};
use atoll_router::{RouterConfig, RouterService};
use atoll_tests::{CHAIN_ID, wallet::Plan};
use atoll_types::{
    B256, Credit, CreditKind, GroupId, InFlight, Lease, Part, PartMessage, Refusal, Settlement,
    ShardId, SharedTx, StateKey, U256,
};

use crate::setup::{
    CALLS, HERE, Heard, OTHER, Standing, Unreachable, World, shared, sign, too_late,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_router_answers_alike_wherever_it_stands() {
    let here = suite(Standing::InProcess).await;
    here.must_be(&suite(Standing::BehindGrpc).await);
}

async fn suite(standing: Standing) -> Heard {
    let world = World::new();
    let state = world.state();
    let service = {
        let state = StateClient::new(state.clone());
        let mut config = RouterConfig::new(HERE, CHAIN_ID, world.placement.clone());
        config.max_jobs = 1;
        Local::start(&world.place, CALLS, move || {
            let peers = HashMap::from([(OTHER, RouterClient::new(Unreachable))]);
            let mempool = MempoolClient::new(Unreachable);
            let executor = ExecutorClient::new(Unreachable);
            let beacon = BeaconClient::new(Unreachable);
            RouterService::new(config, mempool, executor, state, beacon, peers)
        })
    };
    let here = RouterClient::new(service.clone());
    let add = |routes: &mut tonic::service::RoutesBuilder, client, max| {
        routes.add_service(atoll_router::grpc::server(client, max));
    };
    let router = standing.client(&here, RouterClient::new, add).await;
    let mut suite = Suite { world: &world, router, heard: Heard::default() };
    suite.messages_for_others().await;
    suite.messages_that_break_rules().await;
    suite.leases_that_break_rules().await;
    suite.fetches().await;
    suite.escalations().await;
    suite.stats().await;
    let late = suite.heard.ask_by(too_late(), &suite.router.fetch, fetch(vec![])).await;
    assert_eq!(late.unwrap_err(), RouterError::Fault(Fault::DeadlineExceeded));
    state.stop().await;
    let key = StateKey::Basic(world.alice.address());
    let stateless = suite.heard.ask(&suite.router.fetch, fetch(vec![key])).await.unwrap_err();
    assert_eq!(stateless, RouterError::Fault(Fault::Stopped { service: "state".into() }));
    service.stop().await;
    let stopped = suite.heard.ask(&suite.router.fetch, fetch(vec![])).await.unwrap_err();
    assert_eq!(stopped, RouterError::Fault(Fault::Stopped { service: "router".into() }));
    suite.heard
}

fn fetch(keys: Vec<StateKey>) -> Fetch {
    Fetch { from: OTHER, keys, ..Fetch::default() }
}

/// A message from shard 1 with nothing in it.
fn deliver() -> Deliver {
    Deliver {
        chain_id: CHAIN_ID,
        epoch: 0,
        from: OTHER,
        to: HERE,
        shared: vec![],
        leases: vec![],
        parts: vec![],
        credits: vec![],
        settlements: vec![],
        wants: vec![],
        flights: vec![],
    }
}

/// A lease of shard 1 with nothing in it.
fn lease(group: GroupId) -> Lease {
    Lease {
        chain_id: CHAIN_ID,
        epoch: 0,
        group,
        from: OTHER,
        values: vec![],
        in_flight: vec![],
        credits: vec![],
        bodies: vec![],
    }
}

struct Suite<'a> {
    world: &'a World,
    router: RouterClient,
    heard: Heard,
}

impl Suite<'_> {
    async fn messages_for_others(&mut self) {
        let cases = [
            (
                Deliver { to: OTHER, ..deliver() },
                RouterError::NotForThisShard { found: OTHER, here: HERE },
            ),
            (
                Deliver { chain_id: 5, ..deliver() },
                Refusal::WrongChain { found: 5, expected: CHAIN_ID }.into(),
            ),
            (
                Deliver { epoch: 5, ..deliver() },
                Refusal::WrongEpoch { found: 5, expected: 0 }.into(),
            ),
            (
                Deliver { from: HERE, ..deliver() },
                Refusal::Malformed { what: "there is no other shard 0".into() }.into(),
            ),
            (
                Deliver { from: ShardId(7), ..deliver() },
                Refusal::Malformed { what: "there is no other shard 7".into() }.into(),
            ),
        ];
        for (message, error) in cases {
            let answer = self.heard.ask(&self.router.deliver, message).await;
            assert_eq!(answer.unwrap_err(), error);
        }
        let nothing = self.heard.ask(&self.router.deliver, deliver()).await.unwrap();
        assert!(nothing.shared_refused.is_empty() && nothing.parts_refused.is_empty());
    }

    fn credit(&self, seq: u64) -> Credit {
        Credit {
            from: OTHER,
            to: HERE,
            seq,
            account: self.world.alice.address(),
            payer: self.world.bob.address(),
            amount: U256::ONE,
            kind: CreditKind::Payment { tx: B256::repeat_byte(3) },
        }
    }

    /// What breaks a rule is refused by itself: what came in the same message is not.
    async fn messages_that_break_rules(&mut self) {
        let good = shared(&self.world.bob, &self.world.alice, OTHER);
        let group = GroupId { round: 9, index: 9 };
        let part = Part {
            chain_id: CHAIN_ID,
            epoch: 0,
            group,
            executor: OTHER,
            owner: HERE,
            writes: vec![],
            codes: vec![],
            receipts: vec![],
            outcomes: vec![],
            fees: U256::ZERO,
            burned: U256::ZERO,
            sources: vec![],
        };
        let lease = Lease { chain_id: 5, ..lease(group) };
        let message = Deliver {
            shared: vec![SharedTx { last_valid_round: 0, ..good.clone() }, good],
            leases: vec![lease],
            parts: vec![PartMessage { part, manifest: vec![] }],
            credits: vec![self.credit(1)],
            settlements: vec![Settlement {
                by: OTHER,
                from: HERE,
                up_to: 9,
                returned_up_to: 0,
                cut: 1,
            }],
            ..deliver()
        };
        let answer = self.heard.ask(&self.router.deliver, message).await.unwrap();
        let expired = Refusal::Expired { last: 0, cut: 0 };
        assert_eq!(answer.shared_refused, [Some(expired), None]);
        assert_eq!(answer.parts_refused, [Some(Refusal::GroupNotOpen { group })]);
        assert_eq!(answer.credits_received, 1);
        let gap = Deliver { credits: vec![self.credit(3)], ..deliver() };
        let gap = self.heard.ask(&self.router.deliver, gap).await.unwrap_err();
        let rule = Refusal::CreditGap { from: OTHER, found: 3, newest: 1 };
        assert_eq!(gap, RouterError::Refused(rule));
    }

    /// Each of them is refused by itself, and the message is taken.
    async fn leases_that_break_rules(&mut self) {
        let good = lease(GroupId { round: 9, index: 8 });
        let foreign = StateKey::Basic(self.world.alice.address());
        let executor = OTHER;
        let in_flight = InFlight { key: foreign, group: good.group, executor };
        let leases = vec![
            Lease { chain_id: CHAIN_ID + 1, ..good.clone() },
            Lease { epoch: 1, ..good.clone() },
            Lease { from: HERE, ..good.clone() },
            Lease { values: vec![(foreign, foreign.absent())], ..good.clone() },
            Lease { in_flight: vec![in_flight], ..good.clone() },
            Lease { credits: vec![self.credit(2)], ..good.clone() },
            lease(GroupId { round: u64::MAX, index: 0 }),
            good,
        ];
        let message = Deliver { leases, ..deliver() };
        self.heard.ask(&self.router.deliver, message).await.unwrap();
    }

    async fn fetches(&mut self) {
        let alice = self.world.alice.address();
        let ask = Fetch {
            codes: vec![B256::repeat_byte(1)],
            leases: vec![GroupId { round: 9, index: 9 }],
            ..fetch(vec![StateKey::Basic(alice), StateKey::Code(alice)])
        };
        let reply = self.heard.ask(&self.router.fetch, ask).await.unwrap();
        assert_eq!((reply.values.len(), &reply.codes[..], reply.leases.len()), (2, &[None][..], 0));
    }

    async fn escalations(&mut self) {
        let World { alice, bob, .. } = self.world;
        let pay = |nonce| sign(alice, nonce, &Plan::pay(bob.address(), 1));
        self.heard.ask(&self.router.escalate, Escalate { txs: vec![] }).await.unwrap();
        let many = Escalate { txs: vec![pay(0), pay(1)] };
        let full = self.heard.ask(&self.router.escalate, many).await.unwrap_err();
        let overloaded = Fault::Overloaded { service: "router".into(), limit: 1 };
        assert_eq!(full, RouterError::Fault(overloaded));
    }

    /// Every message and part of a message above that was refused, by the rule that it broke.
    async fn stats(&mut self) {
        let mut stats = self.router.stats.call(Context::none(), RouterStats).await.unwrap();
        // It depends on when it is asked how much the router has tried to announce by then.
        (stats.announce, stats.blocks) = Default::default();
        self.heard.note::<RouterStats>(format!("{RouterStats:?}"), format!("{stats:?}"));
        let rules = [
            ("credit_gap", 1),
            ("expired", 1),
            ("group_not_open", 1),
            ("malformed", 4),
            ("not_for_this_shard", 1),
            ("not_owner", 3),
            ("wrong_chain", 3),
            ("wrong_epoch", 2),
        ];
        assert_eq!(stats.refused, rules.map(|(rule, count)| (rule.to_owned(), count)));
        assert_eq!((stats.escalated, stats.intents, stats.late_asks), (0, 0, 0));
    }
}
