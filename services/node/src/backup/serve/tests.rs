//! Who is busy with another snapshot is waited for, and who misses a cut gets another one.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use atoll_api::beacon::HeadReply;
use atoll_fabric::{Call, Fault};
use atoll_types::{Address, B256, BeaconBlock};

use super::*;
use crate::genesis::Genesis;

/// A cluster that answers by what it is told.
#[derive(Default)]
struct Script {
    head: u64,
    /// How often a state says yet that it writes another.
    busy: u32,
    /// How often a state says yet that the cut has been passed.
    passed: u32,
    /// Cuts that were asked for.
    asked: Vec<u64>,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<Script>>, Arc<BeaconBlock>);

fn taken(cut: u64) -> SnapshotTaken {
    SnapshotTaken { number: cut, bytes: 1, digest: B256::ZERO }
}

#[derive(Clone)]
struct Nobody;

#[async_trait]
impl<M: Rpc> Call<M> for Nobody {
    async fn call(&self, _: Context, _: M) -> Result<M::Reply, M::Error> {
        Err(Fault::Unreachable { reason: "nobody is there".into() }.into())
    }
}

#[async_trait]
impl Call<TakeSnapshot> for Fake {
    async fn call(&self, _: Context, take: TakeSnapshot) -> Result<SnapshotTaken, StateError> {
        let mut script = self.0.lock().expect("no panic");
        let cut = take.cut;
        if script.busy > 0 {
            script.busy -= 1;
            return Err(StateError::SnapshotBusy { cut });
        }
        let no = |reason: &str| StateError::NoSnapshot { cut, reason: reason.to_owned() };
        if cut == 0 {
            return Err(no("passed"));
        }
        script.asked.push(cut);
        if script.passed > 0 {
            script.passed -= 1;
            return Err(no("it has been passed"));
        }
        Ok(taken(cut))
    }
}

#[async_trait]
impl Call<TakeBeaconSnapshot> for Fake {
    async fn call(
        &self,
        _: Context,
        take: TakeBeaconSnapshot,
    ) -> Result<SnapshotTaken, BeaconError> {
        Ok(taken(take.block))
    }
}

#[async_trait]
impl Call<Head> for Fake {
    async fn call(&self, _: Context, _: Head) -> Result<HeadReply, BeaconError> {
        let mut script = self.0.lock().expect("no panic");
        script.head += 100;
        let mut block = BeaconBlock::clone(&self.1);
        block.env.number = script.head;
        Ok(HeadReply { block: Arc::new(block), intents_waiting: 0, groups_open: 0 })
    }
}

fn work(script: Script, patience: Duration) -> (Work, Fake) {
    let chain = Chain {
        chain_id: 1,
        shards: 1,
        genesis_time_ms: 5,
        coinbase: Address::ZERO,
        development: false,
        balances: Default::default(),
        placement: Default::default(),
        genesis: Default::default(),
    };
    let genesis = Genesis::new(&chain).expect("a genesis");
    let fake = Fake(Arc::new(Mutex::new(script)), Arc::new(genesis.block.clone()));
    let link = Arc::new(fake.clone());
    let mut state = StateClient::new(Nobody);
    state.take_snapshot = link.clone();
    let mut beacon = BeaconClient::new(Nobody);
    (beacon.take_snapshot, beacon.head) = (link.clone(), link);
    let pause = Duration::from_millis(1);
    (Work { beacon, states: vec![state], chain, patience, pause }, fake)
}

#[tokio::test]
async fn a_snapshot_that_is_being_written_costs_no_attempt() {
    let script = Script { busy: 20 * ATTEMPTS, ..Script::default() };
    let (work, fake) = work(script, PATIENCE);
    let (cut, _, states) = work.take().await.expect("it waits");
    assert_eq!((cut, states), (104, vec![taken(104)]));
    assert_eq!(fake.0.lock().expect("no panic").asked, [104]);
}

#[tokio::test]
async fn cuts_that_are_missed_are_attempts() {
    let script = Script { passed: ATTEMPTS - 1, ..Script::default() };
    let (work_, fake) = work(script, PATIENCE);
    work_.take().await.expect("the last attempt");
    let asked = fake.0.lock().expect("no panic").asked.clone();
    assert_eq!(asked[..3], [104, 208, 316]);
    assert_eq!(asked.len(), ATTEMPTS as usize);
    let script = Script { passed: ATTEMPTS, ..Script::default() };
    let refused = work(script, PATIENCE).0.take().await.expect_err("no attempt is left");
    let refused = format!("{refused:#}");
    assert!(refused.contains("no cut was found") && refused.contains("shard 0"), "{refused}");
}

#[tokio::test]
async fn who_is_busy_for_ever_is_named_in_the_end() {
    let script = Script { busy: u32::MAX, ..Script::default() };
    let (work, _) = work(script, Duration::from_millis(90));
    let refused = work.take().await.expect_err("there is an end").to_string();
    assert_eq!(refused, "no backup within 90ms; last to be busy with another snapshot: shard 0");
}
