//! Generated contracts: bytecode put together by hand from a list of small operations.
//!
//! Each contract keeps an accumulator in memory, into which it mixes all that it reads, so that the
//! outcome depends on it. Called with two words (a seed for the accumulator, and fuel that bounds the
//! depth of calls), it runs its operations one after another and returns the accumulator.

use alloy_primitives::{Address, B256, Bytes};

/// Where generated contracts stand: [`contract`] counts from here.
const CONTRACTS: [u8; 20] = [0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Most contracts of a case.
pub const MAX_CONTRACTS: u8 = 4;

/// The address of a generated contract.
pub fn contract(index: u8) -> Address {
    let mut address = CONTRACTS;
    address[19] = index % MAX_CONTRACTS;
    Address::from(address)
}

/// Whether an operation is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    Always,
    /// If this bit of the accumulator is set.
    Bit(u8),
    /// If the word in this slot is odd.
    Odd(u8),
}

/// Whom an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The generated contract with this index.
    Contract(u8),
    /// The one that the word in this slot names: changed by others between prediction and run.
    Stored(u8),
    /// The one that the accumulator names.
    Computed,
    /// Somebody of the cast.
    Fixed(Address),
    /// The contract itself.
    Own,
    /// Whoever called.
    Caller,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Plain { value: u8 },
    Delegate,
    Static,
    Code { value: u8 },
}

/// What a contract is made of that a contract creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// Destroys itself when it is called.
    Mortal,
    /// Counts its calls.
    Counter,
    /// Reverts when it is called.
    Refusing,
    /// Takes what it is sent.
    Empty,
    /// Writes in its constructor, and is then a counter.
    Writing,
    /// Destroys itself in its constructor.
    Stillborn,
    /// Its constructor reverts.
    Failing,
    /// Its constructor runs into an invalid instruction.
    Invalid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Load(u8),
    /// Reads the slot that another slot names.
    LoadStored(u8),
    Store(u8),
    /// Writes the slot that another slot names.
    StoreStored(u8),
    /// Writes a slot that the accumulator names.
    StoreComputed,
    Increment(u8),
    Clear(u8),
    Transient(u8),
    /// An instruction that pushes one word: `NUMBER`, `CALLER`, `GAS`, …
    Environment(u8),
    /// `BLOCKHASH` of so many blocks before.
    Ancestor(u8),
    /// `BALANCE`, `EXTCODEHASH` or `EXTCODESIZE`.
    Account(u8, Target),
    /// `tight`: with little gas. `strict`: reverts if the call fails.
    Call {
        call: Call,
        target: Target,
        tight: bool,
        strict: bool,
    },
    /// A payment without input.
    Pay {
        target: Target,
        value: u8,
    },
    /// `salt`: by CREATE2. `called`: calls it once, with one wei.
    Create {
        child: Child,
        value: u8,
        salt: Option<u8>,
        called: bool,
    },
    SelfDestruct(Target),
    Revert,
    Invalid,
    /// Until the gas is gone.
    Loop,
    Log(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub guard: Guard,
    pub op: Op,
}

mod code {
    pub const STOP: u8 = 0x00;
    pub const ADD: u8 = 0x01;
    pub const MUL: u8 = 0x02;
    pub const SUB: u8 = 0x03;
    pub const ISZERO: u8 = 0x15;
    pub const AND: u8 = 0x16;
    pub const OR: u8 = 0x17;
    pub const XOR: u8 = 0x18;
    pub const SHR: u8 = 0x1c;
    pub const ADDRESS: u8 = 0x30;
    pub const BLOCKHASH: u8 = 0x40;
    pub const NUMBER: u8 = 0x43;
    pub const CALLER: u8 = 0x33;
    pub const CALLDATALOAD: u8 = 0x35;
    pub const CALLDATASIZE: u8 = 0x36;
    pub const CODECOPY: u8 = 0x39;
    pub const POP: u8 = 0x50;
    pub const MLOAD: u8 = 0x51;
    pub const MSTORE: u8 = 0x52;
    pub const SLOAD: u8 = 0x54;
    pub const SSTORE: u8 = 0x55;
    pub const JUMP: u8 = 0x56;
    pub const JUMPI: u8 = 0x57;
    pub const GAS: u8 = 0x5a;
    pub const JUMPDEST: u8 = 0x5b;
    pub const TLOAD: u8 = 0x5c;
    pub const TSTORE: u8 = 0x5d;
    pub const PUSH0: u8 = 0x5f;
    pub const DUP1: u8 = 0x80;
    pub const DUP6: u8 = 0x85;
    pub const LOG0: u8 = 0xa0;
    pub const CREATE: u8 = 0xf0;
    pub const CALL: u8 = 0xf1;
    pub const CALLCODE: u8 = 0xf2;
    pub const RETURN: u8 = 0xf3;
    pub const DELEGATECALL: u8 = 0xf4;
    pub const CREATE2: u8 = 0xf5;
    pub const STATICCALL: u8 = 0xfa;
    pub const REVERT: u8 = 0xfd;
    pub const INVALID: u8 = 0xfe;
    pub const SELFDESTRUCT: u8 = 0xff;

