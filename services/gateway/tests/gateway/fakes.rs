//! Shards and a beacon that answer what a test tells them to, and remember what they were asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use atoll_api::beacon::{
    BeaconError, BeaconStats, BeaconStatsReply, Blocks, BlocksReply, Head, HeadReply,
};
use atoll_api::executor::{ExecutorError, ExecutorStats, ExecutorStatsReply};
use atoll_api::mempool::{MempoolError, Refused, Submit, SubmitReply};
use atoll_api::router::{RouterError, RouterStats, RouterStatsReply};
use atoll_api::state::{
    Feed, FeedEvent, FeedReply, Lookup, LookupReply, Prove, ProveReply, Read, ReadReply,
    StateError, TxStatus,
};
use atoll_fabric::{Call, Context, Fault};
use atoll_gateway::{BeaconLinks, ShardLinks};
use atoll_types::{Address, B256, BeaconBlock, BlockEnv, Bytes, StateKey, StateValue, Tx};
use tokio::sync::watch;

/// State that a test can change and wait on.
pub struct Watched<T> {
    inner: Mutex<T>,
    version: watch::Sender<()>,
}

impl<T> Watched<T> {
    fn new(inner: T) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(inner), version: watch::Sender::new(()) })
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.version.send_replace(());
        result
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.inner.lock().expect("no test panics while it holds this")
    }

    /// Waits until `look` has something.
    pub async fn until<R>(&self, mut look: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut version = self.version.subscribe();
        loop {
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            version.changed().await.expect("the sender is here");
        }
    }
}

#[derive(Default)]
pub struct ShardScript {
    /// Submissions wait while this is set.
    pub held: bool,
    /// The answer to every transaction of this sender, or to all.
    pub refuse: Option<Refused>,
    /// The answer to every submission.
    pub fail: Option<MempoolError>,
    pub arrived: usize,
    pub submitted: Vec<Vec<Tx>>,
    /// Values from a cut on.
    pub values: BTreeMap<u64, HashMap<StateKey, StateValue>>,
    pub codes: HashMap<B256, Bytes>,
    pub cut: u64,
    pub oldest_cut: u64,
    pub reads: Vec<Read>,
    /// The answer to every request for proofs; `None`: no root is published.
    pub proven: Option<ProveReply>,
    pub proves: Vec<Prove>,
    pub statuses: HashMap<B256, TxStatus>,
    pub lookups: usize,
    pub events: Vec<FeedEvent>,
    pub lost: u64,
    /// The gateway has a place in the feed.
    pub followed: bool,
    /// `None`: it does not answer.
    pub executor: Option<ExecutorStatsReply>,
    pub router: RouterStatsReply,
}

pub type Shard = Arc<Watched<ShardScript>>;

/// Lets a foreign trait stand on a shared script.
#[derive(Clone)]
struct Link<T>(Arc<Watched<T>>);

pub fn shard() -> Shard {
    Watched::new(ShardScript::default())
}

pub fn shard_links(shard: &Shard) -> ShardLinks {
    let link = Arc::new(Link(shard.clone()));
    ShardLinks {
        submit: link.clone(),
        read: link.clone(),
        prove: link.clone(),
        lookup: link.clone(),
        feed: link.clone(),
        executor_stats: link.clone(),
        router_stats: link,
    }
}

#[async_trait]
impl Call<Submit> for Link<ShardScript> {
    async fn call(&self, _: Context, message: Submit) -> Result<SubmitReply, MempoolError> {
        self.0.change(|script| script.arrived += 1);
        self.0.until(|script| (!script.held).then_some(())).await;
        self.0.change(|script| {
            if let Some(error) = &script.fail {
                return Err(error.clone());
            }
            let refused = message.txs.iter().map(|_| script.refuse.clone()).collect();
            script.submitted.push(message.txs);
            Ok(SubmitReply { refused })
        })
    }
}

#[async_trait]
impl Call<Read> for Link<ShardScript> {
    async fn call(&self, _: Context, message: Read) -> Result<ReadReply, StateError> {
        self.0.change(|script| script.reads.push(message.clone()));
        let min_cut = message.min_cut;
        self.0.until(|script| (script.cut >= min_cut).then_some(())).await;
        let script = self.0.lock();
        let asked = message.at.unwrap_or(script.cut);
        if asked < script.oldest_cut {
            let oldest = script.oldest_cut;
            return Err(StateError::CutTooOld { asked, oldest });
        }
        let value = |key: &StateKey| {
            let mut versions = script.values.range(..=asked).rev();
            let found = versions.find_map(|(_, values)| values.get(key));
            found.copied().unwrap_or(key.absent())
        };
        Ok(ReadReply {
            values: message.keys.iter().map(value).collect(),
            codes: message.codes.iter().map(|hash| script.codes.get(hash).cloned()).collect(),
            cut: script.cut,
            head: 100 + script.cut,
        })
    }
}

#[async_trait]
impl Call<Prove> for Link<ShardScript> {
    async fn call(&self, _: Context, message: Prove) -> Result<ProveReply, StateError> {
        let asked = message.min_cut;
        self.0.change(|script| script.proves.push(message));
        self.0.lock().proven.clone().ok_or(StateError::NoRoot { asked })
    }
}

