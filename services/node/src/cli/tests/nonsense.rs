//! Whatever is typed or answered, nothing panics.

use atoll_wire::v1::{CallResponse, GetAccountResponse, TransactionLog, TransactionReceipt};
use bytes::Bytes;
use proptest::prelude::*;

use crate::cli::show::Report as _;
use crate::cli::{abi, account, amount, artefact, call, parse, receipt};

fn some_bytes() -> impl Strategy<Value = Bytes> {
    let lengths = prop_oneof![Just(0), Just(20), Just(32), 0..80_usize];
    lengths.prop_flat_map(|length| prop::collection::vec(any::<u8>(), length).prop_map(Bytes::from))
}

fn receipts() -> impl Strategy<Value = TransactionReceipt> {
    let bytes = prop::collection::vec(some_bytes(), 8);
    let numbers = (any::<[i32; 2]>(), any::<[u64; 5]>(), any::<(bool, Option<u32>, u32)>(), 0..6);
    (bytes, numbers, any::<String>()).prop_map(|(bytes, numbers, dropped_reason)| {
        let [hash, price, contract, sender, to, data, topic, emitter] = bytes.try_into().unwrap();
        let (enums, [gas_used, round, block, cut, nonce], (status, group_index, index), small) =
            numbers;
        TransactionReceipt {
            hash: if small == 0 { hash } else { vec![7; 32].into() },
            finality: if small < 2 { enums[0] } else { small },
            dropped_reason,
            status,
            gas_used,
            effective_gas_price: price,
            logs: vec![TransactionLog {
                address: emitter,
                topics: vec![topic],
                data: data.clone(),
            }],
            contract_address: contract,
            return_data: data,
            kind: if small < 2 { enums[1] } else { small - 1 },
            shards: vec![index],
            shard_count: index,
            round,
            group_index,
            block,
            index,
            cut,
            sender,
            nonce,
            to,
        }
    })
}

/// Mostly what signatures and values are made of.
fn scraps() -> impl Strategy<Value = String> {
    let scrap = prop_oneof![
        Just("uint256"),
        Just("int8"),
        Just("string"),
        Just("bytes"),
        Just("address"),
        Just("f"),
        Just("("),
        Just(")"),
        Just("[]"),
        Just("["),
        Just("]"),
        Just("[3]"),
        Just(","),
        Just(" "),
        Just("returns"),
        Just("1"),
        Just("-"),
        Just("0x"),
        Just("e9"),
        Just("."),
        Just("ether"),
        Just("\""),
        Just("99999999999999999999"),
        Just("é"),
        Just("\0"),
    ];
    prop::collection::vec(scrap, 0..24).prop_map(|scraps| scraps.concat())
}

proptest! {
    #[test]
    fn text(text in prop_oneof![any::<String>(), scraps(), "[0-9.]{0,90}[a-z ]{0,6}"]) {
        let _ = amount::wei(&text);
        let _ = amount::gas_price(&text);
        let _ = parse::address(&text);
        let _ = parse::hash(&text);
        let _ = parse::number(&text);
        let _ = parse::bytes(&format!("0x{text}"));
        let _ = call::caller(&text);
        let _ = abi::function(&text);
        let _ = abi::constructor(&text);
        let _ = artefact::creation(&format!("0x{text}"), Some(&text), &[]);
    }

    #[test]
    fn arguments(text in prop_oneof![any::<String>(), scraps()], which in 0..8_usize) {
        let of = [
            "uint256", "int8", "(uint8,string)[]", "address[2]", "bytes3", "bytes", "function",
            "(bool,(bytes,int256[]))",
        ][which];
        let function = abi::function(&format!("f({of})({of})")).unwrap();
        if let Ok(data) = abi::encode_call(&function, &[text]) {
            let values = abi::decode(&function, &data[4..]).unwrap();
            for value in &values {
                abi::text(value);
                abi::json(value);
            }
        }
    }

    #[test]
    fn return_data(words in prop::collection::vec(prop_oneof![0..400_u64, any::<u64>()], 0..24)) {
        let data: Vec<u8> =
            words.iter().flat_map(|word| [[0; 24].to_vec(), word.to_be_bytes().to_vec()].concat())
            .collect();
        let of = ["uint256[]", "string", "(bytes,string[])[]", "uint8[4][][]", "bool", "function"];
        for of in of {
            let function = abi::function(&format!("f()({of})")).unwrap();
            if let Ok(values) = abi::decode(&function, &data) {
                values.iter().for_each(|value| drop(abi::text(value)));
            }
        }
        let error = [&[0x08, 0xc3, 0x79, 0xa0][..], &data].concat();
        abi::revert_reason(&error);
    }

    #[test]
    fn replies(receipt in receipts(), words in any::<(u32, u64, i32, String)>()) {
        if let Ok(report) = receipt::ReceiptReport::read(&receipt) {
            report.text();
            report.json();
            let _ = report.check();
        }
        let (shard, cut, outcome, message) = words;
        let address = alloy_primitives::Address::ZERO;
        let reply = GetAccountResponse {
            nonce: cut,
            balance: receipt.effective_gas_price.clone(),
            code_hash: receipt.hash.clone(),
            code: receipt.return_data.clone(),
            shard,
            cut,
        };
        if let Ok(account) = account::Account::read(address, &reply) {
            account.text();
            account.json();
        }
        let reply = CallResponse {
            outcome: if shard % 2 == 0 { 1 } else { outcome },
            return_data: receipt.return_data,
            gas_used: cut,
            logs: receipt.logs,
            cut,
            message,
            contract_address: receipt.to,
        };
        let function = abi::function("f()(uint256,string)").ok();
        for function in [None, function] {
            if let Ok(report) = call::CallReport::read(address, function, reply.clone()) {
                report.text();
                report.json();
                let _ = report.check();
            }
        }
    }
}

#[test]
fn the_terminal_is_not_written_to_by_contracts() {
    let receipt = TransactionReceipt {
        hash: vec![7; 32].into(),
        finality: 4,
        dropped_reason: "\u{1b}[2Jgone".into(),
        ..Default::default()
    };
    let report = receipt::ReceiptReport::read(&receipt).unwrap();
    assert!(!report.text().contains('\u{1b}'));
    assert!(!report.check().unwrap_err().to_string().contains('\u{1b}'));
}
