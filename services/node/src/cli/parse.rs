//! Reads what people type (addresses, hashes, bytes, numbers), and the bytes of replies.

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use anyhow::{Context, bail, ensure};

/// A parser for clap that says everything that is wrong, not the first sentence only.
pub fn typed<T>(
    read: fn(&str) -> anyhow::Result<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync {
    move |text| read(text).map_err(|error| format!("{error:#}"))
}

/// An address with `0x`. In mixed case its checksum (EIP-55) must be right.
pub fn address(text: &str) -> anyhow::Result<Address> {
    let bytes = exactly(text, 20)
        .with_context(|| format!("`{text}` is not an address: 0x and 40 hex digits"))?;
    let address = Address::from_slice(&bytes);
    let digits = text.trim_start_matches("0x");
    let mixed = digits.contains(|c: char| c.is_ascii_lowercase())
        && digits.contains(|c: char| c.is_ascii_uppercase());
    if mixed && address.to_string() != text {
        bail!("`{text}` has a wrong checksum: a digit is mistyped (all lower case goes unchecked)");
    }
    Ok(address)
}

/// A hash with `0x`.
pub fn hash(text: &str) -> anyhow::Result<B256> {
    let bytes = exactly(text, 32)
        .with_context(|| format!("`{text}` is not a hash: 0x and 64 hex digits"))?;
    Ok(B256::from_slice(&bytes))
}

/// Bytes in hex, with `0x`.
pub fn bytes(text: &str) -> anyhow::Result<Bytes> {
    let digits = text.strip_prefix("0x").context("hex data begins with 0x")?;
    ensure!(digits.len() % 2 == 0, "hex data has two digits a byte, this has an odd number");
    // Not the decoder's words: they may quote what was given, and it may be a key.
    let bytes = hex::decode(digits).ok().context("hex data holds a character that is no digit")?;
    Ok(bytes.into())
}

/// A 256-bit number, decimal or hex with `0x`.
pub fn number(text: &str) -> anyhow::Result<U256> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let all = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    let number = all.then(|| U256::from_str_radix(digits, radix.into()).ok()).flatten();
    number.with_context(|| format!("`{text}` is not a number from 0 to 2^256 - 1"))
}

fn exactly(text: &str, length: usize) -> anyhow::Result<Bytes> {
    let bytes = bytes(text)?;
    ensure!(bytes.len() == length, "it is {} bytes long, not {length}", bytes.len());
    Ok(bytes)
}

/// A number of a reply.
pub fn reply_number(field: &str, bytes: &[u8]) -> anyhow::Result<U256> {
    let number = U256::try_from_be_slice(bytes);
    number.with_context(|| format!("the reply's `{field}` has {} bytes, over 32", bytes.len()))
}

/// An address of a reply; `None` if it is left out.
pub fn reply_address(field: &str, bytes: &[u8]) -> anyhow::Result<Option<Address>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let address = Address::try_from(bytes).ok();
    let address = address
        .with_context(|| format!("the reply's `{field}` has {} bytes, not 20", bytes.len()))?;
    Ok(Some(address))
}

/// A hash of a reply.
pub fn reply_hash(field: &str, bytes: &[u8]) -> anyhow::Result<B256> {
    let hash = B256::try_from(bytes).ok();
    hash.with_context(|| format!("the reply's `{field}` has {} bytes, not 32", bytes.len()))
}
