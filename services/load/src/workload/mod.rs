//! What the transactions of a run do: pure functions of the accounts' placement and a seed.

mod amm;
mod erc20;
mod mix;
mod multihop;
mod skew;
mod transfer;

use alloy_primitives::{Address, Bytes, U256};
use rand::{Rng, SeedableRng, rngs::StdRng};

pub use amm::{Amm, Exchange};
pub use erc20::{Erc20, foreign_token};
pub use mix::Mix;
pub use multihop::{Hops, MultiHop};
pub use skew::{Rotation, Skew};
pub use transfer::Transfer;

use crate::args::Workload;

/// Gas limit of a payment.
pub const TRANSFER_GAS: u64 = 21_000;
/// Gas limit of a token transfer, to an account that had none of it.
pub const TOKEN_GAS: u64 = 65_000;
/// Gas limit of a swap over one pair.
pub const SWAP_GAS: u64 = 200_000;

/// Gas limit of a call through a chain of contracts.
pub fn hop_gas(hops: u16) -> u64 {
    40_000 + 60_000 * u64::from(hops)
}

/// The accounts that send, by index, and the shards that own them.
#[derive(Clone, Debug)]
pub struct World {
    shards: u16,
    addresses: Vec<Address>,
    placed: Vec<u16>,
}

impl World {
    /// `placed` holds the shard of each address, below `shards`.
    pub fn new(shards: u16, addresses: Vec<Address>, placed: Vec<u16>) -> Self {
        assert_eq!(addresses.len(), placed.len(), "one shard for each address");
        assert!(
            placed.iter().all(|shard| *shard < shards),
            "an account is on a shard that is not there"
        );
        Self { shards, addresses, placed }
    }

    pub fn shards(&self) -> u16 {
        self.shards
    }

    pub fn len(&self) -> u32 {
        self.addresses.len() as u32
    }

    pub fn address(&self, index: u32) -> Address {
        self.addresses[index as usize]
    }

    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The shard of an account.
    pub fn shard(&self, index: u32) -> u16 {
        self.placed[index as usize]
    }

    /// The accounts whose shard `which` accepts.
    pub fn members(&self, which: impl Fn(u16) -> bool) -> Vec<u32> {
        (0..self.len()).filter(|index| which(self.shard(*index))).collect()
    }
}

/// One transaction without nonce and fees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Index of the account that sends it.
    pub sender: u32,
    pub to: Address,
    pub value: U256,
    pub input: Bytes,
    pub gas_limit: u64,
    /// Whether it touches more than one shard.
    pub crosses: bool,
}

/// A source of transactions without end.
pub trait Calls: Send {
    fn next(&mut self, rng: &mut StdRng) -> Call;
}

/// Whether the next transaction should cross shards.
#[derive(Clone, Copy, Debug)]
pub struct Cross {
    share: f64,
}

impl Cross {
    /// `percent` of the transactions, but none if there is one shard only.
    pub fn new(percent: f64, shards: u16) -> Self {
        let share = if shards > 1 { percent / 100.0 } else { 0.0 };
        Self { share }
    }

    fn draw(self, rng: &mut StdRng) -> bool {
        rng.random_bool(self.share)
    }
}

/// The contracts of a run; a workload has those that it calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contracts {
    /// A token on each shard.
    pub tokens: Vec<Address>,
    pub exchange: Option<Exchange>,
    pub hops: Option<Hops>,
}

/// Who and what takes part in a workload.
#[derive(Clone, Copy)]
pub struct Actors<'a> {
    pub senders: &'a World,
    /// Who is paid by payments.
    pub payees: &'a World,
    pub contracts: &'a Contracts,
}

