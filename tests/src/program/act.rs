//! What senders do.

use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{Address, B256, Bytes, U256, bytes};
use alloy_sol_types::SolCall as _;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::World;
use crate::{
    contracts::{self, Cell, Chameleon, Drifter, EnvProbe, Hop, Maker, Token, UniswapV2Router02},
    wallet::{Kind, Plan, Wallet},
};

/// One kind of transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Pay,
    /// To an account that may have code by then.
    PayAuthority,
    /// To an address where a contract may come to stand.
    PayChild,
    /// To a contract that takes none.
    PayContract,
    Transfer,
    TransferFrom,
    Mint,
    Swap,
    Hop,
    /// Changes where [`Self::Poke`] leads.
    Set,
    Poke,
    Drift,
    DriftTo,
    Deploy,
    Make,
    Record,
    Authorize,
    Look,
}

impl Act {
    pub const ALL: [Self; 18] = [
        Self::Pay,
        Self::PayAuthority,
        Self::PayChild,
        Self::PayContract,
        Self::Transfer,
        Self::TransferFrom,
        Self::Mint,
        Self::Swap,
        Self::Hop,
        Self::Set,
        Self::Poke,
        Self::Drift,
        Self::DriftTo,
        Self::Deploy,
        Self::Make,
        Self::Record,
        Self::Authorize,
        Self::Look,
    ];

    /// Any one; those that get in one another's way more often.
    pub fn any(rng: &mut StdRng) -> Self {
        match rng.random_range(0..10) {
            0 => Self::PayAuthority,
            1 => Self::PayChild,
            2 => Self::Authorize,
            3 => Self::Make,
            _ => *any(&Self::ALL, rng),
        }
    }
}

impl World {
    /// One transaction of a kind.
    pub fn plan(&self, act: Act, wallet: &Wallet, rng: &mut StdRng) -> anyhow::Result<Plan> {
        let wei = rng.random_range(1..1_000);
        let number = U256::from(wei);
        let plan = match act {
            Act::Pay => Plan::pay(self.payee(rng), wei),
            Act::PayAuthority => Plan::pay(any(&self.authorities, rng).address(), wei),
            Act::PayChild => Plan::pay(self.child(*any(&self.makers, rng), salt(rng))?, wei),
            Act::PayContract => Plan::call(*any(&self.tokens, rng), Bytes::new()).value(wei),
            Act::Transfer => {
                let call = Token::transferCall { to: self.payee(rng), value: number };
                Plan::call(*any(&self.tokens, rng), call.abi_encode())
            }
            Act::TransferFrom => {
                let (from, to) = (any(&self.senders, rng).address(), self.payee(rng));
                let call = Token::transferFromCall { from, to, value: number };
                Plan::call(*any(&self.tokens, rng), call.abi_encode())
            }
            Act::Mint => {
                let call = Token::mintCall { to: self.payee(rng), amount: number };
                Plan::call(*any(&self.tokens, rng), call.abi_encode())
            }
            Act::Swap => self.swap(wallet, number, rng),
            Act::Hop => {
                let call = Hop::hopCall { amount: number, failAtEnd: rng.random_bool(0.3) };
                Plan::call(self.hops[0], call.abi_encode())
            }
            Act::Set => {
                let call = Chameleon::setCall { selector: number };
                Plan::call(*any(&self.chameleons, rng), call.abi_encode())
            }
            Act::Poke => {
                let call = Chameleon::pokeCall { targets: self.cells.clone(), x: number };
                Plan::call(*any(&self.chameleons, rng), call.abi_encode())
            }
            Act::Drift => {
                let call = Drifter::driftCall {}.abi_encode();
                Plan::call(self.elsewhere(&self.drifters, wallet, rng), call)
            }
            Act::DriftTo => {
                let call = Drifter::driftToCall { targets: self.cells.clone(), x: number };
                Plan::call(*any(&self.drifters, rng), call.abi_encode())
            }
            Act::Deploy => self.deploy(rng)?,
            Act::Make => self.make(number, rng),
            Act::Record => Plan::call(self.probe, EnvProbe::recordCall {}.abi_encode()),
            Act::Authorize => return self.authorize(number, rng),
            Act::Look => {
                let at = [self.payee(rng), self.child(*any(&self.makers, rng), salt(rng))?];
                let at = any(&at, rng).into_word();
                Plan::call(*any(&self.lookers, rng), Bytes::copy_from_slice(at.as_slice()))
            }
        };
        Ok(self.dress(plan, rng))
    }

