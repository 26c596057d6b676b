//! What the accounts of a run do: which contracts there are, and the transactions that get in one
//! another's way on them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall as _;
use atoll_tests::{
    contracts::{self, Cell, Hop, Maker, Token, hop, token},
    program::{Act, World},
    wallet::{Plan, Wallet},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use crate::client::{BOOK_ACCOUNTS, BOOKS, HELD, LISTS};

/// Links of the chain of contracts that calls one another.
const HOPS: usize = 3;
/// Most transactions that an account sends before it waits for their ends.
const BURST: usize = 8;

/// What a transaction is to do, for the sums at the end.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Pay {
        to: usize,
        wei: u64,
    },
    Token {
        token: usize,
        to: usize,
        amount: u64,
    },
    /// Moves an amount from an account of a book to one of another.
    Move {
        from: (usize, usize),
        to: (usize, usize),
        amount: u64,
    },
    /// Appends values to lists of books, all or none.
    Append(Vec<Step>),
    /// Something else, which takes so much from its sender if it succeeds.
    Other {
        wei: U256,
    },
}

/// Book, list and value; zero reads the list.
pub(crate) type Step = (usize, usize, u64);

/// Who and what there is.
pub struct Cast {
    pub wallets: Vec<Wallet>,
    /// Contracts whose calls cannot be foreseen, of which each is created by a wallet of its own.
    pub world: World,
    pub(crate) tokens: Vec<Address>,
    pub(crate) hops: Vec<Address>,
    pub(crate) books: Vec<Address>,
    /// How often somebody has paid or made a contract that is not there yet.
    births: AtomicU64,
}

/// A kind of transaction.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Pay,
    PayContract,
    Token,
    Hop,
    Move,
    Append,
    Read,
    /// Writes a cell that contracts on other shards write too; local, if it stands on the own shard.
    Touch,
    /// Looks at the balance of somebody who pays.
    Look,
    /// Pays where code is about to be.
    PayUnborn,
    /// Has code be where others pay.
    GiveBirth,
    Act(Act),
}

/// What gets in one another's way: a run does one of these more than everything else.
const THEMES: [&[Kind]; 5] = [
    // Code comes to be where payments go.
    &[
        Kind::Pay,
        Kind::PayUnborn,
        Kind::GiveBirth,
        Kind::Act(Act::PayAuthority),
        Kind::Act(Act::Authorize),
    ],
    // Keys that nobody can foresee, which others use too.
    &[
        Kind::Touch,
        Kind::Act(Act::DriftTo),
        Kind::Act(Act::Poke),
        Kind::Act(Act::Set),
        Kind::Act(Act::Drift),
    ],
    // Values that groups of several shards take from one another.
    &[Kind::Move, Kind::Append, Kind::Read, Kind::Hop, Kind::Act(Act::Swap)],
    // Accounts that pay and are paid while they call across shards.
    &[Kind::Pay, Kind::Token, Kind::Hop, Kind::Look],
    // What one shard writes alone and others read.
    &[Kind::Pay, Kind::Look, Kind::Read, Kind::Append, Kind::PayContract],
];

/// What there is besides.
const OTHERS: [Kind; 6] = [
    Kind::Pay,
    Kind::Token,
    Kind::Move,
    Kind::Act(Act::Make),
    Kind::Act(Act::Deploy),
    Kind::Act(Act::Record),
];

/// How often there is what: runs differ, and some do a few things all the time.
#[derive(Clone, Debug)]
pub struct Mix {
    kinds: Vec<(Kind, u32)>,
    /// Accounts and books that most transactions go to.
    hot: Option<usize>,
    /// Most transactions of an account at a time.
    burst: usize,
}

impl Mix {
    pub fn new(seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(seed ^ 0x6d69_7800);
        let theme = THEMES[random.random_range(0..THEMES.len())];
        let weighted = |kinds: &[Kind], weight| -> Vec<(Kind, u32)> {
            kinds.iter().map(|kind| (*kind, weight)).collect()
        };
        let all = THEMES.concat();
        let kinds = [weighted(theme, 15), weighted(&all, 1), weighted(&OTHERS, 1)].concat();
        let hot = random.random_bool(0.5).then(|| random.random_range(1..=2));
        Self { kinds, hot, burst: random.random_range(2..=BURST) }
    }