    /// Those that push one word and depend on nothing but the block, the transaction and the frame.
    pub const ENVIRONMENT: [u8; 16] = [
        0x43, // NUMBER
        0x42, // TIMESTAMP
        0x44, // PREVRANDAO
        0x48, // BASEFEE
        0x41, // COINBASE
        0x45, // GASLIMIT
        0x46, // CHAINID
        0x47, // SELFBALANCE
        0x30, // ADDRESS
        0x32, // ORIGIN
        0x33, // CALLER
        0x34, // CALLVALUE
        0x3a, // GASPRICE
        0x38, // CODESIZE
        0x3d, // RETURNDATASIZE
        0x5a, // GAS
    ];
    /// BALANCE, EXTCODEHASH, EXTCODESIZE.
    pub const ACCOUNT: [u8; 3] = [0x31, 0x3f, 0x3b];
}

use code::*;

/// Memory: the accumulator, the fuel, what calls are made with, what they return.
const ACC: u8 = 0x00;
const FUEL: u8 = 0x20;
const INPUT: u8 = 0x40;
const OUTPUT: u8 = 0x80;
const SCRATCH: u8 = 0xa0;
/// Slots that operations name.
pub const SLOTS: u8 = 4;
/// Slots that the accumulator names.
const COMPUTED_SLOTS: u8 = 16;

/// The code of a contract. `eager`: it runs also when it is called without input.
pub fn runtime(steps: &[Step], eager: bool) -> Bytes {
    let mut code = Assembler::default();
    code.byte(3).op(&[PUSH0 + 1, 32, CALLDATALOAD, AND]);
    if eager {
        code.op(&[CALLDATASIZE, ISZERO, OR]);
    }
    code.op(&[DUP1]).byte(FUEL).op(&[MSTORE]);
    let body = code.jump_if();
    code.op(&[STOP]);
    code.land(body);
    code.op(&[PUSH0, CALLDATALOAD]).set_acc();
    for step in steps {
        code.step(step);
    }
    code.byte(32).byte(ACC).op(&[RETURN]);
    code.bytes.into()
}

/// The input of a call of a generated contract.
pub fn input(seed: u8, fuel: u8) -> Bytes {
    let mut input = B256::with_last_byte(seed).to_vec();
    input.extend(B256::with_last_byte(fuel));
    input.into()
}

/// Code that creates a contract with this code.
pub fn deployment(runtime: &[u8]) -> Bytes {
    let [high, low] = (runtime.len() as u16).to_be_bytes();
    let prefix = 11;
    // PUSH2 length, DUP1, PUSH1 offset, PUSH0, CODECOPY, PUSH0, RETURN
    let mut code = vec![0x61, high, low, DUP1, 0x60, prefix, PUSH0, CODECOPY, PUSH0, RETURN, STOP];
    code.extend(runtime);
    code.into()
}

