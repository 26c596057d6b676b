//! How long a snapshot of so many accounts takes, how large it is, how long the actor stands still
//! for it, and how long a start from it takes: `cargo run --release -p atoll-state --example snapshot`.
#![allow(clippy::disallowed_methods)]

use std::{collections::BTreeMap, sync::Arc, time::Duration, time::Instant};

use atoll_api::{
    StateClient,
    state::{Cut, PutCodes, SnapshotTaken, TakeSnapshot},
};
use atoll_commit::{OwnerConfig, Planner, PlannerConfig};
use atoll_fabric::{Context, Local, Place};
use atoll_state::{Core, CoreConfig, GenesisAccount, SnapshotConfig, StateService, TreeConfig};
use atoll_store::{FileLog, LogOptions, SledIndex, Snapshots};
use atoll_types::{Address, B256, BeaconBlock, Bytes, Placement, ShardId, U256};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count = std::env::args().nth(1).map_or(Ok(1_000_000), |arg| arg.parse::<u64>())?;
    let dir = tempfile::tempdir()?;
    let placement = Placement::new(1, BTreeMap::new());
    let mut planner = Planner::new(PlannerConfig::new(7, 1, Address::ZERO, 5));
    let account = |n: u64| GenesisAccount {
        address: Address::from_slice(&atoll_types::digest("account", &n)[..20]),
        balance: U256::from(n) + U256::from(1_000_000_000_000_u64),
        ..GenesisAccount::default()
    };
    let config = CoreConfig {
        owner: OwnerConfig { chain_id: 7, shard: ShardId(0), placement, max_shared: 9 },
        genesis: BeaconBlock::clone(planner.head()),
        accounts: Arc::new((0..count).map(account).collect()),
        cached_values: 1_000_000,
        tree: TreeConfig::default(),
    };
    let mut log = Box::new(FileLog::open(&dir.path().join("log"), LogOptions::default())?);
    let index = Arc::new(SledIndex::open(&dir.path().join("index"), 64 << 20)?);
    let snapshots = Snapshots::open(&dir.path().join("snapshots"))?;
    let start = Instant::now();
    let core = Core::open(&config, log.as_mut(), index, Some(&snapshots))?;
    println!("{count} accounts put into the index in {:.1?}", start.elapsed());
    let place = Place::new("state");
    let never = SnapshotConfig { log_bytes: 0, cuts: 0, kept: 2, min_free_bytes: 0, rounds: 0 };
    let (on, keeps) = (snapshots.clone(), never);
    let local =
        Local::start(&place, 64, move || StateService::new(core, log).with_snapshots(on, keeps));
    let state = StateClient::new(local.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let small = |n: u32| PutCodes { codes: vec![Bytes::from(n.to_be_bytes().to_vec())] };
        let mut usual = Duration::ZERO;
        for n in 0..200 {
            let start = Instant::now();
            state.put_codes.call(Context::none(), small(n)).await?;
            usual = usual.max(start.elapsed());
        }
        let asks = state.clone();
        let start = Instant::now();
        let taken = tokio::spawn(async move {
            asks.take_snapshot.call(Context::none(), TakeSnapshot { cut: 1 }).await
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let record = planner.propose(10, B256::ZERO);
        planner.apply(&record);
        let cut = Instant::now();
        state.cut.call(Context::none(), Cut { block: Arc::unwrap_or_clone(record.block) }).await?;
        let cut = cut.elapsed();
        let (mut longest, mut changes) = (Duration::ZERO, 200);
        while !taken.is_finished() {
            let start = Instant::now();
            state.put_codes.call(Context::none(), small(changes)).await?;
            longest = longest.max(start.elapsed());
            changes += 1;
        }
        let SnapshotTaken { bytes, .. } = taken.await??;
        println!(
            "snapshot: {bytes} bytes in {:.1?}; its cut took {cut:.1?}; the longest of {} changes \
             meanwhile {longest:.1?}, of 200 before {usual:.1?}",
            start.elapsed(),
            changes - 200
        );
        local.stop().await;
        place.stop().await;
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    let mut log = FileLog::open(&dir.path().join("log"), LogOptions::default())?;
    let index = Arc::new(SledIndex::open_empty(&dir.path().join("again"), 64 << 20)?);
    let start = Instant::now();
    Core::open(&config, &mut log, index, Some(&snapshots))?;
    println!("started from it in {:.1?}", start.elapsed());
    Ok(())
}