    /// How many transactions an account sends now.
    pub fn burst(&self, random: &mut StdRng) -> usize {
        random.random_range(1..=self.burst)
    }

    fn kind(&self, random: &mut StdRng) -> Kind {
        let chosen = self.kinds.choose_weighted(random, |(_, weight)| *weight);
        chosen.map_or(Kind::Pay, |(kind, _)| *kind)
    }

    /// One of so many accounts, books or lists.
    fn one(&self, count: usize, random: &mut StdRng) -> usize {
        let hot = self.hot.filter(|_| random.random_bool(0.8)).unwrap_or(count);
        random.random_range(0..hot.clamp(1, count))
    }
}

impl Cast {
    pub fn new(seed: u64, accounts: usize, shards: u16) -> anyhow::Result<Arc<Self>> {
        let wallets = (0..accounts as u64).map(|index| Wallet::seeded("sim", seed, index));
        let wallets = wallets.collect::<anyhow::Result<Vec<_>>>()?;
        let creator = wallets[0].address();
        let made = |nonces: std::ops::Range<usize>| -> Vec<Address> {
            nonces.map(|nonce| creator.create(nonce as u64)).collect()
        };
        Ok(Arc::new(Self {
            wallets,
            world: World::new(seed, shards)?,
            tokens: made(0..2),
            hops: made(2..2 + HOPS),
            books: made(2 + HOPS..2 + HOPS + BOOKS),
            births: AtomicU64::new(0),
        }))
    }

    /// Everybody who sends transactions: those that act, then those that only create a contract.
    pub fn senders(&self) -> impl Iterator<Item = &Wallet> {
        self.wallets.iter().chain(&self.world.deployers)
    }

    /// Where contracts stand that do not stand where their hash would put them.
    pub fn placement(&self, shards: u16) -> BTreeMap<Address, u16> {
        let made = [&self.tokens, &self.hops, &self.books].into_iter().flatten();
        let made = made.zip(0..).map(|(address, number): (_, u16)| (*address, number % shards));
        let world = self.world.placement.exceptions().iter();
        made.chain(world.map(|(address, shard)| (*address, shard.0))).collect()
    }

    /// What the first account creates, in this order.
    pub(crate) fn codes(&self) -> anyhow::Result<Vec<Bytes>> {
        let mut codes = vec![token("ONE")?, token("TWO")?];
        for link in 0..HOPS {
            codes.push(hop(self.hops.get(link + 1).copied().unwrap_or_default())?);
        }
        for _ in 0..BOOKS {
            codes.push(contracts::book(BOOK_ACCOUNTS as u64, HELD)?);
        }
        Ok(codes)
    }

    /// One transaction of an account. `values` counts what was appended.
    pub(crate) fn plan(
        &self,
        mix: &Mix,
        from: usize,
        values: &mut u64,
        random: &mut StdRng,
    ) -> anyhow::Result<(Plan, Deed)> {
        let to = mix.one(self.wallets.len(), random);
        let address = self.wallets[to].address();
        let plan = match mix.kind(random) {
            Kind::Pay => {
                let wei = random.random_range(1..1_000_000);
                return Ok((Plan::pay(address, wei), Deed::Pay { to, wei }));
            }
            Kind::Token => {
                let token = random.random_range(0..self.tokens.len());
                let amount = random.random_range(1..100);
                let call = Token::transferCall { to: address, value: U256::from(amount) };
                let plan = Plan::call(self.tokens[token], call.abi_encode()).gas(200_000);
                return Ok((plan, Deed::Token { token, to, amount }));
            }
            Kind::Move => return Ok(self.plan_move(mix, random)),
            Kind::Append => return Ok(self.plan_append(mix, values, random)),
            // Takes no payments.
            Kind::PayContract => {
                let contracts = [&self.tokens[..], &self.hops, &self.books].concat();
                Plan::pay(*any(&contracts, random), random.random_range(1..1_000_000))
            }
            Kind::Hop => {
                let fail = random.random_bool(0.2);
                let call = Hop::hopCall { amount: U256::from(1), failAtEnd: fail };
                Plan::call(*any(&self.hops, random), call.abi_encode()).gas(500_000)
            }
            Kind::Read => {
                let places = self.places(mix, random).into_iter();
                let reads: Vec<Step> = places.map(|(book, list)| (book, list, 0)).collect();
                let call = self.steps(&reads);
                Plan::call(*any(&self.books, random), call).gas(1_500_000)
            }
            Kind::Touch => {
                let call = Cell::touchCall { x: U256::from(random.random_range(1..9)) };
                Plan::call(self.near(from, &self.world.cells, random), call.abi_encode())
            }
            Kind::Look => {
                let looker = *any(&self.world.lookers, random);
                Plan::call(looker, Bytes::copy_from_slice(address.into_word().as_slice()))
            }
            Kind::PayUnborn => {
                let (maker, salt) = self.unborn(random);
                Plan::pay(self.world.child(maker, salt)?, random.random_range(1..1_000))
            }
            Kind::GiveBirth => {
                let (maker, salt) = self.unborn(random);
                let call = Maker::create2Call { salt, by: U256::from(1) };
                Plan::call(maker, call.abi_encode())
            }
            Kind::Act(act) => self.world.plan(act, &self.wallets[from], random)?,
        };
        let wei = plan.value;
        Ok((plan, Deed::Other { wei }))
    }