/// The transactions of a workload.
pub fn calls(
    workload: Workload,
    Actors { senders: world, payees, contracts }: Actors<'_>,
    cross: f64,
    zipf: f64,
    seed: u64,
) -> anyhow::Result<(Box<dyn Calls>, StdRng)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let cross = Cross::new(cross, world.shards());
    let missing = |what: &str| anyhow::anyhow!("no {what} deployed for this workload");
    let transfer = |rng: &mut StdRng| Transfer::new(world, payees, cross, zipf, rng);
    let erc20 = |rng: &mut StdRng| Erc20::new(world, &contracts.tokens, cross, zipf, rng);
    let amm = |rng: &mut StdRng| {
        let exchange = contracts.exchange.clone().ok_or(missing("exchange"))?;
        anyhow::Ok(Amm::new(world, exchange, cross, zipf, rng))
    };
    let multihop = |rng: &mut StdRng| {
        let hops = contracts.hops.clone().ok_or(missing("chains"))?;
        anyhow::Ok(MultiHop::new(world, hops, cross, zipf, rng))
    };
    let calls: Box<dyn Calls> = match workload {
        Workload::Transfer => Box::new(transfer(&mut rng)),
        Workload::Erc20 => Box::new(erc20(&mut rng)),
        Workload::Amm => Box::new(amm(&mut rng)?),
        Workload::Multihop => Box::new(multihop(&mut rng)?),
        Workload::Mix => Box::new(Mix::new(
            transfer(&mut rng),
            erc20(&mut rng),
            amm(&mut rng)?,
            multihop(&mut rng)?,
        )),
    };
    Ok((calls, rng))
}

#[cfg(test)]
pub(crate) mod tests {
    use alloy_primitives::keccak256;
    use alloy_sol_types::SolCall;

    use super::*;
    use crate::contracts::{Hop, Token, UniswapV2Router02};

    pub fn address(domain: &str, number: u64) -> Address {
        Address::from_word(keccak256(format!("{domain} {number}")))
    }

    /// `size` accounts, account i on shard i modulo `shards`.
    pub fn world(size: u32, shards: u16) -> World {
        let addresses = (0..u64::from(size)).map(|i| address("account", i)).collect();
        let placed = (0..size).map(|i| (i % u32::from(shards)) as u16).collect();
        World::new(shards, addresses, placed)
    }

    pub fn contracts(shards: u16) -> Contracts {
        let each = |domain: &str| -> Vec<_> {
            (0..u64::from(shards)).map(|i| address(domain, i)).collect()
        };
        Contracts {
            tokens: each("token"),
            exchange: Some(Exchange {
                home: shards / 2,
                router: address("router", 0),
                tokens: [address("a", 0), address("b", 0)],
                pair: address("pair", 0),
            }),
            hops: Some(Hops {
                local: each("hop"),
                chains: each("chain"),
                length: 3,
                span: shards.min(3),
            }),
        }
    }

    fn generate(workload: Workload, world: &World, cross: f64, zipf: f64, n: usize) -> Vec<Call> {
        let contracts = contracts(world.shards());
        let actors = Actors { senders: world, payees: world, contracts: &contracts };
        let (mut calls, mut rng) = calls(workload, actors, cross, zipf, 42).unwrap();
        (0..n).map(|_| calls.next(&mut rng)).collect()
    }

    /// Whether a call really touches more than one shard, from what it calls and where that stands.
    fn really_crosses(world: &World, call: &Call) -> bool {
        let contracts = contracts(world.shards());
        let home = world.shard(call.sender);
        let at =
            |addresses: &[Address]| addresses.iter().position(|a| *a == call.to).map(|i| i as u16);
        if let Some(shard) = at(&contracts.tokens) {
            Token::transferCall::abi_decode(&call.input).unwrap();
            return shard != home;
        }
        let (exchange, hops) = (contracts.exchange.unwrap(), contracts.hops.unwrap());
        if call.to == exchange.router {
            let swap = UniswapV2Router02::swapExactTokensForTokensCall::abi_decode(&call.input);
            assert_eq!(swap.unwrap().to, world.address(call.sender));
            return exchange.home != home;
        }
        if let Some(shard) = at(&hops.local) {
            Hop::hopCall::abi_decode(&call.input).unwrap();
            return shard != home;
        }
        if at(&hops.chains).is_some() {
            return true;
        }
        let index = at(world.addresses()).unwrap();
        assert_ne!(u32::from(index), call.sender, "nobody pays himself");
        world.shard(u32::from(index)) != home
    }

