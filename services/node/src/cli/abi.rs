//! Solidity values: reads signatures and arguments, encodes calls, decodes what they return.

use alloy_dyn_abi::{DynSolType, DynSolValue, FunctionExt, JsonAbiExt, Specifier};
use alloy_json_abi::{Constructor, Function, Param};
use alloy_primitives::{Bytes, hex};
use anyhow::{Context, anyhow, bail, ensure};
use serde_json::{Value, json};

use super::parse;

/// Length of a signature, in bytes.
const SIGNATURE_BYTES: usize = 1024;
/// Arrays and tuples within each other.
const DEPTH: usize = 16;
/// Values that the types of a signature hold apart from arrays of any length. The decoder makes room
/// for them before it looks at the data.
const VALUES: usize = 4096;
/// `Error(string)` and `Panic(uint256)`: what Solidity reverts with.
const ERROR: [u8; 4] = [0x08, 0xc3, 0x79, 0xa0];
const PANIC: [u8; 4] = [0x4e, 0x48, 0x7b, 0x71];

/// Reads `hop(uint256,bool)`, `totalSupply()(uint256)` or
/// `function get(uint256 id) view returns (address owner)`.
pub fn function(text: &str) -> anyhow::Result<Function> {
    read_function(text).with_context(|| {
        format!("`{}` is not a signature such as \"balanceOf(address)(uint256)\"", shortened(text))
    })
}

fn read_function(text: &str) -> anyhow::Result<Function> {
    check_length(text)?;
    let function = Function::parse(text).map_err(|error| anyhow!("{error}"))?;
    let written = text.trim_start();
    let written = written.strip_prefix("function ").unwrap_or(written).trim_start();
    ensure!(written.starts_with(&function.name), "the function's name has a point in it");
    check_types(&function.inputs)?;
    check_types(&function.outputs)?;
    Ok(function)
}

/// Reads the types of a constructor's arguments: `address,uint256`.
pub fn constructor(types: &str) -> anyhow::Result<Constructor> {
    read_constructor(types)
        .with_context(|| format!("`{}` is not a list of types", shortened(types)))
}

fn read_constructor(types: &str) -> anyhow::Result<Constructor> {
    check_length(types)?;
    let text = format!("constructor({types})");
    let constructor = Constructor::parse(&text).map_err(|error| anyhow!("{error}"))?;
    check_types(&constructor.inputs)?;
    Ok(constructor)
}

/// The call data of a call.
pub fn encode_call(function: &Function, args: &[String]) -> anyhow::Result<Bytes> {
    let values = read_args(&function.inputs, args)
        .with_context(|| format!("cannot call {}", function.signature()))?;
    Ok(function.abi_encode_input(&values)?.into())
}

/// What follows the code of a creation.
pub fn encode_constructor(constructor: &Constructor, args: &[String]) -> anyhow::Result<Vec<u8>> {
    check_types(&constructor.inputs).context("cannot encode the constructor's arguments")?;
    let values = read_args(&constructor.inputs, args).context("cannot call the constructor")?;
    Ok(constructor.abi_encode_input_raw(&values)?)
}

/// What a call returned; nothing if the signature does not say what it returns.
pub fn decode(function: &Function, data: &[u8]) -> anyhow::Result<Vec<DynSolValue>> {
    if function.outputs.is_empty() {
        return Ok(Vec::new());
    }
    function.abi_decode_output(data).ok().with_context(|| {
        format!(
            "the {} bytes returned are not ({}): compare the signature with the contract",
            data.len(),
            types(&function.outputs)
        )
    })
}

/// A value as people read it.
pub fn text(value: &DynSolValue) -> String {
    let list = |values: &[DynSolValue]| values.iter().map(text).collect::<Vec<_>>().join(", ");
    match value {
        DynSolValue::Bool(value) => value.to_string(),
        DynSolValue::Int(value, _) => value.to_string(),
        DynSolValue::Uint(value, _) => value.to_string(),
        DynSolValue::FixedBytes(word, size) => hex::encode_prefixed(&word[..(*size).min(32)]),
        DynSolValue::Address(address) => address.to_string(),
        DynSolValue::Function(function) => hex::encode_prefixed(function),
        DynSolValue::Bytes(bytes) => hex::encode_prefixed(bytes),
        DynSolValue::String(text) => text.clone(),
        DynSolValue::Array(values) | DynSolValue::FixedArray(values) => {
            format!("[{}]", list(values))
        }
        DynSolValue::Tuple(values) | DynSolValue::CustomStruct { tuple: values, .. } => {
            format!("({})", list(values))
        }
    }
}

/// A value for programs: numbers are decimal strings, bytes hex, tuples arrays.
pub fn json(value: &DynSolValue) -> Value {
    match value {
        DynSolValue::Bool(value) => json!(value),
        DynSolValue::Array(values)
        | DynSolValue::FixedArray(values)
        | DynSolValue::Tuple(values)
        | DynSolValue::CustomStruct { tuple: values, .. } => values.iter().map(json).collect(),
        other => json!(text(other)),
    }
}

