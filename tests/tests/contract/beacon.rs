use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use atoll_api::{
    BeaconClient,
    beacon::{Announce, BeaconError, BeaconStats, BeaconStatsReply, Blocks, Head},
};
use atoll_beacon::{BeaconService, Cadence, Core};
use atoll_commit::PlannerConfig;
use atoll_fabric::{Context, Fault, Local};
use atoll_store::{MemoryIndex, MemoryLog};
use atoll_types::{Anchor, B256, Intent, ShardId, ShardKeys, TxRef};

use crate::setup::{CALLS, HERE, Heard, OTHER, Standing, World, too_late};

/// Intents that may wait.
const LIMIT: u32 = 2;
const NOBODY: ShardId = ShardId(7);

#[tokio::test(flavor = "multi_thread")]
async fn a_beacon_answers_alike_wherever_it_stands() {
    let here = suite(Standing::InProcess).await;
    here.must_be(&suite(Standing::BehindGrpc).await);
}

async fn suite(standing: Standing) -> Heard {
    let world = World::new();
    let start_ms = world.genesis.planner.genesis_time_ms;
    let clock = Arc::new(AtomicU64::new(start_ms));
    let service = {
        let clock = clock.clone();
        let config = PlannerConfig { max_waiting: LIMIT, ..world.genesis.planner.clone() };
        let mut log = Box::new(MemoryLog::new());
        let core = Core::open(config, log.as_mut(), Arc::new(MemoryIndex::new()), None);
        let core = core.expect("a new chain");
        Local::start(&world.place, CALLS, move || {
            let clock = Arc::new(move || clock.load(Ordering::SeqCst));
            let randomness = Arc::new(|| B256::repeat_byte(7));
            BeaconService::new(core, log, Cadence::default(), clock, randomness)
        })
    };
    let here = BeaconClient::new(service.clone());
    let add = |routes: &mut tonic::service::RoutesBuilder, client, max| {
        routes.add_service(atoll_beacon::grpc::server(client, max));
    };
    let beacon = standing.client(&here, BeaconClient::new, add).await;
    let mut suite = Suite { world: &world, beacon, heard: Heard::default() };
    suite.first_block().await;
    suite.announcements_that_are_refused().await;
    suite.announcements().await;
    suite.blocks(&clock).await;
    suite.stats().await;
    let late = suite.heard.ask_by(too_late(), &suite.beacon.head, Head).await;
    assert_eq!(late.unwrap_err(), BeaconError::Fault(Fault::DeadlineExceeded));
    service.stop().await;
    let stopped = suite.heard.ask(&suite.beacon.head, Head).await.unwrap_err();
    assert_eq!(stopped, BeaconError::Fault(Fault::Stopped { service: "beacon".into() }));
    suite.heard
}

struct Suite<'a> {
    world: &'a World,
    beacon: BeaconClient,
    heard: Heard,
}

fn keys(shard: ShardId) -> ShardKeys {
    ShardKeys {
        shard,
        reads: [1].into_iter().collect(),
        writes: [2 + u64::from(shard.0)].into_iter().collect(),
    }
}

fn anchor(shard: ShardId) -> Anchor {
    Anchor {
        shard,
        head: 1,
        cut: 0,
        digest: B256::repeat_byte(1),
        gas_used: 5,
        acks: vec![],
        credits_sent: vec![],
        credits_received: vec![],
        root: None,
    }
}

