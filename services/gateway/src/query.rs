//! `GetAccount`, `GetStorage`, `GetBlock` and `GetCluster`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_api::beacon::{Blocks, Head, HeadReply};
use atoll_api::state::{Read, ReadReply};
use atoll_fabric::{Context, RpcError};
use atoll_types::{B256, BeaconBlock, MAX_TX_BYTES, Placement, ShardId, StateKey};
use atoll_wire::v1::{
    GetAccountRequest, GetAccountResponse, GetBlockRequest, GetBlockResponse, GetClusterRequest,
    GetClusterResponse, GetStorageRequest, GetStorageResponse, get_cluster_response,
};
use bytes::Bytes;
use futures::future;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Code, Status};

use crate::outcome::{exhausted, push_back};
use crate::{BeaconLinks, Limits, ShardLinks, convert};

/// What every query shares.
pub(crate) struct Queries {
    pub chain_id: u64,
    pub placement: Placement,
    pub shards: Arc<[ShardLinks]>,
    pub beacon: BeaconLinks,
    pub limits: Limits,
    pub version: String,
    pub places: Arc<Semaphore>,
    /// The highest number of a beacon block that this gateway has seen.
    pub newest_seen: AtomicU64,
}

/// Nobody can have seen a cut that is still to come.
pub(crate) fn check_cut(min_cut: u64, newest: u64) -> Result<(), Status> {
    if min_cut <= newest {
        return Ok(());
    }
    Err(Status::out_of_range(format!(
        "`min_cut` {min_cut} is above {newest}, the number of the newest beacon block"
    )))
}

/// The status of a read that failed. Nothing can have changed, so no answer is only a delay.
pub(crate) fn status_of<E: RpcError>(error: &E, context: &Context) -> Status {
    let code = match error.code() {
        Code::Unknown | Code::Unavailable if context.expired() => Code::DeadlineExceeded,
        Code::Unknown => Code::Unavailable,
        code => code,
    };
    let mut status = Status::new(code, error.to_string());
    if matches!(code, Code::Unavailable | Code::ResourceExhausted) {
        push_back(&mut status, 250);
    }
    status
}

impl BeaconLinks {
    pub(crate) async fn newest(&self, context: &Context) -> Result<HeadReply, Status> {
        let reply = self.head.call(context.clone(), Head).await;
        reply.map_err(|error| status_of(&error, context))
    }

    /// A block that is not the newest one; `None` if the beacon does not keep it. Block 0 follows no
    /// other, so it can only be had while it is the newest.
    pub(crate) async fn block(
        &self,
        number: u64,
        context: &Context,
    ) -> Result<Option<Arc<BeaconBlock>>, Status> {
        let Some(after) = number.checked_sub(1) else {
            return Ok(None);
        };
        let request = Blocks { after, max: 1, wait_ms: 0 };
        let reply = self.blocks.call(context.clone(), request).await;
        let blocks = reply.map_err(|error| status_of(&error, context))?.blocks;
        Ok(blocks.into_iter().find(|block| block.number() == number))
    }
}

impl Queries {
    pub async fn account(
        &self,
        request: GetAccountRequest,
        context: Context,
    ) -> Result<GetAccountResponse, Status> {
        let address = convert::read_address("address", &request.address)?;
        let _place = self.place()?;
        self.check_cut(request.min_cut, &context).await?;
        let shard = self.placement.owner(&address);
        let keys = vec![StateKey::Basic(address), StateKey::Code(address)];
        let reply = self.read(shard, keys, vec![], request.min_cut, &context).await?;
        let [basic, code] = reply.values[..] else {
            return Err(other_keys());
        };
        let (basic, hash) = (basic.basic(), code.code().hash);
        let mut response = GetAccountResponse {
            nonce: basic.nonce,
            balance: convert::number(basic.balance),
            code_hash: convert::hash(hash),
            code: Bytes::new(),
            shard: shard.0.into(),
            cut: reply.cut,
        };
        if request.with_code && hash != atoll_types::KECCAK_EMPTY {
            response.code = self.code(shard, hash, &context).await?;
        }
        Ok(response)
    }

    /// Code never changes: it need not be read at the same instant as its hash.
    async fn code(&self, shard: ShardId, hash: B256, context: &Context) -> Result<Bytes, Status> {
        let reply = self.read(shard, vec![], vec![hash], 0, context).await?;
        match reply.codes.into_iter().next() {
            Some(Some(code)) => Ok(code.0),
            _ => Err(Status::internal(format!("shard {shard} does not have code {hash}"))),
        }
    }

    pub async fn storage(
        &self,
        request: GetStorageRequest,
        context: Context,
    ) -> Result<GetStorageResponse, Status> {
        let address = convert::read_address("address", &request.address)?;
        let slot = convert::read_number("slot", &request.slot)?;
        let _place = self.place()?;
        self.check_cut(request.min_cut, &context).await?;
        let shard = self.placement.owner(&address);
        // The slot's key names the incarnation. Nearly always it is still that of the first answer.
        let mut incarnation = 0;
        loop {
            let keys = vec![StateKey::Code(address), StateKey::Slot(address, incarnation, slot)];
            let reply = self.read(shard, keys, vec![], request.min_cut, &context).await?;
            let [code, word] = reply.values[..] else {
                return Err(other_keys());
            };
            if code.code().incarnation == incarnation {
                return Ok(GetStorageResponse {
                    value: convert::hash(word.slot().into()),
                    shard: shard.0.into(),
                    cut: reply.cut,
                });
            }
            incarnation = code.code().incarnation;
            if context.expired() {
                return Err(Status::deadline_exceeded(
                    "the contract was destroyed each time it was read",
                ));
            }
        }
    }