    /// A contract of an account's own shard, if one is there.
    fn near(&self, from: usize, contracts: &[Address], random: &mut StdRng) -> Address {
        let owner = |address: &Address| self.world.placement.owner(address);
        let home = owner(&self.wallets[from].address());
        let near: Vec<Address> = contracts.iter().filter(|at| owner(at) == home).copied().collect();
        *any(if near.is_empty() { contracts } else { &near }, random)
    }

    /// Who will make a contract, and of which salt: those who pay and those who make agree on it for a
    /// while, and then go on to the next.
    fn unborn(&self, random: &mut StdRng) -> (Address, B256) {
        let salt = self.births.fetch_add(1, Ordering::Relaxed) / 8 + random.random_range(0..2);
        let maker = self.world.makers[(salt % 2) as usize];
        (maker, B256::from(U256::from(1_000 + salt)))
    }

    /// At times more than there is: then it reverts.
    fn plan_move(&self, mix: &Mix, random: &mut StdRng) -> (Plan, Deed) {
        let mut place = || (mix.one(BOOKS, random), random.random_range(0..BOOK_ACCOUNTS));
        let (from, to) = (place(), place());
        let amount = random.random_range(1..HELD * 3 / 4);
        let call = contracts::Book::moveCall {
            from: U256::from(from.1),
            to: self.books[to.0],
            account: U256::from(to.1),
            amount: U256::from(amount),
        };
        let plan = Plan::call(self.books[from.0], call.abi_encode()).gas(300_000);
        (plan, Deed::Move { from, to, amount })
    }

    fn places(&self, mix: &Mix, random: &mut StdRng) -> Vec<(usize, usize)> {
        let count = random.random_range(1..=3);
        let mut place = || (random.random_range(0..BOOKS), mix.one(LISTS, random));
        (0..count).map(|_| place()).collect()
    }

    /// Which keys it writes depends on how long the lists are when it runs.
    fn plan_append(&self, mix: &Mix, values: &mut u64, random: &mut StdRng) -> (Plan, Deed) {
        let mut steps = Vec::new();
        for (book, list) in self.places(mix, random) {
            *values += 1;
            steps.push((book, list, *values));
        }
        let call = self.steps(&steps);
        (Plan::call(*any(&self.books, random), call).gas(1_500_000), Deed::Append(steps))
    }

    pub(crate) fn steps(&self, steps: &[Step]) -> Vec<u8> {
        let step = |(book, list, value): &Step| contracts::Book::Step {
            book: self.books[*book],
            list: U256::from(*list),
            value: U256::from(*value),
        };
        contracts::Book::runCall { steps: steps.iter().map(step).collect() }.abi_encode()
    }
}

/// One of a list that is not empty.
fn any<'a, T>(list: &'a [T], random: &mut StdRng) -> &'a T {
    list.choose(random).expect("the list is not empty")
}
