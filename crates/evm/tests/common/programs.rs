//! Random transactions between random contracts.

use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{Address, B256, U256, hex};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use revm::bytecode::opcode::*;

use super::*;

/// The seed that is given, or a random one. Printed.
#[allow(clippy::disallowed_methods, reason = "the seed is drawn here")]
pub fn seed() -> u64 {
    let given = std::env::var("ATOLL_SEED").ok();
    let seed = given.map_or_else(rand::random, |text| text.parse().expect("a number"));
    println!("ATOLL_SEED={seed}");
    seed
}

/// How many rounds are asked for, or so many.
pub fn rounds(default: u64) -> u64 {
    std::env::var("ATOLL_ROUNDS").map_or(default, |text| text.parse().expect("a number"))
}

/// Contracts of random instructions on a few addresses, so that they meet.
struct Assembler<'a> {
    rng: &'a mut StdRng,
    addresses: &'a [Address],
    code: Vec<u8>,
}

impl Assembler<'_> {
    fn number(&mut self, number: u64) {
        self.code.push(PUSH8);
        self.code.extend(number.to_be_bytes());
    }

    fn address(&mut self) {
        let address = *self.addresses.choose(self.rng).expect("an address");
        self.code.push(PUSH20);
        self.code.extend(address.as_slice());
    }

    /// Keeps the value on the stack in a slot, so that it shows.
    fn keep(&mut self) {
        let slot = self.rng.random_range(0..6);
        self.number(slot);
        self.code.push(SSTORE);
    }

    fn call(&mut self) {
        let kind = *[CALL, CALL, CALL, CALLCODE, DELEGATECALL, STATICCALL]
            .choose(self.rng)
            .expect("a kind");
        self.code.extend([PUSH0, PUSH0, PUSH0, PUSH0]);
        if matches!(kind, CALL | CALLCODE) {
            let value = *[0, 0, 1, 500, 100_000].choose(self.rng).expect("a value");
            self.number(value);
        }
        self.address();
        if self.rng.random_bool(0.7) {
            self.code.push(GAS);
        } else {
            let gas = self.rng.random_range(0..40_000);
            self.number(gas);
        }
        self.code.push(kind);
        self.keep();
    }

    fn create(&mut self) {
        // Code that does nothing; a slot and one byte of code; self-destruction to itself, to a
        // fixed heir; a revert; code of one byte after a look at its balance.
        let inits = [
            &hex!("00")[..],
            &hex!("60015f5560015ff3"),
            &hex!("30ff"),
            &hex!("61bbbbff"),
            &hex!("5f5ffd"),
            &hex!("4760025560015ff3"),
        ];
        let init = *inits.choose(self.rng).expect("init code");
        let mut padded = [0; 32];
        padded[..init.len()].copy_from_slice(init);
        self.code.push(PUSH32);
        self.code.extend(padded);
        self.code.extend([PUSH0, MSTORE]);
        let (salted, value) = (self.rng.random(), self.rng.random_range(0..3));
        if salted {
            let salt = self.rng.random_range(0..3);
            self.number(salt);
        }
        self.number(init.len() as u64);
        self.code.push(PUSH0);
        self.number(value);
        self.code.push(if salted { CREATE2 } else { CREATE });
        self.keep();
    }

    fn step(&mut self) {
        match self.rng.random_range(0..14) {
            0 | 1 => {
                self.address();
                let looks = [BALANCE, EXTCODEHASH, EXTCODESIZE];
                self.code.push(*looks.choose(self.rng).expect("a look"));
                self.keep();
            }
            2 => {
                self.code.push(SELFBALANCE);
                self.keep();
            }
            3 => {
                let slot = self.rng.random_range(0..6);
                self.number(slot);
                self.code.push(SLOAD);
                self.keep();
            }
            4 => {
                let value = self.rng.random_range(0..3);
                self.number(value);
                self.keep();
            }
            5 => self.code.extend([PUSH1, 9, PUSH0, PUSH0, LOG1]),
            6 => {
                self.code.extend([PUSH1, 1, PUSH0, TLOAD, ADD, DUP1, PUSH0, TSTORE]);
                self.keep();
            }
            7 => self.create(),
            _ => self.call(),
        }
    }

    fn end(&mut self) {
        match self.rng.random_range(0..12) {
            0 => {
                self.address();
                self.code.push(SELFDESTRUCT);
            }
            1 => self.code.extend([PUSH0, PUSH0, REVERT]),
            2 => self.code.push(INVALID),
            _ => self.code.push(STOP),
        }
    }
}

pub fn program(rng: &mut StdRng, addresses: &[Address]) -> Vec<u8> {
    let steps = rng.random_range(1..7);
    let code = Vec::new();
    let mut assembler = Assembler { rng, addresses, code };
    for _ in 0..steps {
        assembler.step();
    }
    assembler.end();
    assembler.code
}

fn access_list(rng: &mut StdRng, addresses: &[Address]) -> AccessList {
    let count = rng.random_range(0..3);
    let items = (0..count).map(|_| AccessListItem {
        address: *addresses.choose(rng).expect("an address"),
        storage_keys: vec![B256::with_last_byte(rng.random_range(0..6))],
    });
    AccessList(items.collect())
}

/// A transaction of a random kind, now and then one that is invalid.
pub fn plan(
    rng: &mut StdRng,
    nonce: &dyn Fn(Address) -> u64,
    addresses: &[Address],
    tip: u128,
) -> Plan {
    let key = rng.random_range(1..=5);
    let from = signer(key).address();
    let to = rng.random_bool(0.93).then(|| *addresses.choose(rng).expect("an address"));
    let mut plan = Plan::new(from, to, nonce(from));
    plan.tip = tip;
    plan.kind = *[Kind::Legacy, Kind::Access, Kind::Fee, Kind::Authorize].choose(rng).expect("one");
    plan.gas = *[60_000, 150_000, 1_000_000, 3_000_000].choose(rng).expect("gas");
    plan.gas += rng.random_range(0..50_000);
    plan.value = U256::from(*[0u64, 0, 7, 1_000_000].choose(rng).expect("a value"));
    plan.access_list = access_list(rng, addresses);
    if to.is_none() {
        plan.input = program(rng, addresses).into();
    } else if rng.random_bool(0.3) {
        plan.input = vec![rng.random(); rng.random_range(0..400)].into();
    }
    if plan.kind == Kind::Authorize {
        plan.to.get_or_insert(addresses[0]);
        for _ in 0..rng.random_range(1..3) {
            let authority = signer(rng.random_range(1..=7));
            let own = u64::from(authority.address() == from);
            let nonce = nonce(authority.address()) + own + u64::from(rng.random_bool(0.1));
            let target =
                *[Address::ZERO, addresses[0], addresses[1], account(99)].choose(rng).expect("one");
            plan.authorizations.push(authorize(&authority, target, nonce, CHAIN));
        }
    }
    if rng.random_bool(0.03) {
        plan.nonce += rng.random_range(0..2);
        plan.gas = rng.random_range(0..30_000);
    }
    plan
}
