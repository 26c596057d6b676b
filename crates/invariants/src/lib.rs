//! The safety properties of the protocol, each with the name by which tests, simulations and the
//! running system report it.

use std::fmt;

use alloy_primitives::{Address, U256};

/// A property that holds at every moment, whatever breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Property {
    /// At every cut: balances + undelivered credits + fees = genesis supply − burned.
    Conservation,
    /// All owners of a group apply it, or none does.
    Atomicity,
    /// The steps in serial order, run one after another on one machine, give the same.
    SerialEquivalence,
    /// No transaction, credit, lease or decision takes effect twice.
    ExactlyOnce,
    /// Each account's nonce moves by one at a time, in order, without gaps.
    NonceOrder,
    /// Every group is taken off every fence by exactly one decision.
    FenceEnds,
    /// What a client was told is there after any crash.
    DurableAck,
    /// A shard's chain replayed from its inputs gives the same digest at every cut.
    Determinism,
}

impl Property {
    pub const ALL: [Self; 8] = [
        Self::Conservation,
        Self::Atomicity,
        Self::SerialEquivalence,
        Self::ExactlyOnce,
        Self::NonceOrder,
        Self::FenceEnds,
        Self::DurableAck,
        Self::Determinism,
    ];

    /// The name in logs, metrics and documents.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Conservation => "conservation",
            Self::Atomicity => "atomicity",
            Self::SerialEquivalence => "serial-equivalence",
            Self::ExactlyOnce => "exactly-once",
            Self::NonceOrder => "nonce-order",
            Self::FenceEnds => "fence-ends",
            Self::DurableAck => "durable-ack",
            Self::Determinism => "determinism",
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("property {property} does not hold: {detail}")]
pub struct Violation {
    pub property: Property,
    pub detail: String,
}

/// Checks that a step creates and loses no value: what accounts held before is what they hold after,
/// and what left them (fees, burned, credits). All in wei; each sum saturates, so that an account
/// given a balance near 2^256 is found and does not wrap around.
pub fn conservation(
    before: impl IntoIterator<Item = U256>,
    after: impl IntoIterator<Item = U256>,
    left: impl IntoIterator<Item = U256>,
) -> Result<(), Violation> {
    let sum = |amounts: &mut dyn Iterator<Item = U256>| {
        amounts.fold(U256::ZERO, |sum, amount| sum.saturating_add(amount))
    };
    let before = sum(&mut before.into_iter());
    let after = sum(&mut after.into_iter()).saturating_add(sum(&mut left.into_iter()));
    if before == after {
        return Ok(());
    }
    let detail = format!("{before} wei before, {after} wei after");
    Err(Violation { property: Property::Conservation, detail })
}

/// Checks that the nonces of a sender's transactions follow its account's nonce, each the one before
/// it plus one. An EIP-7702 authorisation of the sender's own may raise the nonce in between.
pub fn nonce_order(
    sender: Address,
    account: u64,
    nonces: impl IntoIterator<Item = u64>,
) -> Result<(), Violation> {
    let mut next = account;
    for nonce in nonces {
        if nonce < next {
            let detail = format!("{sender} runs nonce {nonce} when {next} is next");
            return Err(Violation { property: Property::NonceOrder, detail });
        }
        next = nonce.saturating_add(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = Property::ALL.map(Property::id).into();
        assert_eq!(names.len(), Property::ALL.len());
    }

    #[test]
    fn value_that_appears_or_is_lost_is_found() {
        let wei = |amounts: [u64; 2]| amounts.map(U256::from);
        assert_eq!(conservation(wei([5, 5]), wei([1, 6]), wei([2, 1])), Ok(()));
        assert!(conservation(wei([5, 5]), wei([1, 6]), wei([2, 2])).is_err());
        assert!(conservation(wei([5, 5]), wei([1, 6]), wei([2, 0])).is_err());
    }

    #[test]
    fn a_nonce_that_comes_twice_or_falls_is_found() {
        let order = |nonces: &[u64]| nonce_order(Address::ZERO, 3, nonces.iter().copied());
        assert_eq!(order(&[3, 4, 5]), Ok(()));
        assert!(order(&[3, 3]).is_err());
        assert!(order(&[2]).is_err());
    }
}
