//! What suites share: the two places of a service, who is asked, and a small world.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use atoll::genesis::Genesis;
use atoll_commit::OwnerConfig;
use atoll_fabric::{Call, Context, Fault, Link, Local, MAX_MESSAGE_BYTES, Place, Remote, Rpc};
use atoll_state::{Core, CoreConfig, GenesisAccount, StateService, TreeConfig};
use atoll_store::{Log, MemoryIndex, MemoryLog};
use atoll_tests::{
    CHAIN_ID,
    here::Shape,
    wallet::{Plan, Wallet},
};
use atoll_types::{
    Address, Basic, BeaconBlock, CodeRef, KeySet, Placement, ShardId, SharedTx, StateKey,
    StateValue, Tx, U256,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    service::RoutesBuilder,
    transport::{Endpoint, Server},
};

/// Calls that an actor, or a link to one, admits at a time.
pub const CALLS: usize = 64;
pub const HERE: ShardId = ShardId(0);
pub const OTHER: ShardId = ShardId(1);

/// Where a service stands.
#[derive(Clone, Copy, Debug)]
pub enum Standing {
    InProcess,
    BehindGrpc,
}

impl Standing {
    /// A client of a service: of the one given, or of a gRPC server in front of it.
    pub async fn client<C>(
        self,
        here: &C,
        from_remote: impl FnOnce(Remote) -> C,
        add: impl FnOnce(&mut RoutesBuilder, C, usize),
    ) -> C
    where
        C: Clone,
    {
        match self {
            Self::InProcess => here.clone(),
            Self::BehindGrpc => {
                let mut routes = RoutesBuilder::default();
                add(&mut routes, here.clone(), MAX_MESSAGE_BYTES);
                from_remote(serve(routes).await)
            }
        }
    }
}

async fn serve(routes: RoutesBuilder) -> Remote {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let router = Server::builder().add_routes(routes.routes());
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = endpoint.connect().await.expect("it listens");
    Remote::new(channel, CALLS, Duration::from_secs(60))
}

/// What a suite has heard, in order.
#[derive(Debug, Default, PartialEq)]
pub struct Heard(Vec<String>);

impl Heard {
    /// Asks, and notes the answer.
    pub async fn ask<M>(&mut self, link: &Link<M>, message: M) -> Result<M::Reply, M::Error>
    where
        M: Rpc + Debug,
        M::Reply: Debug,
    {
        self.ask_by(Context::none(), link, message).await
    }

    /// The same with a context.
    pub async fn ask_by<M>(
        &mut self,
        context: Context,
        link: &Link<M>,
        message: M,
    ) -> Result<M::Reply, M::Error>
    where
        M: Rpc + Debug,
        M::Reply: Debug,
    {
        let question = format!("{message:?}");
        let answer = link.call(context, message).await;
        self.note::<M>(question, format!("{answer:?}"));
        answer
    }

    /// Notes an answer without what it says of the moment.
    pub fn note<M: Rpc>(&mut self, question: String, answer: String) {
        self.0.push(format!("{} {question}\n    -> {answer}", M::PATH));
    }

    /// Fails at the first answer that is not the same.
    pub fn must_be(&self, other: &Self) {
        for (one, another) in self.0.iter().zip(&other.0) {
            assert_eq!(one, another);
        }
        assert_eq!(self.0.len(), other.0.len());
    }
}

/// A deadline that has passed.
pub fn too_late() -> Context {
    Context::none().with_timeout(Duration::ZERO)
}

/// Stands for a service that cannot be reached.
#[derive(Clone)]
pub struct Unreachable;

#[async_trait]
impl<M: Rpc> Call<M> for Unreachable {
    async fn call(&self, _: Context, _: M) -> Result<M::Reply, M::Error> {
        Err(Fault::Unreachable { reason: "nobody is there".into() }.into())
    }
}

