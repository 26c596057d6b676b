//! Transactions as they travel inside the cluster.

use atoll_fabric::Malformed;
use atoll_types::{Bytes, MAX_TX_BYTES, SharedTx, TraceContext, Tx, TxError, TxRef};
use atoll_wire::v1 as wire;

use super::{Proto, messages, plain};

messages! {
    TxRef => TxRef { hash: plain, attempt: plain }
    SharedTx => SharedTx {
        tx: required, origin: plain, attempt: plain, wrong: plain, keys: required,
        last_valid_round: plain, absences: plain, silences: plain,
    }
}

impl Proto<wire::Transaction> for Tx {
    fn into_wire(self) -> wire::Transaction {
        let trace = self.trace();
        wire::Transaction {
            raw: self.raw().clone().into_wire(),
            sender: self.sender().into_wire(),
            traceparent: trace.map(|trace| trace.header()).unwrap_or_default(),
        }
    }

    fn from_wire(wire: wire::Transaction) -> Result<Self, Malformed> {
        let sender = plain::decode(wire.sender, "sender")?;
        // A trace is never a reason to refuse a transaction.
        let trace = TraceContext::parse(&wire.traceparent);
        Self::trusted(Bytes(wire.raw), sender, trace).map_err(|error| {
            let expected = match error {
                TxError::Oversized { .. } => format!("at most {MAX_TX_BYTES} bytes"),
                error => format!("a signed transaction, but {error}"),
            };
            Malformed::new("raw", expected)
        })
    }
}