#[async_trait]
impl Call<Lookup> for Link<ShardScript> {
    async fn call(&self, _: Context, message: Lookup) -> Result<LookupReply, StateError> {
        self.0.change(|script| {
            script.lookups += 1;
            let statuses = message.txs.iter().map(|tx| script.statuses.get(tx).cloned());
            Ok(LookupReply { statuses: statuses.collect() })
        })
    }
}

#[async_trait]
impl Call<Feed> for Link<ShardScript> {
    async fn call(&self, _: Context, message: Feed) -> Result<FeedReply, StateError> {
        if message.after == Feed::NEWEST {
            let next = self.0.lock().events.len() as u64;
            return Ok(FeedReply { next, lost: 0, events: vec![] });
        }
        self.0.change(|script| script.followed = true);
        let after = message.after as usize;
        let reply = |script: &mut ShardScript| {
            let events = script.events.get(after..).unwrap_or_default();
            let events: Vec<_> = events.iter().take(message.max as usize).cloned().collect();
            let lost = std::mem::take(&mut script.lost);
            (!events.is_empty() || lost > 0).then(|| FeedReply {
                next: (after + events.len()) as u64,
                lost,
                events,
            })
        };
        Ok(self.0.until(reply).await)
    }
}

#[async_trait]
impl Call<ExecutorStats> for Link<ShardScript> {
    async fn call(
        &self,
        context: Context,
        _: ExecutorStats,
    ) -> Result<ExecutorStatsReply, ExecutorError> {
        match self.0.lock().executor {
            Some(stats) => Ok(stats),
            None if context.deadline.is_none() => panic!("it would be waited for without end"),
            None => Err(Fault::Unreachable { reason: "nobody is there".into() }.into()),
        }
    }
}

#[async_trait]
impl Call<RouterStats> for Link<ShardScript> {
    async fn call(&self, _: Context, _: RouterStats) -> Result<RouterStatsReply, RouterError> {
        Ok(self.0.lock().router.clone())
    }
}

#[derive(Default)]
pub struct BeaconScript {
    /// `None`: it does not answer.
    pub stats: Option<BeaconStatsReply>,
    /// Block 1 first.
    pub blocks: Vec<BeaconBlock>,
    /// Requests for blocks that were not there when they came.
    pub waiting: usize,
}

pub type Beacon = Arc<Watched<BeaconScript>>;

pub fn beacon() -> Beacon {
    Watched::new(BeaconScript::default())
}

pub fn beacon_links(beacon: &Beacon) -> BeaconLinks {
    let link = Arc::new(Link(beacon.clone()));
    BeaconLinks { head: link.clone(), blocks: link.clone(), stats: link }
}

/// A block that is like all others but for these numbers. Its timestamp is a hundred times its number.
pub fn block(number: u64, settled: u64) -> BeaconBlock {
    BeaconBlock {
        env: BlockEnv {
            chain_id: super::setup::CHAIN_ID,
            number,
            timestamp: 100 * number,
            randomness: B256::repeat_byte(3),
            base_fee: 7,
            coinbase: Address::repeat_byte(0xcb),
            gas_limit: 60_000_000,
        },
        time_ms: 100_000 * number,
        parent: B256::repeat_byte(2),
        epoch: 0,
        decisions: vec![],
        credits: vec![],
        plan: vec![],
        dropped: vec![],
        anchors: vec![],
        settled,
    }
}

#[async_trait]
impl Call<BeaconStats> for Link<BeaconScript> {
    async fn call(&self, _: Context, _: BeaconStats) -> Result<BeaconStatsReply, BeaconError> {
        let stats = self.0.lock().stats.clone();
        stats.ok_or(Fault::Unreachable { reason: "nobody is there".into() }.into())
    }
}

#[async_trait]
impl Call<Head> for Link<BeaconScript> {
    async fn call(&self, _: Context, _: Head) -> Result<HeadReply, BeaconError> {
        Ok(HeadReply {
            block: Arc::new(self.0.lock().blocks.last().expect("a block").clone()),
            intents_waiting: 4,
            groups_open: 5,
        })
    }
}

#[async_trait]
impl Call<Blocks> for Link<BeaconScript> {
    async fn call(&self, _: Context, message: Blocks) -> Result<BlocksReply, BeaconError> {
        let after = message.after as usize;
        let found = move |script: &mut BeaconScript| {
            let blocks = script.blocks.get(after..).unwrap_or_default();
            let blocks: Vec<_> =
                blocks.iter().take(message.max as usize).cloned().map(Arc::new).collect();
            (!blocks.is_empty()).then_some(BlocksReply { blocks })
        };
        let at_once = self.0.change(|script| {
            let blocks = found(script);
            script.waiting += usize::from(blocks.is_none());
            blocks
        });
        match at_once {
            Some(reply) => Ok(reply),
            None if message.wait_ms == 0 => Ok(BlocksReply { blocks: vec![] }),
            None => Ok(self.0.until(found).await),
        }
    }
}
