//! The contracts that the workloads call: interfaces and creation code.

use alloy_primitives::{Address, Bytes, U256, keccak256};
use alloy_sol_types::{SolValue, sol};
use anyhow::Context;
use serde::Deserialize;

sol! {
    /// `contracts/src/Token.sol`
    interface Token {
        function mint(address to, uint256 amount) external;
        function transfer(address to, uint256 value) external returns (bool);
        function approve(address spender, uint256 value) external returns (bool);
    }

    /// `contracts/src/MultiHop.sol`
    interface Hop {
        function hop(uint256 amount, bool failAtEnd) external returns (uint256 sum);
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

/// A compiled contract of `contracts/artifacts`.
#[derive(Clone, Copy, Debug)]
pub enum Artifact {
    Token,
    Hop,
    Factory,
    Pair,
    Router,
}

impl Artifact {
    fn json(self) -> &'static str {
        match self {
            Self::Token => include_str!("../../../contracts/artifacts/Token.json"),
            Self::Hop => include_str!("../../../contracts/artifacts/Hop.json"),
            Self::Factory => include_str!("../../../contracts/artifacts/UniswapV2Factory.json"),
            Self::Pair => include_str!("../../../contracts/artifacts/UniswapV2Pair.json"),
            Self::Router => include_str!("../../../contracts/artifacts/UniswapV2Router02.json"),
        }
    }

    fn bytecode(self) -> anyhow::Result<Vec<u8>> {
        #[derive(Deserialize)]
        struct Json {
            bytecode: Bytes,
        }
        let artifact: Json = serde_json::from_str(self.json())
            .with_context(|| format!("artefact of {self:?} is unreadable"))?;
        Ok(artifact.bytecode.into())
    }
}

fn creation<A: SolValue>(artifact: Artifact, arguments: &A) -> anyhow::Result<Bytes>
where
    for<'a> <A::SolType as alloy_sol_types::SolType>::Token<'a>: alloy_sol_types::abi::TokenSeq<'a>,
{
    let mut code = artifact.bytecode()?;
    code.extend(arguments.abi_encode_params());
    Ok(code.into())
}

/// Creation code of a token with no supply.
pub fn token() -> anyhow::Result<Bytes> {
    let arguments = ("Load".to_owned(), "LOAD".to_owned(), U256::ZERO);
    creation(Artifact::Token, &arguments)
}

/// Creation code of a link of a chain; the zero address as `next` makes it the last.
pub fn hop(next: Address) -> anyhow::Result<Bytes> {
    creation(Artifact::Hop, &(next,))
}

/// Creation code of an exchange whose fee nobody can take.
pub fn factory() -> anyhow::Result<Bytes> {
    creation(Artifact::Factory, &(Address::ZERO,))
}

/// Creation code of a router without WETH: nothing here trades the coin itself.
pub fn router(factory: Address) -> anyhow::Result<Bytes> {
    creation(Artifact::Router, &(factory, Address::ZERO))
}

/// Where `createPair` puts pairs.
pub struct PairPlace {
    code_hash: alloy_primitives::B256,
}

impl PairPlace {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { code_hash: keccak256(Artifact::Pair.bytecode()?) })
    }

    /// The pair of two tokens in either order.
    pub fn of(&self, factory: Address, a: Address, b: Address) -> Address {
        let salt = keccak256((a.min(b), a.max(b)).abi_encode_packed());
        factory.create2(salt, self.code_hash)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy_primitives::{B256, hex};
    use alloy_sol_types::SolCall;

    use super::*;

    /// Signatures of an artefact's functions by selector, from its ABI.
    fn selectors(artifact: Artifact) -> BTreeMap<[u8; 4], String> {
        let json: serde_json::Value = serde_json::from_str(artifact.json()).unwrap();
        let functions = json["abi"].as_array().unwrap().iter();
        functions
            .filter(|entry| entry["type"] == "function")
            .map(|entry| {
                let inputs = entry["inputs"].as_array().unwrap().iter();
                let types: Vec<_> = inputs.map(|i| i["type"].as_str().unwrap()).collect();
                let name = entry["name"].as_str().unwrap();
                let signature = format!("{name}({})", types.join(","));
                let hash: B256 = keccak256(&signature);
                ([hash[0], hash[1], hash[2], hash[3]], signature)
            })
            .collect()
    }

    fn stands_in<C: SolCall>(artifact: Artifact) {
        assert_eq!(
            selectors(artifact).get(&C::SELECTOR).map(String::as_str),
            Some(C::SIGNATURE),
            "{artifact:?}"
        );
    }

    #[test]
    fn calls_are_those_of_the_artefacts() {
        stands_in::<Token::mintCall>(Artifact::Token);
        stands_in::<Token::transferCall>(Artifact::Token);
        stands_in::<Token::approveCall>(Artifact::Token);
        stands_in::<Hop::hopCall>(Artifact::Hop);
        stands_in::<UniswapV2Factory::createPairCall>(Artifact::Factory);
        stands_in::<UniswapV2Router02::addLiquidityCall>(Artifact::Router);
        stands_in::<UniswapV2Router02::swapExactTokensForTokensCall>(Artifact::Router);
    }

    #[test]
    fn creation_code_is_bytecode_and_the_constructors_arguments() {
        for (artifact, code, types, words) in [
            (Artifact::Token, token(), "string,string,uint256", 7),
            (Artifact::Hop, hop(Address::ZERO), "address", 1),
            (Artifact::Factory, factory(), "address", 1),
            (Artifact::Router, router(Address::ZERO), "address,address", 2),
        ] {
            let json: serde_json::Value = serde_json::from_str(artifact.json()).unwrap();
            let mut entries = json["abi"].as_array().unwrap().iter();
            let constructor = entries.find(|e| e["type"] == "constructor").unwrap();
            let inputs = constructor["inputs"].as_array().unwrap().iter();
            let found: Vec<_> = inputs.map(|i| i["type"].as_str().unwrap()).collect();
            assert_eq!(found.join(","), types);
            let bytecode = artifact.bytecode().unwrap();
            let code = code.unwrap();
            assert!(code.starts_with(&bytecode));
            assert_eq!(code.len() - bytecode.len(), words * 32);
        }
    }

    #[test]
    fn pairs_stand_where_uniswap_puts_them() {
        // Uniswap's own factory, USDC and WETH on Ethereum mainnet.
        let address = |text: &str| text.parse::<Address>().unwrap();
        let place = PairPlace::new().unwrap();
        let usdc = address("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48");
        let weth = address("0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2");
        let factory = address("0x5C69bEe701ef814a2B6a3EDD4B1652CB9cc5aA6f");
        let pair = address("0xB4e16d0168e52d35CaCD2c6185b44281Ec28C9Dc");
        assert_eq!(place.of(factory, usdc, weth), pair);
        assert_eq!(place.of(factory, weth, usdc), pair);
        assert_eq!(
            hex::encode(place.code_hash),
            "96e8ac4277198ff8b6f785478aa9a39f403cb768dd02cbee326c3e7da348845f"
        );
    }
}
