//! Values of JSON as the format writes them: strings of hex, with or without digits.

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// A field that may be absent.
pub(super) fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

/// A field that has to be there.
pub(super) fn required<'a>(object: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    field(object, name).with_context(|| format!("`{name}` is missing"))
}

/// A number of 256 bits.
pub(super) fn word(value: &Value) -> anyhow::Result<U256> {
    if let Some(number) = value.as_u64() {
        return Ok(U256::from(number));
    }
    let text = text(value)?;
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.is_empty() {
        return Ok(U256::ZERO);
    }
    U256::from_str_radix(digits, radix).with_context(|| format!("`{text}` is no number"))
}

/// A number of 64 bits.
pub(super) fn number(value: &Value) -> anyhow::Result<u64> {
    let word = word(value)?;
    u64::try_from(word).with_context(|| format!("{word} is more than 64 bits"))
}

/// A number of 128 bits.
pub(super) fn long(value: &Value) -> anyhow::Result<u128> {
    let word = word(value)?;
    u128::try_from(word).with_context(|| format!("{word} is more than 128 bits"))
}

/// Bytes of any length.
pub(super) fn bytes(value: &Value) -> anyhow::Result<Bytes> {
    let text = text(value)?;
    let raw = hex::decode(text).with_context(|| format!("`{}` is no hex", short(text)))?;
    Ok(raw.into())
}

/// 20 bytes.
pub(super) fn address(value: &Value) -> anyhow::Result<Address> {
    let raw = bytes(value)?;
    ensure!(raw.len() == 20, "an address of {} bytes", raw.len());
    Ok(Address::from_slice(&raw))
}

/// Up to 32 bytes, filled up on the left.
pub(super) fn hash(value: &Value) -> anyhow::Result<B256> {
    Ok(word(value)?.into())
}

/// A list.
pub(super) fn list(value: &Value) -> anyhow::Result<&[Value]> {
    value.as_array().map(Vec::as_slice).context("it is no list")
}

/// A string.
pub(super) fn text(value: &Value) -> anyhow::Result<&str> {
    match value {
        Value::String(text) => Ok(text),
        other => bail!("`{}` is no string", short(&other.to_string())),
    }
}

/// Enough of a text to find it.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