    async fn read(
        &self,
        shard: ShardId,
        keys: Vec<StateKey>,
        codes: Vec<B256>,
        min_cut: u64,
        context: &Context,
    ) -> Result<ReadReply, Status> {
        let request = Read { keys, codes, at: None, min_cut };
        let link = &self.shards[usize::from(shard.0)].read;
        let reply = link.call(context.clone(), request).await;
        reply.map_err(|error| status_of(&error, context))
    }

    /// One of the places for requests that read; given back when it is dropped.
    pub(crate) fn place(&self) -> Result<SemaphorePermit<'_>, Status> {
        let limit = self.limits.reads;
        let place = self.places.try_acquire();
        place.map_err(|_| exhausted(format!("{limit} reads are under way, the limit")))
    }

    /// Whoever waits for a cut keeps a place on a shard: it must be one that will come.
    pub(crate) async fn check_cut(&self, min_cut: u64, context: &Context) -> Result<(), Status> {
        if min_cut <= self.newest_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        let newest = self.beacon.newest(context).await?.block.number();
        self.newest_seen.fetch_max(newest, Ordering::Relaxed);
        check_cut(min_cut, newest)
    }

    pub async fn block(
        &self,
        request: GetBlockRequest,
        context: Context,
    ) -> Result<GetBlockResponse, Status> {
        let head = self.beacon.newest(&context).await?.block;
        let number = request.number.unwrap_or(head.number());
        let block = if number == head.number() {
            Some(head)
        } else if number > head.number() {
            None
        } else {
            self.beacon.block(number, &context).await?
        };
        match block {
            Some(block) => Ok(GetBlockResponse { block: Some(convert::block(&block)) }),
            None => Err(Status::not_found(format!("there is no block {number}"))),
        }
    }

    pub async fn cluster(
        &self,
        request: GetClusterRequest,
        context: Context,
    ) -> Result<GetClusterResponse, Status> {
        let (found, limit) = (request.addresses.len(), self.limits.cluster_addresses);
        if found > limit {
            return Err(Status::invalid_argument(format!(
                "{found} addresses, the limit is {limit}"
            )));
        }
        let owner = |address: &Bytes| {
            let address = convert::read_address("addresses", address)?;
            Ok(self.placement.owner(&address).0.into())
        };
        let owners = request.addresses.iter().map(owner).collect::<Result<_, Status>>()?;
        let _place = self.place()?;
        let head = self.beacon.newest(&context).await?;
        let shards = self.placement.all().map(|shard| self.shard(shard, &head.block, &context));
        let shards = future::join_all(shards).await;
        let HeadReply { block, intents_waiting, groups_open } = head;
        Ok(GetClusterResponse {
            chain_id: self.chain_id,
            coinbase: convert::address(block.env.coinbase),
            shards,
            beacon_head: block.number(),
            settled: block.settled,
            base_fee: block.env.base_fee,
            gas_limit: block.env.gas_limit,
            version: self.version.clone(),
            limits: Some(self.limits()),
            owners,
            placement_epoch: self.placement.epoch,
            intents_waiting,
            groups_open,
        })
    }

    async fn shard(
        &self,
        shard: ShardId,
        head: &BeaconBlock,
        context: &Context,
    ) -> get_cluster_response::Shard {
        // Enough for a shard that answers at all.
        let context = context.clone().with_timeout(self.limits.request_timeout / 10);
        let reply = self.read(shard, vec![], vec![], 0, &context).await;
        let anchored = head.anchors.iter().find(|anchor| anchor.shard == shard);
        let anchored = anchored.map_or((0, 0), |anchor| (anchor.head, anchor.cut));
        let reachable = reply.is_ok();
        let (block, cut) = reply.map_or(anchored, |reply| (reply.head, reply.cut));
        get_cluster_response::Shard {
            number: shard.0.into(),
            reachable,
            head: block,
            cut,
            lag: head.number().saturating_sub(cut),
        }
    }

    fn limits(&self) -> get_cluster_response::Limits {
        let limits = &self.limits;
        let small = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        get_cluster_response::Limits {
            batch_transactions: small(limits.batch_transactions),
            transaction_bytes: small(MAX_TX_BYTES),
            message_bytes: small(limits.message_bytes),
            call_gas: limits.call_gas,
            connection_streams: limits.connection_streams,
            request_timeout_ms: u64::try_from(limits.request_timeout.as_millis())
                .unwrap_or(u64::MAX),
            watchers: small(limits.watchers),
        }
    }
}

pub(crate) fn other_keys() -> Status {
    Status::internal("a shard answered other keys than it was asked for")
}
