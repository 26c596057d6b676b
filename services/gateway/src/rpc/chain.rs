//! One chain out of all shards: Ethereum's block n is round n's groups in the order of the plan, then
//! each shard's blocks between the cuts n and n + 1.
//!
//! A block is closed when every shard has passed a beacon block that knows all of its groups decided,
//! and every payment to another shard that it debits has ended. From then on nothing of it changes, so
//! any gateway gives the same answer whenever it is asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use atoll_api::beacon::{BeaconError, Blocks};
use atoll_api::mempool::{Content, Pending, Status as PoolStatus};
use atoll_api::state::{Append, LogNames, Progress, Ran, RanTx, RoundsRun};
use atoll_api::{MempoolClient, StateClient};
use atoll_fabric::{Context, Link};
use atoll_types::{BeaconBlock, ReceiptKind, ShardId};
use futures::future;
use tokio::sync::{OnceCell, Semaphore, watch};
use tonic::Status;

use super::block::Block;
use super::cache::Cache;
use super::error::Failure;
use crate::query::status_of;
use crate::{BeaconLinks, Limits};

/// How long the beacon may hold a request for its next block.
const BLOCK_WAIT_MS: u64 = 10_000;
/// The same while payments are under way: their end makes no beacon block.
const PAYMENT_WAIT_MS: u64 = 25;
/// Time for an answer besides that.
const SLACK: Duration = Duration::from_secs(5);
/// Pause after the chain could not be followed.
const PAUSE: Duration = Duration::from_millis(250);
/// Times as many blocks that anchors are looked for in at the beginning.
const LOOKS_BACK: usize = 8;
/// Blocks of the beacon taken at a time.
const BLOCKS_AT_ONCE: u32 = 64;

/// What JSON-RPC asks of one shard besides what the gateway asks.
#[derive(Clone)]
pub struct RpcLinks {
    pub pending: Link<Pending>,
    pub content: Link<Content>,
    pub status: Link<PoolStatus>,
    pub ran: Link<Ran>,
    pub rounds_run: Link<RoundsRun>,
    pub progress: Link<Progress>,
    /// For development.
    pub append: Link<Append>,
}

impl RpcLinks {
    /// Takes the links that are needed.
    pub fn new(mempool: &MempoolClient, state: &StateClient) -> Self {
        Self {
            pending: mempool.pending.clone(),
            content: mempool.content.clone(),
            status: mempool.status.clone(),
            ran: state.ran.clone(),
            rounds_run: state.rounds_run.clone(),
            progress: state.progress.clone(),
            append: state.append.clone(),
        }
    }
}

/// How far the chain has come.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Number of the newest closed block.
    pub latest: u64,
    /// The newest closed block that the beacon has anchored whole.
    pub finalized: u64,
    /// A cut that all shards have passed and that shows what `latest` did.
    pub cut: u64,
    /// The newest beacon block.
    pub beacon: Arc<BeaconBlock>,
}

pub(crate) struct Chain {
    pub links: Vec<RpcLinks>,
    pub beacon: BeaconLinks,
    /// Beacon block 0.
    pub genesis: Arc<BeaconBlock>,
    pub limits: Limits,
    pub head: watch::Sender<Option<Arc<Head>>>,
    pub cache: Arc<Cache>,
    /// Places for blocks that are being put together.
    pub assembling: Semaphore,
    /// The newest blocks can be found by their hashes.
    pub named: OnceCell<()>,
}

/// What following the chain remembers.
#[derive(Default)]
struct Following {
    newest: Option<Arc<BeaconBlock>>,
    /// Payments are under way.
    paying: bool,
    /// Blocks that are closed once a cut is settled: the cut, and the newest of them.
    closing: VecDeque<(u64, u64)>,
    latest: Option<u64>,
    /// The newest cut of each shard that the beacon has anchored: a block holds those of few shards.
    anchored: BTreeMap<ShardId, u64>,
}

impl Following {
    fn learn(&mut self, blocks: &[Arc<BeaconBlock>]) {
        for anchor in blocks.iter().flat_map(|block| &block.anchors) {
            let cut = self.anchored.entry(anchor.shard).or_default();
            *cut = anchor.cut.max(*cut);
        }
    }

    /// The newest block that all shards have anchored: who has passed cut n + 1 has run round n.
    fn finalized(&self, shards: usize) -> u64 {
        let all = self.anchored.len() == shards;
        let cut = self.anchored.values().min().filter(|_| all);
        cut.map_or(0, |cut| cut.saturating_sub(1))
    }
}

