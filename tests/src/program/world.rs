//! The accounts and contracts of a program, and where they stand.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use alloy_primitives::{Address, B256, Bytes, U256, bytes, keccak256};
use alloy_sol_types::SolCall as _;
use atoll_types::{Placement, ShardId};

use crate::{
    contracts::{self, Token, UniswapV2Factory, UniswapV2Router02},
    wallet::{Plan, Wallet},
};

const SENDERS: u64 = 18;
/// Senders that have tokens from the beginning.
const RICH: usize = 6;
const STRANGERS: u64 = 5;
const AUTHORITIES: u64 = 4;
const VICTIMS: u64 = 3;
const CELLS: usize = 4;
/// Tokens that each of them has.
const TOKENS: u64 = 1_000_000;

/// Creation code of a contract that stores and logs the balance and the code hash of an address, so
/// that the order of payments can be seen.
const LOOKER: Bytes = bytes!("60158060095f395ff35f358031805f555f523f60205260405fa060405ff3");

/// Creation code of a contract that sends half of its balance to the address that it is called with.
const DRAIN: Bytes = bytes!("600e8060095f395ff35f5f5f5f4760011c5f355af15000");

/// What there is.
#[derive(Clone, Debug)]
pub struct World {
    pub placement: Placement,
    pub senders: Vec<Wallet>,
    /// Each deploys one contract.
    pub deployers: Vec<Wallet>,
    /// Accounts that only receive.
    pub strangers: Vec<Address>,
    /// Accounts that sign authorisations (EIP-7702). The first ones send nothing.
    pub authorities: Vec<Authority>,
    /// The last of these: they send transactions too, while others use their authorisations, which
    /// moves their nonces and takes their funds.
    pub victims: Vec<Wallet>,
    /// One for each victim, with funds.
    pub saviours: Vec<Wallet>,
    pub coinbase: Address,
    pub tokens: [Address; 2],
    pub exchange: Address,
    pub router: Address,
    /// A chain over as many shards as there are, up to four.
    pub hops: Vec<Address>,
    pub cells: Vec<Address>,
    pub chameleons: [Address; 2],
    pub drifters: [Address; 2],
    pub makers: [Address; 2],
    pub lookers: [Address; 2],
    pub drain: Address,
    pub probe: Address,
}

/// Who signs authorisations, and what its next nonce may be.
#[derive(Clone, Debug)]
pub struct Authority {
    pub wallet: Wallet,
    pub guess: Arc<AtomicU64>,
}

impl Authority {
    fn new(wallet: Wallet) -> Self {
        Self { wallet, guess: Arc::default() }
    }

    pub fn address(&self) -> Address {
        self.wallet.address()
    }

    /// Somebody has looked.
    pub fn nonce_is(&self, nonce: u64) {
        self.guess.store(nonce, Ordering::Relaxed);
    }

    pub fn guess(&self) -> u64 {
        self.guess.fetch_add(1, Ordering::Relaxed)
    }
}

impl World {
    pub fn new(seed: u64, shards: u16) -> anyhow::Result<Self> {
        let wallets = |name: &str, count: u64| {
            (0..count).map(|at| Wallet::seeded(name, seed, at)).collect::<anyhow::Result<Vec<_>>>()
        };
        let hops = usize::from(shards.clamp(3, 4));
        let deployers = wallets("deployer", 4 + hops as u64 + CELLS as u64 + 10)?;
        let victims = wallets("victim", VICTIMS)?;
        let authorities = wallets("authority", AUTHORITIES)?.into_iter().chain(victims.clone());
        let mut contracts = deployers.iter().map(|wallet| wallet.address().create(0));
        let mut places = BTreeMap::new();
        let mut next = || {
            let at = contracts.next().unwrap_or_default();
            let shard = (seed % 7 + places.len() as u64) % u64::from(shards);
            places.insert(at, ShardId(shard as u16));
            at
        };
        let mut world = Self {
            placement: Placement::new(shards, BTreeMap::new()),
            senders: wallets("sender", SENDERS)?,
            deployers: Vec::new(),
            strangers: wallets("stranger", STRANGERS)?.iter().map(Wallet::address).collect(),
            authorities: authorities.map(Authority::new).collect(),
            victims,
            saviours: wallets("saviour", VICTIMS)?,
            coinbase: Address::repeat_byte(0xc0),
            tokens: [next(), next()],
            exchange: next(),
            router: next(),
            hops: (0..hops).map(|_| next()).collect(),
            cells: (0..CELLS).map(|_| next()).collect(),
            chameleons: [next(), next()],
            drifters: [next(), next()],
            makers: [next(), next()],
            lookers: [next(), next()],
            drain: next(),
            probe: next(),
        };
        world.placement = Placement::new(shards, places);
        world.deployers = deployers;
        Ok(world)
    }

    /// What each deployer does.
    pub fn deployments(&self) -> anyhow::Result<Vec<Plan>> {
        let mut codes = vec![
            contracts::token("A")?,
            contracts::token("B")?,
            contracts::exchange()?,
            contracts::router(self.exchange)?,
        ];
        let next = self.hops.iter().skip(1).copied().chain([Address::ZERO]);
        codes.extend(next.map(contracts::hop).collect::<anyhow::Result<Vec<_>>>()?);
        for (name, count) in [("Cell", CELLS), ("Chameleon", 2), ("Drifter", 2), ("Factory", 2)] {
            let code = contracts::bytecode(name)?;
            codes.extend(std::iter::repeat_n(code, count));
        }
        codes.extend([LOOKER, LOOKER, DRAIN, contracts::bytecode("EnvProbe")?]);
        Ok(codes.into_iter().map(Plan::create).collect())
    }

    /// What somebody does first who is to have tokens and to swap them.
    pub fn fund(&self, wallet: &Wallet) -> Vec<Plan> {
        let of = |token: &Address| {
            let to = wallet.address();
            let mint = Token::mintCall { to, amount: U256::from(TOKENS) };
            let approve = Token::approveCall { spender: self.router, value: U256::MAX };
            [Plan::call(*token, mint.abi_encode()), Plan::call(*token, approve.abi_encode())]
        };
        self.tokens.iter().flat_map(of).collect()
    }

    /// Has the exchange make the pair of the two tokens.
    pub fn pair(&self) -> Plan {
        let [a, b] = self.tokens;
        let pair = UniswapV2Factory::createPairCall { tokenA: a, tokenB: b };
        Plan::call(self.exchange, pair.abi_encode()).gas(4_000_000)
    }

    /// What each sender does first.
    pub fn funds(&self) -> Vec<Vec<Plan>> {
        let funds = self.senders[..RICH].iter().map(|wallet| self.fund(wallet));
        funds.chain([vec![self.pair()]]).collect()
    }

    /// What the first sender does then.
    pub fn liquidity(&self) -> Vec<Vec<Plan>> {
        let [a, b] = self.tokens;
        let amount = U256::from(TOKENS / 4);
        let add = UniswapV2Router02::addLiquidityCall {
            tokenA: a,
            tokenB: b,
            amountADesired: amount,
            amountBDesired: amount,
            amountAMin: U256::ZERO,
            amountBMin: U256::ZERO,
            to: self.senders[0].address(),
            deadline: U256::MAX,
        };
        vec![vec![Plan::call(self.router, add.abi_encode())]]
    }

    /// Where a maker puts the child of a salt.
    pub fn child(&self, maker: Address, salt: B256) -> anyhow::Result<Address> {
        Ok(maker.create2(salt, keccak256(contracts::bytecode("Child")?)))
    }
}
