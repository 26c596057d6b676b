//! The contracts of `contracts/artifacts`: interfaces, creation code, addresses.

use alloy_primitives::{Address, Bytes, U256, hex, keccak256};
use alloy_sol_types::{SolValue as _, sol};
use anyhow::Context as _;

sol! {
    interface Token {
        function mint(address to, uint256 amount) external;
        function transfer(address to, uint256 value) external returns (bool);
        function transferFrom(address from, address to, uint256 value) external returns (bool);
        function approve(address spender, uint256 value) external returns (bool);
        function balanceOf(address account) external returns (uint256);
    }

    interface Hop {
        function hop(uint256 amount, bool failAtEnd) external returns (uint256 sum);
        function total() external returns (uint256);
    }

    interface Cell {
        function touch(uint256 x) external returns (uint256);
        function value() external returns (uint256);
    }

    interface Chameleon {
        function set(uint256 selector) external;
        function poke(address[] targets, uint256 x) external returns (uint256);
    }

    interface Drifter {
        function drift() external returns (bytes32);
        function driftTo(address[] targets, uint256 x) external returns (uint256);
    }

    interface Maker {
        function create(uint256 by) external payable returns (address);
        function create2(bytes32 salt, uint256 by) external payable returns (address);
        function flash(bytes32 salt, uint256 by, address heir) external payable returns (uint256);
    }

    interface Book {
        struct Step {
            address book;
            uint256 list;
            uint256 value;
        }

        function run(Step[] steps) external returns (uint256[][] seen);
        function move(uint256 from, address to, uint256 account, uint256 amount) external;
        function totals(address[] books, uint256 accounts) external view returns (uint256[] held);
    }

    interface EnvProbe {
        function record() external;
    }

    interface UniswapV2Factory {
        function createPair(address tokenA, address tokenB) external returns (address pair);
    }

    interface UniswapV2Router02 {
        function addLiquidity(
            address tokenA, address tokenB, uint256 amountADesired, uint256 amountBDesired,
            uint256 amountAMin, uint256 amountBMin, address to, uint256 deadline
        ) external returns (uint256 amountA, uint256 amountB, uint256 liquidity);
        function swapExactTokensForTokens(
            uint256 amountIn, uint256 amountOutMin, address[] path, address to, uint256 deadline
        ) external returns (uint256[] amounts);
    }
}

/// Creation code of an artefact, without constructor arguments.
pub fn bytecode(name: &str) -> anyhow::Result<Bytes> {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/../contracts/artifacts/{name}.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    let code = json["bytecode"].as_str().with_context(|| format!("{path} has no bytecode"))?;
    Ok(hex::decode(code)?.into())
}

fn with_arguments(name: &str, arguments: Vec<u8>) -> anyhow::Result<Bytes> {
    let mut code = bytecode(name)?.to_vec();
    code.extend(arguments);
    Ok(code.into())
}

/// Creation code of a token with no supply.
pub fn token(symbol: &str) -> anyhow::Result<Bytes> {
    let arguments = (symbol.to_owned(), symbol.to_owned(), U256::ZERO);
    with_arguments("Token", arguments.abi_encode_params())
}

/// Creation code of a link of a chain; the zero address as `next` makes it the last.
pub fn hop(next: Address) -> anyhow::Result<Bytes> {
    with_arguments("Hop", (next,).abi_encode_params())
}

/// Creation code of a book of which some accounts have a balance.
pub fn book(accounts: u64, balance: u64) -> anyhow::Result<Bytes> {
    with_arguments("Book", (U256::from(accounts), U256::from(balance)).abi_encode_params())
}

/// Creation code of Uniswap's factory.
pub fn exchange() -> anyhow::Result<Bytes> {
    with_arguments("UniswapV2Factory", (Address::ZERO,).abi_encode_params())
}

/// Creation code of Uniswap's router, without WETH.
pub fn router(factory: Address) -> anyhow::Result<Bytes> {
    with_arguments("UniswapV2Router02", (factory, Address::ZERO).abi_encode_params())
}

/// Where Uniswap's factory puts the pair of two tokens.
pub fn pair(factory: Address, a: Address, b: Address) -> anyhow::Result<Address> {
    let salt = keccak256((a.min(b), a.max(b)).abi_encode_packed());
    Ok(factory.create2(salt, keccak256(bytecode("UniswapV2Pair")?)))
}
