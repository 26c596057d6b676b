//! The command line.

use alloy_primitives::{U256, address};
use clap::{CommandFactory as _, Parser};

use crate::cli::{Command, call, key, receipt, tx};

#[derive(Parser)]
struct Atoll {
    #[command(subcommand)]
    command: Command,
}

const ADDRESS: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
const HASH: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";

fn read(line: &str) -> Result<Command, clap::Error> {
    let line = line.replace("ADDR", ADDRESS).replace("HASH", HASH);
    let words = line.split(' ').map(|word| word.replace('_', " "));
    Atoll::try_parse_from(words).map(|atoll| atoll.command)
}

#[test]
fn the_definition_holds() {
    Atoll::command().debug_assert();
}

#[test]
fn what_can_be_typed() {
    let lines = [
        "atoll tx send --to ADDR --value 1.5ether",
        "atoll tx send --to ADDR --value 1_ether --data 0x00 --from 9 --nonce 0 --gas 21000",
        "atoll tx send --to ADDR --max-fee 3gwei --priority-fee 7wei --wait executed --json",
        "atoll tx --target http://h:1 send --to ADDR",
        "atoll tx send --to ADDR --target h:1 --key 0x01 --wait none --timeout 5",
        "atoll tx deploy Token.json --args a b -5 --value 1",
        "atoll tx deploy 0x6001 --types address,uint256 --args ADDR 5",
        "atoll tx call-fn --to ADDR hop(uint256,bool) 5 false --json",
        "atoll tx call-fn --to ADDR f(int8) -5 --from 1",
        "atoll tx raw 0x02f8 --wait final",
        "atoll account",
        "atoll account ADDR --slot 0x10 --json --min-cut 7",
        "atoll call --to ADDR totalSupply()(uint256)",
        "atoll call --to ADDR f(int8)(int8) -5 --from 3 --json",
        "atoll call --to ADDR --data 0x18160ddd --from ADDR",
        "atoll receipt HASH --wait final --json --target h:1",
        "atoll cluster --json",
        "atoll cluster --placement ADDR ADDR --target h:1",
    ];
    for line in lines {
        assert!(read(line).is_ok(), "{line}: {}", read(line).unwrap_err());
    }
}

#[test]
fn what_is_refused() {
    let lines = [
        "atoll tx",
        "atoll tx send",
        "atoll tx send --to 0x12",
        "atoll tx send --to ADDR --value 1.5",
        "atoll tx send --to ADDR --value -1ether",
        "atoll tx send --to ADDR --from 10",
        "atoll tx send --to ADDR --from 1 --key 0x01",
        "atoll tx send --to ADDR --wait forever",
        "atoll tx send --to ADDR --timeout 0",
        "atoll tx deploy",
        "atoll tx raw 02f8",
        "atoll account ADDR --slot -1",
        "atoll account --slot 1",
        "atoll call --to ADDR",
        "atoll call --to ADDR f() --data 0x",
        "atoll receipt 0x12",
        "atoll receipt",
        "atoll cluster --placement",
        "atoll cluster --placement nonsense",
    ];
    for line in lines {
        assert!(read(line).is_err(), "{line}");
    }
}

#[test]
fn a_refusal_says_why() {
    let cases = [
        ("atoll tx send --to ADDR --value 1.5", "it is not a whole number of wei"),
        ("atoll tx send --to 0x12", "it is 1 bytes long, not 20"),
        ("atoll account 0xf39fd6e51aad88F6F4ce6aB8827279cffFb92266", "checksum"),
        ("atoll tx raw 02f8", "begins with 0x"),
    ];
    for (line, expected) in cases {
        let error = read(line).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn defaults() {
    let Command::Tx { command: tx::TxCommand::Send(args), target } =
        read("atoll tx send --to ADDR --target h:1").unwrap()
    else {
        panic!("another command");
    };
    assert_eq!(target.target.as_deref(), Some("h:1"));
    assert_eq!(args.following.wait, receipt::Wait::Final);
    assert_eq!(args.signing.value, U256::ZERO);
}

#[test]
fn fees() {
    assert_eq!(tx::fees(7, None, None).unwrap(), (1_000_000_014, 1_000_000_000));
    assert_eq!(tx::fees(7, Some(9), None).unwrap(), (9, 9));
    assert_eq!(tx::fees(7, None, Some(3)).unwrap(), (17, 3));
    assert_eq!(tx::fees(u64::MAX, None, Some(u128::MAX)).unwrap(), (u128::MAX, u128::MAX));
    assert!(tx::fees(7, Some(9), Some(10)).is_err());
}

#[test]
fn who_signs() {
    const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    let first = address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
    let second = address!("70997970C51812dc3A010C7d01b50e0d17dc79C8");
    let secret = |text: &str| text.parse::<key::Secret>().unwrap();
    let signer = |from, key: Option<&str>, variable: Option<&str>| {
        let signer = key::signer_of(from, key.map(secret).as_ref(), variable.map(secret));
        signer.map(|signer| signer.address())
    };
    assert_eq!(signer(None, None, None).unwrap(), first);
    assert_eq!(signer(Some(1), None, Some(KEY)).unwrap(), second);
    assert_eq!(signer(None, Some(KEY), Some("nonsense")).unwrap(), first);
    assert_eq!(signer(None, None, Some(&format!("0x{KEY}\n"))).unwrap(), first);
    let zero = "0".repeat(64);
    for nonsense in ["", "0x", "0x12", "hunter2", &zero, &"f".repeat(64), &format!("{KEY}00")] {
        let error = format!("{:#}", signer(None, Some(nonsense), None).unwrap_err());
        assert!(nonsense.len() < 3 || !error.contains(nonsense), "a key is shown: {error}");
    }
    assert!(!format!("{:?}", secret(KEY)).contains(KEY));
    assert_eq!(call::caller("1").unwrap(), second);
    assert!(call::caller("10").is_err());
}
