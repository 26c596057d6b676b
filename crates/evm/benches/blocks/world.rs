//! States and blocks to measure: payments, token transfers, swaps.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex, keccak256};
use atoll_evm::{Empty, Executor, OnMissing, Outcome, Overlay};
use atoll_types::{Basic, BlockEnv, StateKey, StateValue, Tx};

const CHAIN: u64 = 1;
const RICH: u128 = 1 << 100;

pub struct World {
    pub state: Overlay<'static, Empty>,
    executor: Executor,
}

pub fn env() -> BlockEnv {
    BlockEnv {
        chain_id: CHAIN,
        number: 1,
        timestamp: 1,
        randomness: B256::ZERO,
        base_fee: 7,
        coinbase: Address::repeat_byte(0xcc),
        gas_limit: 1 << 40,
    }
}

pub fn account(number: usize) -> Address {
    Address::from_word(keccak256(number.to_be_bytes()))
}

fn word(address: Address) -> U256 {
    U256::from_be_slice(address.as_slice())
}

/// Call data: selector and words.
fn abi(signature: &str, words: &[U256]) -> Bytes {
    let mut data = keccak256(signature)[..4].to_vec();
    words.iter().for_each(|word| data.extend(word.to_be_bytes::<32>()));
    data.into()
}

fn creation(name: &str) -> Vec<u8> {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/../../contracts/artifacts/{name}.json");
    let text = std::fs::read_to_string(path).expect("an artefact");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    hex::decode(json["bytecode"].as_str().expect("code")).expect("hex")
}

impl World {
    pub fn new() -> Self {
        Self { state: Overlay::new(&Empty), executor: Executor::new(&env()) }
    }

    fn nonce(&self, of: Address) -> u64 {
        use atoll_evm::StateView;
        self.state.read(&StateKey::Basic(of)).map_or(0, |value| value.basic().nonce)
    }

    fn fund(&mut self, address: Address) {
        let basic = Basic { nonce: self.nonce(address), balance: U256::from(RICH) };
        self.state.set(StateKey::Basic(address), StateValue::Basic(basic));
    }

    /// A transaction that is not run.
    fn tx(&self, from: Address, to: TxKind, value: u64, input: Bytes) -> Tx {
        let envelope = TxEnvelope::from(
            TxEip1559 {
                chain_id: CHAIN,
                nonce: self.nonce(from),
                gas_limit: 16_000_000,
                max_fee_per_gas: 10,
                max_priority_fee_per_gas: 1,
                to,
                value: U256::from(value),
                access_list: Default::default(),
                input,
            }
            .into_signed(Signature::test_signature()),
        );
        Tx::trusted(envelope.encoded_2718().into(), from, None).expect("a transaction")
    }

    fn run(&mut self, from: Address, to: TxKind, input: Bytes) -> Option<Address> {
        let tx = self.tx(from, to, 0, input);
        let run = self.executor.transact(&tx, &self.state, OnMissing::Stop);
        let Outcome::Executed(effects) = &run.outcome else { panic!("{run:?}") };
        assert!(effects.executed.status, "{run:?}");
        self.state.apply(effects);
        effects.executed.contract
    }

    fn call(&mut self, from: Address, to: Address, signature: &str, words: &[U256]) {
        self.run(from, TxKind::Call(to), abi(signature, words));
    }

    fn deploy(&mut self, from: Address, name: &str, words: &[U256]) -> Address {
        let mut code = creation(name);
        words.iter().for_each(|word| code.extend(word.to_be_bytes::<32>()));
        self.run(from, TxKind::Create, code.into()).expect("a contract")
    }

    /// A token of which its maker has all.
    fn token(&mut self, maker: Address) -> Address {
        let strings = [0x60, 0xa0, u128::MAX].map(U256::from);
        let text = [
            U256::from(1),
            U256::from_be_slice(&{
                let mut word = [0; 32];
                word[0] = b'T';
                word
            }),
        ];
        self.deploy(
            maker,
            "Token",
            &[strings[0], strings[1], strings[2], text[0], text[1], text[0], text[1]],
        )
    }

    /// Each from another account to another one that has something already.
    pub fn payments(count: usize) -> (Self, Vec<Tx>) {
        let mut world = Self::new();
        (0..2 * count).for_each(|number| world.fund(account(number)));
        let pay = |number| {
            let to = TxKind::Call(account(count + number));
            world.tx(account(number), to, 1, Bytes::new())
        };
        let txs = (0..count).map(pay).collect();
        (world, txs)
    }

    /// Of one token, each from another holder to another one.
    pub fn token_transfers(count: usize) -> (Self, Vec<Tx>) {
        let (mut world, maker) = (Self::new(), account(usize::MAX));
        world.fund(maker);
        let token = world.token(maker);
        for number in 0..2 * count {
            world.fund(account(number));
            let to = [word(account(number)), U256::from(1_000_000)];
            world.call(maker, token, "transfer(address,uint256)", &to);
        }
        let send = |number| {
            let input = [word(account(count + number)), U256::from(5)];
            let input = abi("transfer(address,uint256)", &input);
            world.tx(account(number), TxKind::Call(token), 0, input)
        };
        let txs = (0..count).map(send).collect();
        (world, txs)
    }

    /// On Uniswap V2, through its router: each by another account, on so many pairs in turn.
    pub fn swaps(count: usize, pairs: usize) -> (Self, Vec<Tx>) {
        let (mut world, maker) = (Self::new(), account(usize::MAX));
        world.fund(maker);
        let weth = world.deploy(maker, "WETH9", &[]);
        let factory = world.deploy(maker, "UniswapV2Factory", &[word(maker)]);
        let router = world.deploy(maker, "UniswapV2Router02", &[word(factory), word(weth)]);
        let deadline = U256::MAX;
        let approve = |world: &mut Self, from, token| {
            world.call(from, token, "approve(address,uint256)", &[word(router), U256::MAX]);
        };
        let mut markets = Vec::new();
        for _ in 0..pairs {
            let tokens = [world.token(maker), world.token(maker)];
            tokens.iter().for_each(|token| approve(&mut world, maker, *token));
            let [amount, zero] = [U256::from(1_u128 << 80), U256::ZERO];
            let [a, b] = tokens.map(word);
            let words = [a, b, amount, amount, zero, zero, word(maker), deadline];
            let signature =
                "addLiquidity(address,address,uint256,uint256,uint256,uint256,address,uint256)";
            world.call(maker, router, signature, &words);
            markets.push(tokens);
        }
        for number in 0..count {
            let [sold, bought] = markets[number % pairs];
            world.fund(account(number));
            for token in [sold, bought] {
                let to = [word(account(number)), U256::from(1_u64 << 50)];
                world.call(maker, token, "transfer(address,uint256)", &to);
            }
            approve(&mut world, account(number), sold);
        }
        let swap = |number: usize| {
            let [sold, bought] = markets[number % pairs];
            let [amount, zero, path, two] = [1_u64 << 40, 0, 0xa0, 2].map(U256::from);
            let to = word(account(number));
            let words = [amount, zero, path, to, deadline, two, word(sold), word(bought)];
            let signature = "swapExactTokensForTokens(uint256,uint256,address[],address,uint256)";
            world.tx(account(number), TxKind::Call(router), 0, abi(signature, &words))
        };
        let txs = (0..count).map(swap).collect();
        (world, txs)
    }
}
