//! Signatures, arguments, return data and creation code, against the compiled contracts.

use std::{fs, path::PathBuf};

use alloy_primitives::{hex, keccak256};
use serde_json::{Value, json};

use crate::cli::{abi, artefact};

const FOUR: &str = "0x00000000000000000000000000000000000000f4";

fn artefacts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../contracts/artifacts")
}

fn load(name: &str) -> Value {
    let path = artefacts().join(name).with_extension("json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|&arg| arg.to_owned()).collect()
}

fn call(signature: &str, args: &[&str]) -> anyhow::Result<String> {
    let function = abi::function(signature)?;
    Ok(hex::encode(abi::encode_call(&function, &words(args))?))
}

fn types(params: &Value) -> String {
    let name = |param: &Value| match param.get("components") {
        Some(inner) => text(&param["type"]).replacen("tuple", &format!("({})", types(inner)), 1),
        None => text(&param["type"]).to_owned(),
    };
    params.as_array().unwrap().iter().map(name).collect::<Vec<_>>().join(",")
}

#[test]
fn every_function_of_the_artefacts() {
    let mut seen = 0;
    for entry in fs::read_dir(artefacts()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let contract = load(name);
        let functions = contract["abi"].as_array().unwrap().iter();
        for item in functions.filter(|item| item["type"] == "function") {
            let (function, inputs) = (text(&item["name"]), types(&item["inputs"]));
            let signature = format!("{function}({inputs})({})", types(&item["outputs"]));
            let read = abi::function(&signature).unwrap();
            assert_eq!(read.outputs.len(), item["outputs"].as_array().unwrap().len());
            // The compiler's own word for it: the dispatcher compares with this constant, whose
            // leading zeros it leaves out.
            let selector = hex::encode(read.selector());
            let constant = selector.trim_start_matches("00");
            let code = text(&contract["deployedBytecode"]);
            assert!(code.contains(constant), "{name}.{signature}: {selector}");
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen} functions");
}

#[test]
fn calls() {
    let word = |digits: &str| format!("{digits:0>64}");
    let hop = hex::encode(&keccak256("hop(uint256,bool)")[..4]);
    assert_eq!(
        call("hop(uint256,bool)", &["5", "true"]).unwrap(),
        [hop.clone(), word("5"), word("1")].concat()
    );
    let named = "function hop(uint amount, bool failAtEnd) external returns (uint256 total)";
    assert_eq!(call(named, &["0x10", "false"]).unwrap(), [hop, word("10"), word("0")].concat());
    assert_eq!(call("totalSupply()(uint256)", &[]).unwrap(), "18160ddd");
    assert_eq!(
        call("transfer(address,uint256)(bool)", &[FOUR, "1.5ether"]).unwrap(),
        ["a9059cbb".into(), word("f4"), word("14d1120d7b160000")].concat()
    );
    assert_eq!(
        call("f(int256)", &["-1"]).unwrap(),
        format!("{}{}", hex::encode(&keccak256("f(int256)")[..4]), "f".repeat(64))
    );
    // A list of structs in place, text behind it.
    let data = call("f((uint8,bool)[2],string)", &["[(1,true),(2,false)]", " a \"b\" "]).unwrap();
    let last = format!("{:0<64}", "20612022622220");
    let expected = [word("1"), word("1"), word("2"), word("0"), word("a0"), word("7"), last];
    assert_eq!(data[8..], expected.concat());
}

#[test]
fn refused_arguments_say_which_and_why() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("hop(uint256,bool)", &["5"], "it takes 2 arguments (uint256,bool), 1 given"),
        ("hop(uint256,bool)", &["5", "yes"], "argument 2, `yes`, is not a bool"),
        ("hop(uint256,bool)", &["-5", "true"], "argument 1, `-5`, is not a uint256"),
        ("f(uint8)", &["256"], "argument 1"),
        ("f(address)", &["0x1234"], "not an address"),
        ("f(address)", &["0xf39fd6e51aad88F6F4ce6aB8827279cffFb92266"], "checksum"),
        ("f(bytes)", &["0x123"], "odd number"),
        ("f(bytes4)", &["0x123456"], "argument 1"),
        ("f(uint256[2])", &["[1]"], "argument 1"),
        ("f(uint256)", &["1e9223372036854775807ether"], "exponent is too large"),
        ("f(uint256[])", &["[1, 1e-99999999999999999999]"], "exponent is too large"),
    ];
    for (signature, args, expected) in cases {
        let error = format!("{:#}", call(signature, args).unwrap_err());
        assert!(error.contains(expected), "{signature} {args:?}: {error}");
    }
}

#[test]
fn refused_signatures() {
    let deep = format!("f({}uint{})", "(".repeat(40), ")".repeat(40));
    let arrays = format!("f(uint{})", "[]".repeat(40));
    let long = format!("f({})", vec!["uint256"; 1000].join(","));
    let cases = [
        "",
        "f",
        "f(",
        "f)",
        "(uint256)",
        "f(uint257)",
        "f(foo)",
        "f(uint256[0])",
        "f(uint256[-1])",
        "f(uint256[1000000000000])",
        "f()(uint8[1000][1000])",
        "f()(())",
        "f()(()[])",
        "f(uint256",
        "f(uint256))",
        "f.g(uint256)",
        "event f(uint256)",
        "f(uint256) anonymous",
        "é(uint256)",
        "f(\0)",
        &deep,
        &arrays,
        &long,
    ];
    for text in cases {
        let read = abi::function(text);
        assert!(read.is_err(), "{text:?} is read as {read:?}");
    }
}