impl Chain {
    /// Follows the chain for ever.
    pub async fn follow(self: Arc<Self>) {
        let mut following = Following::default();
        loop {
            if let Err(status) = self.step(&mut following).await {
                tracing::warn!(reason = status.message(), "cannot follow the chain; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn step(&self, following: &mut Following) -> Result<(), Status> {
        let block = self.next_beacon_block(following).await?;
        let context = Context::none().with_timeout(self.limits.patience());
        let min_cut = block.number();
        let asked = self.links.iter().map(|links| {
            let context = context.clone();
            async move { links.progress.call(context, Progress { min_cut }).await }
        });
        let (mut ended_before, mut ended_at) = (u64::MAX, 0);
        following.paying = false;
        for reply in future::join_all(asked).await {
            let reply = reply.map_err(|error| status_of(&error, &context))?;
            following.paying |= reply.ended_before < reply.cut;
            ended_before = ended_before.min(reply.ended_before);
            ended_at = ended_at.max(reply.ended_at);
        }
        following.newest = Some(block.clone());
        // State at a cut has the rounds before it.
        if let Some(closed) = block.settled.min(ended_before).checked_sub(1) {
            following.closing.push_back((ended_at, closed));
        }
        while let Some((_, closed)) = following.closing.pop_front_if(|(at, _)| *at <= block.settled)
        {
            following.latest = following.latest.max(Some(closed));
        }
        if let Some(latest) = following.latest {
            self.publish(latest, following.finalized(self.links.len()), block);
        }
        Ok(())
    }

    async fn first_beacon_block(
        &self,
        following: &mut Following,
    ) -> Result<Arc<BeaconBlock>, Status> {
        let context = Context::none().with_timeout(SLACK);
        let newest = self.beacon.newest(&context).await?.block;
        following.learn(std::slice::from_ref(&newest));
        let mut after = newest.number();
        for _ in 0..LOOKS_BACK {
            if following.anchored.len() >= self.links.len() || after == 0 {
                break;
            }
            after = after.saturating_sub(u64::from(BLOCKS_AT_ONCE));
            let request = Blocks { after, max: BLOCKS_AT_ONCE, wait_ms: 0 };
            let reply = self.beacon.blocks.call(context.clone(), request).await;
            following.learn(&reply.map_err(|error| status_of(&error, &context))?.blocks);
        }
        Ok(newest)
    }

    async fn next_beacon_block(
        &self,
        following: &mut Following,
    ) -> Result<Arc<BeaconBlock>, Status> {
        let Some(newest) = following.newest.clone() else {
            return self.first_beacon_block(following).await;
        };
        let wait_ms = if following.paying { PAYMENT_WAIT_MS } else { BLOCK_WAIT_MS };
        let context = Context::none().with_timeout(Duration::from_millis(wait_ms) + SLACK);
        let request = Blocks { after: newest.number(), max: BLOCKS_AT_ONCE, wait_ms };
        let reply = self.beacon.blocks.call(context.clone(), request).await;
        let blocks = reply.map_err(|error| status_of(&error, &context))?.blocks;
        self.cache.name(&blocks);
        following.learn(&blocks);
        Ok(blocks.into_iter().last().unwrap_or(newest))
    }

    fn publish(&self, latest: u64, anchored: u64, beacon: Arc<BeaconBlock>) {
        let before = self.head.borrow().clone();
        let finalized = anchored.min(latest);
        let finalized = before.as_ref().map_or(finalized, |head| head.finalized.max(finalized));
        let cut = beacon.settled;
        let same = |head: &Arc<Head>| {
            (head.latest, head.finalized, head.cut, head.beacon.number())
                == (latest, finalized, cut, beacon.number())
        };
        if !before.as_ref().is_some_and(same) {
            self.head.send_replace(Some(Arc::new(Head { latest, finalized, cut, beacon })));
        }
    }

    /// How far the chain has come; waits until that is known at all.
    pub async fn head(&self) -> Result<Arc<Head>, Failure> {
        let mut head = self.head.subscribe();
        let known = tokio::time::timeout(self.limits.patience(), head.wait_for(Option::is_some));
        match known.await {
            Ok(Ok(head)) => head.clone().ok_or_else(|| Failure::internal("no head")),
            _ => Err(Failure::server("not every shard answers yet; try again")),
        }
    }

    /// A closed block; `None` if there is none of that number.
    pub async fn block(self: &Arc<Self>, number: u64) -> Result<Option<Arc<Block>>, Failure> {
        if number > self.head().await?.latest {
            return Ok(None);
        }
        let chain = self.clone();
        self.cache.get_or(number, move || chain.assembled(number)).await
    }

    /// A closed block, put together anew: one of few at a time.
    async fn assembled(self: Arc<Self>, number: u64) -> Result<Option<Arc<Block>>, Failure> {
        let assemble = async {
            let _place = self.assembling.acquire().await;
            self.assemble(number).await
        };
        let block = tokio::time::timeout(self.limits.patience(), assemble).await;
        block.unwrap_or_else(|_| Err(Failure::server(format!("block {number} takes too long"))))
    }

    async fn assemble(&self, number: u64) -> Result<Option<Arc<Block>>, Failure> {
        let context = Context::none().with_timeout(self.limits.patience());
        let Some(beacon) = self.beacon_block(number, &context).await? else {
            return Ok(None);
        };
        let asked = (0..self.links.len()).map(|shard| self.ran(shard, number, &context));
        let mut groups = Vec::new();
        let mut local = Vec::new();
        for (shard, ran) in future::join_all(asked).await.into_iter().enumerate() {
            let shard = ShardId(u16::try_from(shard).unwrap_or(u16::MAX));
            for ran in ran? {
                match ran.receipt.kind {
                    ReceiptKind::Group(group) => {
                        groups.push(((group.index, ran.receipt.index), ran))
                    }
                    ReceiptKind::Local | ReceiptKind::Credit => local.push((shard, ran)),
                }
            }
        }
        groups.sort_by_key(|(place, _)| *place);
        let groups = groups.into_iter().map(|(_, ran)| ran);
        // Shard by shard, each in its own order.
        let txs: Vec<RanTx> = groups.chain(local.into_iter().map(|(_, ran)| ran)).collect();
        Ok(Some(Arc::new(Block::new(&beacon, txs))))
    }

    /// All that a shard's senders ran in a round.
    async fn ran(
        &self,
        shard: usize,
        round: u64,
        context: &Context,
    ) -> Result<Vec<RanTx>, Failure> {
        let mut txs = Vec::new();
        loop {
            let skip = u32::try_from(txs.len()).unwrap_or(u32::MAX);
            let reply = self.links[shard].ran.call(context.clone(), Ran { round, skip }).await;
            let reply = reply.map_err(|error| status_of(&error, context))?;
            let more = reply.more && !reply.txs.is_empty();
            txs.extend(reply.txs);
            if !more {
                return Ok(txs);
            }
        }
    }

    pub async fn beacon_block(
        &self,
        number: u64,
        context: &Context,
    ) -> Result<Option<Arc<BeaconBlock>>, Status> {
        let newest = self.head.borrow().as_ref().map(|head| head.beacon.clone());
        match number {
            0 => Ok(Some(self.genesis.clone())),
            _ if newest.as_ref().is_some_and(|newest| newest.number() == number) => Ok(newest),
            _ => self.beacon.block(number, context).await,
        }
    }

    /// Numbers of the blocks of a range that hold any transaction, or whose logs may name one of each
    /// of `named`.
    pub async fn filled(
        &self,
        first: u64,
        last: u64,
        named: &[LogNames],
    ) -> Result<Vec<u64>, Failure> {
        let most = if named.is_empty() { RoundsRun::MAX } else { RoundsRun::MAX_NAMED };
        let context = Context::none().with_timeout(self.limits.patience());
        let mut rounds = Vec::new();
        let mut first = first;
        while first <= last {
            let end = last.min(first.saturating_add(most - 1));
            let asked = self.links.iter().map(|links| {
                let asked = RoundsRun { first, last: end, named: named.to_vec() };
                links.rounds_run.call(context.clone(), asked)
            });
            for reply in future::join_all(asked).await {
                let reply = reply.map_err(|error| status_of(&error, &context))?;
                rounds.extend(reply.rounds.into_iter().filter(|n| (first..=end).contains(n)));
            }
            first = end.saturating_add(1);
            if end == u64::MAX {
                break;
            }
        }
        rounds.sort_unstable();
        rounds.dedup();
        Ok(rounds)
    }

    /// The number of a closed block, given its hash: one of the newest ones.
    pub async fn number_of(&self, hash: B256) -> Result<Option<u64>, Failure> {
        let head = self.chain_names().await?;
        Ok(self.cache.number_of(&hash).filter(|number| *number <= head.latest))
    }

    /// Once the newest blocks have their names.
    async fn chain_names(&self) -> Result<Arc<Head>, Failure> {
        let head = self.head().await?;
        let named = self.named.get_or_try_init(|| async {
            // Those of later blocks come as they are followed.
            let mut after = head.beacon.number().saturating_sub(self.limits.rpc.hash_search_blocks);
            let context = Context::none().with_timeout(self.limits.patience());
            while after < head.beacon.number() {
                let request = Blocks { after, max: BLOCKS_AT_ONCE, wait_ms: 0 };
                let blocks = match self.beacon.blocks.call(context.clone(), request).await {
                    Ok(reply) => reply.blocks,
                    Err(BeaconError::Pruned { oldest, .. }) if oldest > after + 1 => {
                        after = oldest - 1;
                        continue;
                    }
                    Err(error) => return Err(status_of(&error, &context).into()),
                };
                let Some(last) = blocks.last() else { break };
                after = last.number();
                self.cache.name(&blocks);
            }
            Ok::<(), Failure>(())
        });
        named.await?;
        Ok(head)
    }
}
