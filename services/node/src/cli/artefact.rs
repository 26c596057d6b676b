//! What a compiler makes: creation code, and the constructor's types.

use std::{fs, io::Read as _, path::Path};

use alloy_json_abi::{Constructor, JsonAbi};
use alloy_primitives::Bytes;
use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::{abi, parse};

/// Length of an artefact, in bytes.
const ARTEFACT_BYTES: u64 = 16 << 20;

#[derive(Deserialize)]
struct Artefact {
    #[serde(default)]
    abi: JsonAbi,
    bytecode: Code,
}

/// Hardhat, and this repository, write the code itself; Foundry an object that holds it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Code {
    Hex(String),
    Object { object: String },
}

/// The code of a creation with its constructor's arguments. `what` is the path of an artefact, or
/// code in hex with 0x; `types` are those of the arguments, where there is no artefact to say.
pub fn creation(what: &str, types: Option<&str>, args: &[String]) -> anyhow::Result<Bytes> {
    let (code, constructor) = if what.starts_with("0x") {
        let code = parse::bytes(what).context("cannot read the code")?;
        let constructor = types.map(abi::constructor).transpose()?;
        ensure!(
            constructor.is_some() || args.is_empty(),
            "code alone does not say what its arguments are: give --types, such as \
             --types address,uint256, or deploy an artefact"
        );
        (code, constructor)
    } else {
        ensure!(types.is_none(), "--types is for code in hex: {what} has the types in its abi");
        read(Path::new(what))?
    };
    let none = Constructor::parse("constructor()").ok().context("cannot make a constructor")?;
    let args = abi::encode_constructor(constructor.as_ref().unwrap_or(&none), args)?;
    ensure!(!code.is_empty(), "there is no code: an interface or an abstract contract has none");
    Ok([&code[..], &args].concat().into())
}

fn read(path: &Path) -> anyhow::Result<(Bytes, Option<Constructor>)> {
    let name = path.display();
    let help = "give the path of a compiled contract's JSON file, or its code as 0x…";
    let file = fs::File::open(path).with_context(|| format!("cannot read {name}: {help}"))?;
    let mut text = String::new();
    let size = file
        .take(ARTEFACT_BYTES + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {name}: {help}"))?;
    ensure!(size as u64 <= ARTEFACT_BYTES, "{name} is over {ARTEFACT_BYTES} bytes, the limit");
    let artefact: Artefact = serde_json::from_str(&text)
        .with_context(|| format!("{name} is not an artefact with `abi` and `bytecode`: {help}"))?;
    let (Code::Hex(code) | Code::Object { object: code }) = artefact.bytecode;
    if code.contains("__") {
        bail!("the code in {name} lacks the addresses of its libraries: link it first");
    }
    let digits = code.strip_prefix("0x").unwrap_or(&code);
    let code = parse::bytes(&format!("0x{digits}"))
        .with_context(|| format!("cannot read the code in {name}"))?;
    Ok((code, artefact.abi.constructor))
}