/// Why a call reverted, as far as its data says.
pub fn revert_reason(data: &[u8]) -> String {
    match data.split_first_chunk::<4>() {
        None if data.is_empty() => "no reason given".into(),
        Some((&ERROR, rest)) => match DynSolType::String.abi_decode_params(rest) {
            Ok(DynSolValue::String(reason)) => reason,
            _ => format!("data {}", super::show::bytes(data)),
        },
        Some((&PANIC, rest)) if rest.len() == 32 => {
            let code = rest[31];
            let means = match code {
                0x01 => "an assertion failed",
                0x11 => "arithmetic overflow or underflow",
                0x12 => "division by zero",
                0x32 => "an index is out of bounds",
                _ => "see Solidity's Panic codes",
            };
            format!("panic 0x{code:02x}: {means}")
        }
        Some((selector, [])) => format!("custom error {}", hex::encode_prefixed(selector)),
        Some((selector, args)) if args.len() % 32 == 0 => {
            let (selector, args) = (hex::encode_prefixed(selector), super::show::bytes(args));
            format!("custom error {selector} with {args}")
        }
        _ => format!("data {}", super::show::bytes(data)),
    }
}

fn read_args(params: &[Param], args: &[String]) -> anyhow::Result<Vec<DynSolValue>> {
    ensure!(
        params.len() == args.len(),
        "it takes {} ({}), {} given",
        super::show::count(params.len() as u64, "argument"),
        types(params),
        args.len()
    );
    let mut values = Vec::with_capacity(args.len());
    for (index, (param, arg)) in params.iter().zip(args).enumerate() {
        let value = read_arg(&param.resolve()?, arg);
        values.push(value.with_context(|| {
            format!("argument {}, `{}`, is not a {}", index + 1, shortened(arg), param.ty)
        })?);
    }
    Ok(values)
}

fn read_arg(of: &DynSolType, text: &str) -> anyhow::Result<DynSolValue> {
    match of {
        // As it is: quotation marks and spaces are part of it.
        DynSolType::String => Ok(DynSolValue::String(text.to_owned())),
        DynSolType::Address => parse::address(text).map(DynSolValue::Address),
        DynSolType::Bytes => parse::bytes(text).map(|bytes| DynSolValue::Bytes(bytes.into())),
        _ => {
            ensure!(!has_long_exponent(text), "an exponent is too large");
            of.coerce_str(text).map_err(|error| anyhow!("{error}"))
        }
    }
}

/// Whether there is a number whose exponent has over 18 digits: the decoder adds to it unchecked.
fn has_long_exponent(text: &str) -> bool {
    let digits = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '+' && c != '-');
    digits.filter_map(|word| word.split_once(['e', 'E'])).any(|(before, after)| {
        let after = after.trim_start_matches(['+', '-']);
        let long = after.chars().take_while(char::is_ascii_digit).count() > 18;
        long && before.chars().all(|c| c.is_ascii_digit() || c == '-' || c == '+')
    })
}

fn check_length(text: &str) -> anyhow::Result<()> {
    let size = text.len();
    ensure!(size <= SIGNATURE_BYTES, "it is {size} bytes, the limit is {SIGNATURE_BYTES}");
    let mut depth = 0_usize;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        ensure!(depth <= DEPTH, "it has over {DEPTH} brackets within each other");
    }
    Ok(())
}

/// Refuses types that Solidity does not have, or that take too much room.
fn check_types(params: &[Param]) -> anyhow::Result<()> {
    let mut values = 0_usize;
    for param in params {
        let of = param.resolve().map_err(|error| anyhow!("{error}"))?;
        values = values.saturating_add(size(&of, 0)?);
    }
    ensure!(values <= VALUES, "its types hold over {VALUES} values");
    Ok(())
}

/// Number of values in a type, an array of any length counted as one.
fn size(of: &DynSolType, depth: usize) -> anyhow::Result<usize> {
    ensure!(depth <= DEPTH, "it has over {DEPTH} arrays and tuples within each other");
    match of {
        DynSolType::Array(of) => size(of, depth + 1),
        DynSolType::FixedArray(_, 0) => bail!("an array of no values is not a type"),
        DynSolType::FixedArray(of, length) => Ok(size(of, depth + 1)?.saturating_mul(*length)),
        DynSolType::Tuple(types) if types.is_empty() => bail!("an empty tuple is not a type"),
        DynSolType::Tuple(types) => types.iter().try_fold(0_usize, |sum, of| {
            Ok::<_, anyhow::Error>(sum.saturating_add(size(of, depth + 1)?))
        }),
        _ => Ok(1),
    }
}

fn types(params: &[Param]) -> String {
    params.iter().map(|param| param.selector_type()).collect::<Vec<_>>().join(",")
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