#[test]
fn decodes_what_calls_return() {
    let function = abi::function("f()(uint256,int8,address,bytes,string,bool[],(bytes2,bool))");
    let function = function.unwrap();
    let word = |digits: &str| format!("{digits:0>64}");
    let left = |digits: &str| format!("{digits:0<64}");
    let head = [word("de0b6b3a7640000"), "f".repeat(64), word("f4")];
    let places = [word("100"), word("140"), word("180"), left("abcd"), word("1")];
    let bytes = [word("2"), left("beef"), word("5"), left(&hex::encode("Atoll"))];
    let list = [word("2"), word("1"), word("0")];
    let data = [&head[..], &places, &bytes, &list].concat().concat();
    let data = hex::decode(data).unwrap();
    let values = abi::decode(&function, &data).unwrap();
    let shown: Vec<_> = values.iter().map(abi::text).collect();
    let address = "0x00000000000000000000000000000000000000f4";
    assert_eq!(shown[0], "1000000000000000000");
    assert_eq!(shown[1], "-1");
    assert_eq!(shown[2].to_lowercase(), address);
    assert_eq!(&shown[3..], ["0xbeef", "Atoll", "[true, false]", "(0xabcd, true)"]);
    let json: Vec<_> = values.iter().map(abi::json).collect();
    assert_eq!(json[0], json!("1000000000000000000"));
    assert_eq!(json[5..], [json!([true, false]), json!(["0xabcd", true])]);
    let error = abi::decode(&function, &data[..64]).unwrap_err().to_string();
    assert!(error.contains("the 64 bytes returned are not (uint256,int8"), "{error}");
}

#[test]
fn reasons_of_reverts() {
    let error = |text: &str| {
        let function = abi::function("Error(string)").unwrap();
        abi::encode_call(&function, &words(&[text])).unwrap()
    };
    let panic = call("Panic(uint256)", &["0x11"]).unwrap();
    assert_eq!(abi::revert_reason(&error("too much")), "too much");
    assert_eq!(
        abi::revert_reason(&hex::decode(panic).unwrap()),
        "panic 0x11: arithmetic overflow or underflow"
    );
    assert_eq!(abi::revert_reason(&[]), "no reason given");
    assert_eq!(abi::revert_reason(&hex!("deadbeef")), "custom error 0xdeadbeef");
    let custom = [hex!("deadbeef").to_vec(), vec![7; 32]].concat();
    let expected = format!("custom error 0xdeadbeef with 0x{}", "07".repeat(32));
    assert_eq!(abi::revert_reason(&custom), expected);
    assert_eq!(abi::revert_reason(&hex!("08c379a0ff")), "data 0x08c379a0ff");
    assert_eq!(abi::revert_reason(&[1; 2]), "data 0x0101");
}

#[test]
fn creation_code_of_artefacts() {
    let path = |name: &str| artefacts().join(name).with_extension("json").display().to_string();
    let code = |name: &str| hex::decode(text(&load(name)["bytecode"])).unwrap();
    let made = artefact::creation(&path("Cell"), None, &[]).unwrap();
    assert_eq!(made, code("Cell"));
    let args = words(&["Atoll Token", "ATL", "1000ether"]);
    let made = artefact::creation(&path("Token"), None, &args).unwrap();
    let tail = made.strip_prefix(&code("Token")[..]).unwrap();
    let expected = [
        "0000000000000000000000000000000000000000000000000000000000000060",
        "00000000000000000000000000000000000000000000000000000000000000a0",
        "00000000000000000000000000000000000000000000003635c9adc5dea00000",
        "000000000000000000000000000000000000000000000000000000000000000b",
        "41746f6c6c20546f6b656e000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000003",
        "41544c0000000000000000000000000000000000000000000000000000000000",
    ];
    assert_eq!(hex::encode(tail), expected.concat());
    let made = artefact::creation("0x6001", Some("address,uint256"), &words(&[FOUR, "1"])).unwrap();
    assert_eq!(made.len(), 2 + 64);
    assert_eq!(artefact::creation("0x6001", None, &[]).unwrap()[..], [0x60, 0x01]);
}

#[test]
fn refused_artefacts() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = place.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let token = artefacts().join("Token.json").display().to_string();
    let foundry = file("foundry.json", r#"{"abi":[],"bytecode":{"object":"0x6001"},"x":1}"#);
    assert_eq!(artefact::creation(&foundry, None, &[]).unwrap()[..], [0x60, 0x01]);
    let cases = [
        (token.as_str(), None, "3 arguments (string,string,uint256), 0 given"),
        (&token, Some("address"), "--types is for code in hex"),
        ("/nowhere/at/all.json", None, "cannot read /nowhere/at/all.json"),
        ("0x60zz", None, "no digit"),
        ("0x", None, "there is no code"),
        (&file("text", "hello"), None, "is not an artefact"),
        (&file("interface.json", r#"{"abi":[],"bytecode":"0x"}"#), None, "there is no code"),
        (&file("link.json", r#"{"abi":[],"bytecode":"0x60__$ab$__"}"#), None, "libraries"),
        (&file("abi.json", r#"{"abi":7,"bytecode":"0x60"}"#), None, "is not an artefact"),
        (place.path().to_str().unwrap(), None, "cannot read"),
    ];
    for (what, types, expected) in cases {
        let error = format!("{:#}", artefact::creation(what, types, &[]).unwrap_err());
        assert!(error.contains(expected), "{what}: {error}");
    }
    let error = artefact::creation("0x60", None, &words(&["1"])).unwrap_err().to_string();
    assert!(error.contains("--types"), "{error}");
}
