//! Amounts as people type them.

use alloy_primitives::U256;

use crate::cli::amount::{gas_price, show, wei};

fn ether(count: u64) -> U256 {
    U256::from(count) * U256::from(10).pow(U256::from(18))
}

#[test]
fn units_and_fractions() {
    let cases = [
        ("0", U256::ZERO),
        ("0ether", U256::ZERO),
        ("0.0", U256::ZERO),
        ("7", U256::from(7)),
        ("7wei", U256::from(7)),
        ("007 wei", U256::from(7)),
        ("1.000", U256::from(1)),
        ("30gwei", U256::from(30_000_000_000_u64)),
        ("1.5gwei", U256::from(1_500_000_000)),
        ("0.000000001 gwei", U256::from(1)),
        ("1ether", ether(1)),
        ("1 eth", ether(1)),
        (" 1.5ether ", ether(3) / U256::from(2)),
        ("0.000000000000000001ether", U256::from(1)),
        ("1.50000000000000000000000000ether", ether(3) / U256::from(2)),
        (&U256::MAX.to_string(), U256::MAX),
        (
            "115792089237316195423570985008687907853269984665640564039457.584007913129639935ether",
            U256::MAX,
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(wei(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn refused() {
    let cases = [
        ("", "digit"),
        ("ether", "digit"),
        (".5ether", "digit"),
        ("-1", "unit"),
        ("+1", "unit"),
        ("1.", "no digit after"),
        ("1.ether", "no digit after"),
        ("1.2.3ether", "two points"),
        ("1.5", "whole number of wei"),
        ("1.5wei", "whole number of wei"),
        ("0.0000000001gwei", "whole number of wei"),
        ("0.0000000000000000001ether", "whole number of wei"),
        ("1Ether", "unit"),
        ("1 finney", "unit"),
        ("1,5ether", "unit"),
        ("1e18", "unit"),
        ("0x10", "unit"),
        ("1 ether please", "unit"),
        ("١ether", "unit"),
        ("115792089237316195423570985008687907853269984665640564039457584007913129639936", "2^256"),
        (
            "115792089237316195423570985008687907853269984665640564039457.584007913129639936ether",
            "2^256",
        ),
        (&format!("1{}", "0".repeat(10_000)), "2^256"),
        (&format!("{}ether", "9".repeat(70)), "2^256"),
    ];
    for (text, expected) in cases {
        let error = format!("{:#}", wei(text).unwrap_err());
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn gas_prices() {
    assert_eq!(gas_price("2.5gwei").unwrap(), 2_500_000_000);
    assert_eq!(gas_price(&u128::MAX.to_string()).unwrap(), u128::MAX);
    assert!(gas_price("340282366920938463463374607431768211456").is_err());
}

#[test]
fn shown_exactly_and_short() {
    let cases = [
        ("0", "0 ether"),
        ("7", "7 wei"),
        ("999999", "999999 wei"),
        ("1000000", "0.001 gwei"),
        ("1000000007", "1.000000007 gwei"),
        ("21000gwei", "21000 gwei"),
        ("0.001ether", "0.001 ether"),
        ("9999.5ether", "9999.5 ether"),
        ("10000ether", "10000 ether"),
        (
            "115792089237316195423570985008687907853269984665640564039457.584007913129639935ether",
            "115792089237316195423570985008687907853269984665640564039457.584007913129639935 ether",
        ),
    ];
    for (text, expected) in cases {
        let shown = show(wei(text).unwrap());
        assert_eq!(shown, expected);
        assert_eq!(wei(&shown).unwrap(), wei(text).unwrap());
    }
}
