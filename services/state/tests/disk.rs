//! What a state does when the disk is full, and when it fails.

use std::{
    collections::BTreeMap, os::unix::process::ExitStatusExt as _, process::Command, sync::Arc,
    time::Duration,
};

use atoll_api::{
    StateClient,
    state::{PutCodes, Read, StateError},
};
use atoll_commit::{OwnerConfig, Planner, PlannerConfig};
use atoll_fabric::{Context, Local, Place};
use atoll_state::{Core, CoreConfig, StateService, TreeConfig};
use atoll_store::{Call, Faults, FaultyLog, Log as _, MemoryIndex, MemoryLog, StoreError};
use atoll_types::{Address, BeaconBlock, Bytes, Placement, ShardId};
use tokio::time::Instant;

struct Stage {
    faults: Faults,
    log: MemoryLog,
    state: StateClient,
    place: Place,
    codes: u32,
}

const PATIENCE: Duration = Duration::from_secs(60);

impl Stage {
    fn new() -> Self {
        let (faults, log) = (Faults::new(), MemoryLog::new());
        let placement = Placement::new(1, BTreeMap::new());
        let config = CoreConfig {
            owner: OwnerConfig { chain_id: 7, shard: ShardId(0), placement, max_shared: 9 },
            genesis: BeaconBlock::clone(
                Planner::new(PlannerConfig::new(7, 1, Address::ZERO, 5)).head(),
            ),
            accounts: Arc::default(),
            cached_values: 9,
            tree: TreeConfig::default(),
        };
        let mut faulty = Box::new(FaultyLog::new(log.clone(), faults.clone()));
        let core = Core::open(&config, faulty.as_mut(), Arc::new(MemoryIndex::new()), None);
        let core = core.expect("a new state");
        let place = Place::new("state");
        let local = Local::start(&place, 64, move || StateService::new(core, faulty));
        Self { faults, log, state: StateClient::new(local), place, codes: 0 }
    }

    /// A change that is another one each time.
    async fn change(&mut self) -> Result<(), StateError> {
        self.codes += 1;
        let code = Bytes::from(self.codes.to_be_bytes().to_vec());
        self.state.put_codes.call(Context::none(), PutCodes { codes: vec![code] }).await
    }

    async fn read(&self) -> Result<u64, StateError> {
        let read = Read { keys: vec![], codes: vec![], at: None, min_cut: 0 };
        Ok(self.state.read.call(Context::none(), read).await?.cut)
    }

    /// Waits until changes are refused, or are not any more. Returns how many were acknowledged.
    async fn until_refused(&mut self, refused: bool) -> usize {
        let deadline = Instant::now() + PATIENCE;
        let mut acknowledged = 0;
        loop {
            match self.change().await {
                Ok(()) => {
                    acknowledged += 1;
                    assert_eq!(self.log.synced() + 1, self.log.next(), "all of it is synced");
                    if !refused {
                        return acknowledged;
                    }
                }
                Err(error @ StateError::Full { .. }) => {
                    let text = error.to_string();
                    assert!(text.contains("is full") && text.contains("free some"), "{text}");
                    assert_eq!(
                        atoll_fabric::RpcError::code(&error),
                        tonic::Code::ResourceExhausted
                    );
                    if refused {
                        return acknowledged;
                    }
                }
                Err(other) => panic!("{other}"),
            }
            assert!(Instant::now() < deadline, "changes are not refused: {refused}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn full() -> StoreError {
    StoreError::Full { op: "append to", path: "disk".into() }
}

/// What is under way finds the room that was set aside.
#[tokio::test]
async fn a_volume_that_fills_up_refuses_changes_and_serves_reads_until_there_is_room() {
    let mut stage = Stage::new();
    assert_eq!(stage.change().await, Ok(()));
    for _ in 0..2 {
        stage.faults.fail_from(Call::Room, 1, full());
        stage.until_refused(true).await;
        assert_eq!(stage.read().await, Ok(0));
        stage.faults.heal(Call::Room);
        assert_eq!(stage.until_refused(false).await, 1);
        assert_eq!(stage.read().await, Ok(0));
    }
    stage.place.stop().await;
}

/// Not even that: nothing is acknowledged, and nothing is lost, before there is room.
#[tokio::test]
async fn what_finds_no_room_at_all_is_written_and_acknowledged_when_there_is_some() {
    let mut stage = Stage::new();
    stage.faults.fail_from(Call::Append, 1, full());
    let (before, state) = (stage.log.next(), stage.state.clone());
    let waiting = tokio::spawn(async move {
        let codes = vec![Bytes::from_static(b"begun before the disk was full")];
        state.put_codes.call(Context::none(), PutCodes { codes }).await
    });
    let acknowledged = stage.until_refused_or_waits().await;
    assert_eq!((acknowledged, stage.log.next()), (0, before));
    assert!(!waiting.is_finished(), "acknowledged and not synced");
    stage.faults.heal(Call::Append);
    let answer = tokio::time::timeout(PATIENCE, waiting).await.expect("it is written later");
    assert_eq!(answer.expect("no panic"), Ok(()));
    assert_eq!(stage.log.synced() + 1, stage.log.next());
    stage.until_refused(false).await;
    assert_eq!(stage.read().await, Ok(0));
    stage.place.stop().await;
}

impl Stage {
    /// Offers changes, none of which is waited for, until one is refused.
    async fn until_refused_or_waits(&mut self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let soon = tokio::time::timeout(Duration::from_millis(20), self.change()).await;
            match soon {
                Ok(Ok(())) => return 1,
                Ok(Err(StateError::Full { .. })) => return 0,
                Ok(Err(other)) => panic!("{other}"),
                Err(_) => assert!(Instant::now() < deadline, "it is never refused"),
            }
        }
    }
}

const CHILD: &str = "ATOLL_TEST_FAILS_TO_SYNC";

/// Run by the test below in a process of its own.
#[tokio::test]
async fn a_process_that_fails_to_sync() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let mut stage = Stage::new();
    assert_eq!(stage.change().await, Ok(()));
    println!("first acknowledged");
    let error = StoreError::Io { op: "sync", path: "disk".into(), reason: "as planned".into() };
    stage.faults.fail(Call::Sync, 1, error);
    let answer = stage.change().await;
    println!("second answered: {answer:?}");
}

#[test]
fn a_failed_sync_ends_the_process_and_acknowledges_nothing() {
    let own = std::env::current_exe().expect("this test");
    let child = Command::new(own)
        .args(["--exact", "a_process_that_fails_to_sync", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("a process");
    let said = String::from_utf8_lossy(&child.stdout);
    assert_eq!(child.status.signal(), Some(6), "{said}");
    assert!(said.contains("first acknowledged") && !said.contains("second answered"), "{said}");
}
