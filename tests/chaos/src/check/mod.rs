//! Whether what clients saw can have happened on one machine that carries out one transaction after
//! another and forgets nothing.
//!
//! Pure: a function of the [`History`]. Lists are checked as Elle does (Kingsbury and Alvaro, "Elle:
//! Inferring Isolation Anomalies from Experimental Observations", VLDB 2020): what is appended is
//! unique, so a list that was read says which transactions wrote it, in which order.

mod accounts;
mod bank;
mod graph;
mod lists;
mod receipts;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::history::History;

/// What cannot have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// What was acknowledged has no receipt at the end.
    LostAck,
    /// A receipt said something else later.
    ChangedReceipt,
    /// Refused, and there is a receipt.
    RefusedTookEffect,
    /// What was appended is not there.
    LostAppend,
    /// It is there twice.
    DuplicateAppend,
    /// Something is there that nobody appended.
    Garbage,
    /// What did not take effect was read (G1a).
    AbortedRead,
    /// Half of a transaction was read (G1b).
    IntermediateRead,
    /// A transaction did not see what itself had just appended.
    OwnAppendMissing,
    /// Two reads of a list that do not agree about its order.
    IncompatibleOrder,
    /// What was acknowledged before a transaction began was not seen by it.
    StaleRead,
    /// Writes in a circle.
    G0,
    /// Writes and reads in a circle: information flowed in a circle.
    G1c,
    /// A circle with one transaction that missed a write.
    GSingle,
    /// A circle with several that missed one.
    G2,
    /// A circle together with the order in which a client did things.
    ClientOrder,
    /// Balances at one cut do not add up.
    WrongTotal,
    /// A balance at the end is not what the moves made of it.
    WrongBalance,
    /// A nonce or balance fell.
    WentBack,
    /// A nonce or balance is lower than what was acknowledged, or higher than what was sent.
    OutOfBounds,
    /// A nonce at the end is not the number of transactions that have a receipt.
    WrongNonce,
    /// Two transactions with one nonce.
    NonceTwice,
    /// The history is not one that the clients can have recorded.
    Malformed,
}

/// Something that cannot have happened, and how it is known.
#[derive(Clone, Debug)]
pub struct Violation {
    pub anomaly: Anomaly,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.anomaly, self.what)
    }
}

/// Collects violations, a limited number of each kind.
#[derive(Default)]
struct Found(Vec<Violation>);

/// Violations of one kind that are told.
const TOLD: usize = 20;

impl Found {
    fn add(&mut self, anomaly: Anomaly, what: impl FnOnce() -> String) {
        if self.0.iter().filter(|found| found.anomaly == anomaly).count() < TOLD {
            self.0.push(Violation { anomaly, what: what() });
        }
    }
}

/// Everything in a history that cannot have happened.
pub fn check(history: &History) -> Vec<Violation> {
    let mut found = Found::default();
    receipts::check(history, &mut found);
    let versions = lists::check(history, &mut found);
    graph::check(history, &versions, &mut found);
    bank::check(history, &mut found);
    accounts::check(history, &mut found);
    found.0
}
