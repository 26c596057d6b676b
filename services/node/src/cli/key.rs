//! Who signs: a development account, or a key that was given.

use std::{env, fmt, str::FromStr};

use alloy_primitives::B256;
use alloy_signer_local::{MnemonicBuilder, PrivateKeySigner};
use anyhow::Context;

use super::parse;
use crate::genesis::{self, DEVELOPMENT_MNEMONIC};

/// Holds a private key, so that it stands in no list of processes.
const KEY_VARIABLE: &str = "ATOLL_KEY";

/// Development accounts that have something: few enough to be named by a digit.
pub const DEVELOPMENT_ACCOUNTS: u8 = genesis::DEVELOPMENT_ACCOUNTS as u8;

/// A private key in hex. Does not show itself.
#[derive(Clone)]
pub struct Secret(String);

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The key of a development account.
pub fn development(index: u8) -> anyhow::Result<PrivateKeySigner> {
    MnemonicBuilder::try_from_phrase_nth(DEVELOPMENT_MNEMONIC, index.into())
        .with_context(|| format!("cannot make the key of development account {index}"))
}

/// A key that was given, else a development account; the first one if nothing was said.
pub fn signer(from: Option<u8>, key: Option<&Secret>) -> anyhow::Result<PrivateKeySigner> {
    let variable = env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty());
    signer_of(from, key, variable.map(Secret))
}

pub(super) fn signer_of(
    from: Option<u8>,
    key: Option<&Secret>,
    variable: Option<Secret>,
) -> anyhow::Result<PrivateKeySigner> {
    match (from, key, variable) {
        (Some(index), ..) => development(index),
        (None, Some(key), _) => read(key).context("--key is not a private key"),
        (None, None, Some(key)) => {
            read(&key).with_context(|| format!("{KEY_VARIABLE} is not a private key"))
        }
        (None, None, None) => development(0),
    }
}

/// The errors do not say what was given.
fn read(key: &Secret) -> anyhow::Result<PrivateKeySigner> {
    let digits = key.0.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let bytes = parse::bytes(&format!("0x{digits}"))?;
    let bytes = B256::try_from(&bytes[..]).ok();
    let bytes = bytes.context("a key is 0x and 64 hex digits")?;
    PrivateKeySigner::from_bytes(&bytes).ok().context("it is zero, or not below the curve's order")
}