    /// Type, fee, access list, and now and then too little gas.
    fn dress(&self, plan: Plan, rng: &mut StdRng) -> Plan {
        let kind = *any(&[Kind::Legacy, Kind::Access, Kind::Fee, Kind::Fee], rng);
        let listed = [plan.to.to().copied(), Some(*any(&self.cells, rng))];
        let item = |address| AccessListItem {
            address,
            storage_keys: vec![B256::ZERO, B256::with_last_byte(2)],
        };
        let listed = AccessList(listed.into_iter().flatten().map(item).collect());
        let short = !plan.input.is_empty() && !plan.to.is_create() && rng.random_bool(0.05);
        Plan {
            kind,
            tip: rng.random_range(0..3) * 1_000_000_000,
            access_list: if rng.random_bool(0.3) { listed } else { AccessList::default() },
            gas: if short { rng.random_range(45_000..65_000) } else { plan.gas },
            ..plan
        }
    }

    /// Somebody who can be paid.
    fn payee(&self, rng: &mut StdRng) -> Address {
        match rng.random_range(0..20) {
            0..10 => any(&self.senders, rng).address(),
            10..15 => *any(&self.strangers, rng),
            15..18 => any(&self.authorities, rng).address(),
            18 => self.coinbase,
            // The identity precompile.
            _ => Address::with_last_byte(4),
        }
    }

    /// One of the contracts that does not stand on the wallet's shard, if there is one.
    fn elsewhere(&self, contracts: &[Address], wallet: &Wallet, rng: &mut StdRng) -> Address {
        let home = self.placement.owner(&wallet.address());
        let away = contracts.iter().find(|contract| self.placement.owner(contract) != home);
        *away.unwrap_or_else(|| any(contracts, rng))
    }

    fn swap(&self, wallet: &Wallet, amount: U256, rng: &mut StdRng) -> Plan {
        let mut path = self.tokens.to_vec();
        if rng.random() {
            path.reverse();
        }
        let impossible = rng.random_bool(0.1);
        let call = UniswapV2Router02::swapExactTokensForTokensCall {
            amountIn: amount,
            amountOutMin: if impossible { U256::MAX } else { U256::ZERO },
            path,
            to: wallet.address(),
            deadline: U256::MAX,
        };
        Plan::call(self.router, call.abi_encode())
    }

    fn deploy(&self, rng: &mut StdRng) -> anyhow::Result<Plan> {
        Ok(match rng.random_range(0..5) {
            0 => Plan::create(contracts::bytecode("Cell")?),
            1 => Plan::create(contracts::bytecode("Child")?).value(5),
            2 => Plan::create(contracts::token("C")?),
            3 => Plan::create(contracts::hop(*any(&self.hops, rng))?),
            // Stores a word, then reverts with it.
            _ => Plan::create(bytes!("602a5f5560205ffd")).gas(200_000),
        })
    }

    fn make(&self, by: U256, rng: &mut StdRng) -> Plan {
        let salt = salt(rng);
        let call = match rng.random_range(0..3) {
            0 => Maker::createCall { by }.abi_encode(),
            1 => Maker::create2Call { salt, by }.abi_encode(),
            _ => Maker::flashCall { salt, by, heir: self.payee(rng) }.abi_encode(),
        };
        Plan::call(*any(&self.makers, rng), call).value(rng.random_range(0..50))
    }

    /// An authority takes or gives up the code of a contract, if its nonce is what is guessed here;
    /// it is then called.
    fn authorize(&self, x: U256, rng: &mut StdRng) -> anyhow::Result<Plan> {
        let mut authorizations = Vec::new();
        let mut called = Address::ZERO;
        for _ in 0..rng.random_range(1..=2) {
            let authority = any(&self.authorities, rng);
            let codes = [self.cells[0], self.lookers[0], self.drain, self.drain, Address::ZERO];
            let code = *any(&codes, rng);
            authorizations.push(authority.wallet.authorize(code, authority.guess())?);
            called = authority.address();
        }
        let call = match rng.random() {
            true => Cell::touchCall { x }.abi_encode(),
            false => any(&self.strangers, rng).into_word().to_vec(),
        };
        let tip = rng.random_range(0..3) * 1_000_000_000;
        Ok(Plan { kind: Kind::Authorize, authorizations, tip, ..Plan::call(called, call) })
    }
}

fn salt(rng: &mut StdRng) -> B256 {
    B256::with_last_byte(rng.random_range(0..6))
}

/// One of a list that is not empty.
fn any<'a, T>(list: &'a [T], rng: &mut StdRng) -> &'a T {
    list.choose(rng).expect("the list is not empty")
}