impl Suite<'_> {
    fn intent(&self, number: u8) -> Intent {
        Intent {
            tx: TxRef { hash: B256::repeat_byte(number), attempt: 1 },
            origin: HERE,
            sender: atoll_types::StateKey::Basic(self.world.alice.address()).fingerprint(),
            nonce: u64::from(number),
            gas_limit: 100_000,
            halvings: 0,
            last_valid_round: 1_000,
            keys: [keys(HERE), keys(OTHER)].into(),
        }
    }

    /// Made at once; the clock stands, so no other one is made until it is moved.
    async fn first_block(&mut self) {
        let ask = Blocks { after: 0, max: 10, wait_ms: 30_000 };
        let blocks = self.heard.ask(&self.beacon.blocks, ask).await.unwrap().blocks;
        assert_eq!((blocks.len(), blocks[0].number()), (1, 1));
    }

    async fn announce(
        &mut self,
        from: ShardId,
        intents: Vec<Intent>,
        anchor: Option<Anchor>,
    ) -> Result<(), BeaconError> {
        let message = Announce { from, intents, anchor, earlier_acks: 0 };
        self.heard.ask(&self.beacon.announce, message).await.map(|_| ())
    }

    async fn announcements_that_are_refused(&mut self) {
        let nobody = self.announce(NOBODY, vec![], None).await.unwrap_err();
        assert_eq!(nobody, BeaconError::NoSuchShard { shard: NOBODY, shards: 2 });
        let good = self.intent(1);
        let of = |keys: Vec<ShardKeys>| Intent { keys: keys.into(), ..good.clone() };
        let empty =
            ShardKeys { shard: OTHER, reads: Default::default(), writes: Default::default() };
        let malformed = [
            (Intent { origin: OTHER, ..good.clone() }, "its origin is shard 1"),
            (of(vec![]), "ascending order"),
            (of(vec![keys(OTHER), keys(HERE)]), "ascending order"),
            (of(vec![keys(OTHER)]), "no key of its sender's shard"),
            (of(vec![keys(HERE), empty]), "of which it uses no key"),
            (of(vec![keys(HERE), keys(NOBODY)]), "it names shard 7, this cluster has 2"),
        ];
        for (intent, words) in malformed {
            let refused = self.announce(HERE, vec![intent], None).await.unwrap_err();
            let BeaconError::BadIntent { what } = &refused else { panic!("{refused:?}") };
            assert!(what.contains(words), "{what}");
        }
        let forged = self.announce(HERE, vec![], Some(anchor(OTHER))).await;
        assert!(matches!(forged, Err(BeaconError::BadIntent { .. })), "{forged:?}");
        let head = self.heard.ask(&self.beacon.head, Head).await.unwrap();
        assert_eq!((head.block.number(), head.intents_waiting, head.groups_open), (1, 0, 0));
    }

    async fn announcements(&mut self) {
        for shard in [HERE, OTHER] {
            self.announce(shard, vec![], Some(anchor(shard))).await.unwrap();
        }
        let intents = vec![self.intent(1), self.intent(2)];
        self.announce(HERE, intents.clone(), None).await.unwrap();
        let full = self.announce(HERE, vec![self.intent(3)], None).await.unwrap_err();
        assert_eq!(full, BeaconError::TooManyIntents { limit: LIMIT.into() });
        let head = self.heard.ask(&self.beacon.head, Head).await.unwrap();
        assert_eq!((head.block.number(), head.intents_waiting), (1, 2));
    }

    async fn blocks(&mut self, clock: &AtomicU64) {
        let blocks = |after, wait_ms| Blocks { after, max: 10, wait_ms };
        let none = self.heard.ask(&self.beacon.blocks, blocks(1, 0)).await.unwrap();
        assert!(none.blocks.is_empty());
        clock.fetch_add(1_000, Ordering::SeqCst);
        let one = self.heard.ask(&self.beacon.blocks, blocks(1, 30_000)).await.unwrap().blocks;
        assert_eq!((one.len(), one[0].number(), one[0].plan.len()), (1, 2, 1));
        assert_eq!(one[0].anchors.len(), 2);
        let both = self.heard.ask(&self.beacon.blocks, blocks(0, 0)).await.unwrap().blocks;
        assert_eq!(both.iter().map(|block| block.number()).collect::<Vec<_>>(), [1, 2]);
        let far = self.heard.ask(&self.beacon.blocks, blocks(99, 1)).await.unwrap();
        assert!(far.blocks.is_empty());
        let head = self.heard.ask(&self.beacon.head, Head).await.unwrap();
        assert_eq!((head.intents_waiting, head.groups_open), (0, 1));
        // Planned once, it is not taken again.
        self.announce(HERE, vec![self.intent(1)], None).await.unwrap();
        let head = self.heard.ask(&self.beacon.head, Head).await.unwrap();
        assert_eq!(head.intents_waiting, 0);
    }

    async fn stats(&mut self) {
        let stats = self.beacon.stats.call(Context::none(), BeaconStats).await.unwrap();
        assert!(stats.cpu_ns > 0);
        let refused = [("bad_intent", 7), ("no_such_shard", 1), ("too_many_intents", 1)];
        let expected = BeaconStatsReply {
            blocks: 2,
            intents: 2,
            groups: 1,
            txs: 2,
            commits: 0,
            aborts: 0,
            cpu_ns: stats.cpu_ns,
            refused: refused.map(|(rule, count)| (rule.to_owned(), count)).into(),
        };
        assert_eq!(stats, expected);
    }
}