impl Child {
    fn initcode(self) -> Vec<u8> {
        const COUNT: [u8; 8] = [PUSH0, SLOAD, 0x60, 1, ADD, PUSH0, SSTORE, STOP];
        let deploy = |first: &[u8], runtime: &[u8]| {
            let len = runtime.len() as u8;
            let mut code = first.to_vec();
            code.push(PUSH0 + len);
            code.extend(runtime);
            code.extend([PUSH0, MSTORE, 0x60, len, 0x60, 32 - len, RETURN]);
            code
        };
        match self {
            Self::Mortal => deploy(&[], &[CALLER, SELFDESTRUCT]),
            Self::Counter => deploy(&[], &COUNT),
            Self::Refusing => deploy(&[], &[PUSH0, PUSH0, REVERT]),
            Self::Empty => deploy(&[], &[STOP]),
            Self::Writing => deploy(&[CALLER, 0x60, 1, SSTORE], &COUNT),
            Self::Stillborn => vec![CALLER, SELFDESTRUCT],
            Self::Failing => vec![0x60, 3, PUSH0, SSTORE, PUSH0, PUSH0, REVERT],
            Self::Invalid => vec![INVALID],
        }
    }
}

/// A place in the code that a jump goes to.
struct Label(usize);

#[derive(Default)]
struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    fn op(&mut self, ops: &[u8]) -> &mut Self {
        self.bytes.extend(ops);
        self
    }

    /// Pushes one byte.
    fn byte(&mut self, byte: u8) -> &mut Self {
        self.op(&[PUSH0 + 1, byte])
    }

    fn push(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.push(PUSH0 + bytes.len() as u8);
        self.op(bytes)
    }

    fn acc(&mut self) -> &mut Self {
        self.byte(ACC).op(&[MLOAD])
    }

    fn set_acc(&mut self) -> &mut Self {
        self.byte(ACC).op(&[MSTORE])
    }

    /// Mixes the word on the stack into the accumulator.
    fn mix(&mut self) -> &mut Self {
        self.acc().byte(31).op(&[MUL, ADD]).set_acc()
    }

    /// Jumps if the word on the stack is not zero.
    fn jump_if(&mut self) -> Label {
        self.op(&[PUSH0 + 2, 0, 0, JUMPI]);
        Label(self.bytes.len() - 3)
    }

    fn land(&mut self, label: Label) {
        let here = (self.bytes.len() as u16).to_be_bytes();
        self.bytes[label.0..label.0 + 2].copy_from_slice(&here);
        self.op(&[JUMPDEST]);
    }

    /// Pushes the slot that the word on the stack names.
    fn computed_slot(&mut self) -> &mut Self {
        self.byte(COMPUTED_SLOTS - 1).op(&[AND])
    }

    /// Pushes an address.
    fn target(&mut self, target: Target) -> &mut Self {
        let named = |code: &mut Self| {
            code.byte(MAX_CONTRACTS - 1).op(&[AND]).push(&CONTRACTS).op(&[ADD]);
        };
        match target {
            Target::Contract(index) => {
                self.push(contract(index).as_slice());
            }
            Target::Stored(slot) => {
                self.byte(slot % SLOTS).op(&[SLOAD]);
                named(self);
            }
            Target::Computed => {
                self.acc();
                named(self);
            }
            Target::Fixed(address) => {
                self.push(address.as_slice());
            }
            Target::Own => {
                self.op(&[ADDRESS]);
            }
            Target::Caller => {
                self.op(&[CALLER]);
            }
        }
        self
    }

    fn step(&mut self, step: &Step) {
        let skip = match step.guard {
            Guard::Always => None,
            Guard::Bit(bit) => {
                self.acc().byte(bit % 8).op(&[SHR]).byte(1).op(&[AND, ISZERO]);
                Some(self.jump_if())
            }
            Guard::Odd(slot) => {
                self.byte(slot % SLOTS).op(&[SLOAD]).byte(1).op(&[AND, ISZERO]);
                Some(self.jump_if())
            }
        };
        self.one(step.op);
        if let Some(skip) = skip {
            self.land(skip);
        }
    }

    fn one(&mut self, op: Op) {
        match op {
            Op::Load(slot) => self.byte(slot % SLOTS).op(&[SLOAD]).mix(),
            Op::LoadStored(slot) => {
                self.byte(slot % SLOTS).op(&[SLOAD]).computed_slot().op(&[SLOAD]).mix()
            }
            Op::Store(slot) => self.acc().byte(slot % SLOTS).op(&[SSTORE]),
            Op::StoreStored(slot) => {
                self.acc().byte(slot % SLOTS).op(&[SLOAD]).computed_slot().op(&[SSTORE])
            }
            Op::StoreComputed => self.acc().acc().computed_slot().op(&[SSTORE]),
            Op::Increment(slot) => {
                let slot = slot % SLOTS;
                self.byte(slot).op(&[SLOAD]).byte(1).op(&[ADD]).byte(slot).op(&[SSTORE])
            }
            Op::Clear(slot) => self.op(&[PUSH0]).byte(slot % SLOTS).op(&[SSTORE]),
            Op::Transient(slot) => {
                let slot = slot % SLOTS;
                self.byte(slot).op(&[TLOAD]).mix().acc().byte(slot).op(&[TSTORE])
            }
            Op::Environment(which) => {
                self.op(&[ENVIRONMENT[usize::from(which) % ENVIRONMENT.len()]]).mix()
            }
            Op::Ancestor(back) => self.byte(back).op(&[NUMBER, SUB, BLOCKHASH]).mix(),
            Op::Account(which, target) => {
                self.target(target).op(&[ACCOUNT[usize::from(which) % ACCOUNT.len()]]).mix()
            }
            Op::Call { call, target, tight, strict } => self.call(call, target, tight, strict),
            Op::Pay { target, value } => {
                self.op(&[PUSH0, PUSH0, PUSH0, PUSH0]).byte(value).target(target);
                self.op(&[GAS, CALL]).mix()
            }
            Op::Create { child, value, salt, called } => self.create(child, value, salt, called),
            Op::SelfDestruct(target) => self.target(target).op(&[SELFDESTRUCT]),
            Op::Revert => self.byte(32).byte(ACC).op(&[REVERT]),
            Op::Invalid => self.op(&[INVALID]),
            Op::Loop => {
                let [high, low] = (self.bytes.len() as u16).to_be_bytes();
                self.op(&[JUMPDEST]).acc().byte(7).op(&[MUL]).set_acc();
                self.op(&[PUSH0 + 2, high, low, JUMP])
            }
            Op::Log(topics) => {
                let topics = topics % 3;
                for topic in 0..topics {
                    self.byte(topic + 1);
                }
                self.byte(32).byte(ACC).op(&[LOG0 + topics])
            }
        };
    }

    fn call(&mut self, call: Call, target: Target, tight: bool, strict: bool) -> &mut Self {
        // The callee gets the accumulator and a little less fuel.
        self.acc().byte(INPUT).op(&[MSTORE]);
        self.byte(1).byte(FUEL).op(&[MLOAD, SUB]).byte(INPUT + 32).op(&[MSTORE]);
        self.byte(32).byte(OUTPUT).byte(64).byte(INPUT);
        if let Call::Plain { value } | Call::Code { value } = call {
            self.byte(value);
        }
        self.target(target);
        if tight {
            self.push(&[0x20, 0x00]);
        } else {
            self.op(&[GAS]);
        }
        self.op(&[match call {
            Call::Plain { .. } => CALL,
            Call::Delegate => DELEGATECALL,
            Call::Static => STATICCALL,
            Call::Code { .. } => CALLCODE,
        }]);
        if strict {
            let on = {
                self.op(&[DUP1]);
                self.jump_if()
            };
            self.op(&[PUSH0, PUSH0, REVERT]);
            self.land(on);
        }
        self.byte(OUTPUT).op(&[MLOAD, XOR]).mix()
    }

    fn create(&mut self, child: Child, value: u8, salt: Option<u8>, called: bool) -> &mut Self {
        let code = child.initcode();
        let (len, at) = (code.len() as u8, SCRATCH + 32 - code.len() as u8);
        self.push(&code).byte(SCRATCH).op(&[MSTORE]);
        if let Some(salt) = salt {
            self.byte(salt % 4);
        }
        self.byte(len).byte(at).byte(value);
        self.op(&[if salt.is_some() { CREATE2 } else { CREATE }]);
        if called {
            // The address is below what the call takes, and goes into the accumulator after it.
            self.op(&[DUP1, PUSH0, PUSH0, PUSH0, PUSH0]).byte(1);
            self.op(&[DUP6, GAS, CALL]).mix().op(&[POP]);
        }
        self.mix()
    }
}
