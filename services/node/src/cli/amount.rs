//! Amounts of wei: how they are written and read.

use alloy_primitives::U256;
use anyhow::{Context, bail, ensure};

/// Units and the power of ten that each is in wei.
const UNITS: [(&str, usize); 4] = [("ether", 18), ("eth", 18), ("gwei", 9), ("wei", 0)];

/// Reads `1.5ether`, `30 gwei`, `7wei` or `7`: without a unit it is wei. In wei.
pub fn wei(text: &str) -> anyhow::Result<U256> {
    read(text.trim()).with_context(|| format!("`{text}` is not an amount such as 1.5ether"))
}

/// As [`wei`], for a price of a unit of gas.
pub fn gas_price(text: &str) -> anyhow::Result<u128> {
    let price = wei(text)?;
    u128::try_from(price).ok().with_context(|| format!("{text} for each unit of gas is too much"))
}

fn read(text: &str) -> anyhow::Result<U256> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    let decimals = match UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, decimals)) => *decimals,
        None if unit.is_empty() => 0,
        None => bail!("the unit is one of ether, gwei and wei"),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => bail!("there is no digit after the point"),
        Some((whole, fraction)) => (whole, fraction.trim_end_matches('0')),
        None => (number, ""),
    };
    ensure!(!whole.is_empty(), "it does not begin with a digit");
    ensure!(!fraction.contains('.'), "it has two points");
    ensure!(fraction.len() <= decimals, "it is not a whole number of wei");
    let whole = whole.trim_start_matches('0');
    // 78 digits are the most that 2^256 - 1 has.
    ensure!(whole.len() + decimals <= 78, "it is more than 2^256 - 1 wei");
    let digits = format!("{whole}{fraction:0<decimals$}");
    if digits.is_empty() {
        return Ok(U256::ZERO);
    }
    U256::from_str_radix(&digits, 10).ok().context("it is more than 2^256 - 1 wei")
}

/// Exact, in the unit in which it is short.
pub fn show(wei: U256) -> String {
    let digits = wei.to_string();
    let (unit, decimals) = match digits.len() {
        _ if wei.is_zero() => ("ether", 18),
        ..7 => ("wei", 0),
        7..16 => ("gwei", 9),
        _ => ("ether", 18),
    };
    let digits = format!("{digits:0>width$}", width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    match fraction.trim_end_matches('0') {
        "" => format!("{whole} {unit}"),
        fraction => format!("{whole}.{fraction} {unit}"),
    }
}