    #[test]
    fn the_share_that_crosses_is_the_one_asked_for() {
        const CALLS: usize = 4_000;
        for workload in
            [Workload::Transfer, Workload::Erc20, Workload::Amm, Workload::Multihop, Workload::Mix]
        {
            for (shards, zipf) in [(2, 0.0), (4, 0.0), (4, 1.2), (7, 0.5)] {
                let world = world(200, shards);
                for cross in [0.0, 10.0, 50.0, 100.0] {
                    let calls = generate(workload, &world, cross, zipf, CALLS);
                    let crossing = calls.iter().filter(|call| {
                        assert_eq!(call.crosses, really_crosses(&world, call));
                        call.crosses
                    });
                    let share = 100.0 * crossing.count() as f64 / CALLS as f64;
                    let tolerance = if cross % 100.0 == 0.0 { 0.0 } else { 4.0 };
                    assert!(
                        (share - cross).abs() <= tolerance,
                        "{workload:?} on {shards} shards, zipf {zipf}: {share} instead of {cross}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_crosses_on_one_shard() {
        for workload in [Workload::Transfer, Workload::Erc20, Workload::Amm, Workload::Multihop] {
            let calls = generate(workload, &world(10, 1), 100.0, 0.0, 100);
            assert!(calls.iter().all(|call| !call.crosses), "{workload:?}");
        }
    }

    #[test]
    fn payees_are_paid_and_nobody_else() {
        let (senders, contracts) = (world(20, 4), contracts(4));
        let addresses: Vec<_> = (0..100).map(crate::payee).collect();
        let placed = (0..100).map(|i| i % 4).collect();
        let payees = World::new(4, addresses, placed);
        for cross in [0.0, 100.0] {
            let actors = Actors { senders: &senders, payees: &payees, contracts: &contracts };
            let (mut calls, mut rng) = calls(Workload::Transfer, actors, cross, 0.0, 1).unwrap();
            for _ in 0..200 {
                let call = calls.next(&mut rng);
                let index = payees.addresses().iter().position(|payee| *payee == call.to);
                let crosses = payees.shard(index.unwrap() as u32) != senders.shard(call.sender);
                assert_eq!((crosses, call.crosses), (cross > 0.0, cross > 0.0));
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let world = world(50, 4);
        let run = || generate(Workload::Mix, &world, 30.0, 1.0, 500);
        assert_eq!(run(), run());
    }

    #[test]
    fn senders_take_turns() {
        let world = world(100, 4);
        let calls = generate(Workload::Transfer, &world, 20.0, 1.0, 1_000);
        let mut counts = vec![0; 100];
        for call in calls {
            counts[call.sender as usize] += 1;
        }
        assert!(counts.iter().all(|count| *count == 10));
    }

    #[test]
    fn a_mix_has_its_weights() {
        let world = world(100, 4);
        let contracts = contracts(4);
        let calls = generate(Workload::Mix, &world, 20.0, 0.0, 10_000);
        let share = |which: &dyn Fn(&Call) -> bool| {
            calls.iter().filter(|call| which(call)).count() as f64 / 100.0
        };
        let near = |share: f64, wanted: f64| assert!((share - wanted).abs() < 2.0, "{share}");
        near(share(&|call| call.input.is_empty()), 50.0);
        near(share(&|call| contracts.tokens.contains(&call.to)), 30.0);
        near(share(&|call| call.gas_limit == SWAP_GAS), 15.0);
        let hops = [hop_gas(1), hop_gas(3)];
        near(share(&|call| hops.contains(&call.gas_limit)), 5.0);
    }
}