/// A chain of two shards, and those who live there.
pub struct World {
    pub place: Place,
    pub genesis: Genesis,
    pub placement: Placement,
    /// On shard 0, with 100 ether.
    pub alice: Wallet,
    /// On shard 1, with 100 ether.
    pub bob: Wallet,
    /// On shard 0, with 100 ether.
    pub carol: Wallet,
    /// On shard 0, with nonce 5 and 100 ether.
    pub old: Wallet,
    /// On shard 0, with nothing.
    pub poor: Wallet,
}

impl World {
    pub fn new() -> Self {
        let wallet = |name| Wallet::seeded(name, 0, 0).expect("a key");
        let [alice, bob, carol, old, poor] = ["alice", "bob", "carol", "old", "poor"].map(wallet);
        let homes = [(&alice, 0), (&bob, 1), (&carol, 0), (&old, 0), (&poor, 0)];
        let placed: BTreeMap<_, _> =
            homes.iter().map(|(wallet, shard)| (wallet.address(), *shard)).collect();
        let shape = Shape { placement: placed, ..Shape::new(2) };
        let chain = shape.chain();
        let mut genesis = Genesis::new(&chain).expect("a genesis");
        let rich = |wallet: &Wallet, nonce| GenesisAccount {
            address: wallet.address(),
            balance: U256::from(10).pow(U256::from(20)),
            nonce,
            ..GenesisAccount::default()
        };
        let accounts = [rich(&alice, 0), rich(&bob, 0), rich(&carol, 0), rich(&old, 5)];
        genesis.accounts = Arc::new(accounts.to_vec());
        let placement = chain.placement();
        let place = Place::new("suite");
        Self { place, genesis, placement, alice, bob, carol, old, poor }
    }

    /// Starts the state of shard 0, with everything in memory.
    pub fn state(&self) -> Local<StateService> {
        self.state_on(Box::new(MemoryLog::new()))
    }

    /// The same on another log.
    pub fn state_on(&self, mut log: Box<dyn Log>) -> Local<StateService> {
        let config = CoreConfig {
            owner: OwnerConfig {
                chain_id: CHAIN_ID,
                shard: HERE,
                placement: self.placement.clone(),
                max_shared: 2,
            },
            genesis: self.genesis.block.clone(),
            accounts: self.genesis.accounts.clone(),
            cached_values: 1_000,
            tree: TreeConfig::default(),
        };
        let core = Core::open(&config, log.as_mut(), Arc::new(MemoryIndex::new()), None);
        let core = core.expect("a new state");
        Local::start(&self.place, CALLS, move || StateService::new(core, log))
    }
}

/// A transaction as it comes from a gateway.
pub fn sign(wallet: &Wallet, nonce: u64, plan: &Plan) -> Tx {
    let raw = wallet.sign_at(nonce, plan).expect("a signature").raw;
    Tx::recover(raw, CHAIN_ID, None).expect("a transaction")
}

/// A payment of one account to another, as it is shared before it is ordered.
pub fn shared(from: &Wallet, to: &Wallet, origin: ShardId) -> SharedTx {
    let [sender, receiver] = [from.address(), to.address()];
    SharedTx {
        tx: sign(from, 0, &Plan::pay(receiver, 7)),
        origin,
        attempt: 1,
        absences: 0,
        silences: 0,
        wrong: 0,
        keys: KeySet::new(
            [StateKey::Code(sender), StateKey::Code(receiver)],
            [StateKey::Basic(sender), StateKey::Basic(receiver)],
        ),
        last_valid_round: 1_000,
    }
}

/// The next beacon block, with nothing in it.
pub fn after(block: &BeaconBlock) -> BeaconBlock {
    let mut next = block.clone();
    next.env.number += 1;
    next.parent = block.hash();
    next.plan.clear();
    next.decisions.clear();
    next.credits.clear();
    next
}

/// What accounts of the world hold at genesis.
pub fn values(addresses: &[Address]) -> Vec<(StateKey, StateValue)> {
    let balance = U256::from(10).pow(U256::from(20));
    let of = |address: &Address| {
        let basic = StateValue::Basic(Basic { nonce: 0, balance });
        let code = StateValue::Code(CodeRef::default());
        [(StateKey::Basic(*address), basic), (StateKey::Code(*address), code)]
    };
    addresses.iter().flat_map(of).collect()
}
