use alloy_primitives::{Address, B256, Bytes, Log};
use serde::{Deserialize, Serialize};

use crate::{GroupId, ShardId};

/// What running a transaction gave, whoever ran it: all that Ethereum's own rules decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// True if it succeeded, false if it reverted or ran out of gas.
    pub status: bool,
    pub gas_used: u64,
    /// In wei for each unit of gas.
    pub effective_gas_price: u128,
    #[serde(with = "logs")]
    pub logs: Vec<Log>,
    /// Address of the contract that a creation made; `None` for calls.
    pub contract: Option<Address>,
    /// Return or revert data.
    pub output: Bytes,
}

/// How a transaction was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReceiptKind {
    /// In a block of its own shard.
    Local,
    /// A plain payment to an address of another shard: debited in a local block, deposited at a
    /// later cut. Its status is known only once it is final.
    Credit,
    /// In a cross-shard group.
    Group(GroupId),
}

/// How firm a receipt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Finality {
    /// Durable on its shard.
    Executed,
    /// Anchored or decided by the beacon.
    Final,
}

/// The receipt of one transaction, kept by its sender's shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub tx: B256,
    pub sender: Address,
    pub nonce: u64,
    pub to: Option<Address>,
    pub executed: Executed,
    pub kind: ReceiptKind,
    /// The shards that took part, ascending; the sender's is among them.
    pub shards: Vec<ShardId>,
    /// Number of the beacon block whose values it ran with.
    pub round: u64,
    /// Place in its group, or in its shard's block.
    pub index: u32,
    /// Number of its shard's block; 0 for a group transaction.
    pub block: u64,
}

/// Logs as plain tuples: the field that alloy flattens has no canonical form in a binary encoding.
mod logs {
    use alloy_primitives::{Address, B256, Bytes, Log};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub fn serialize<S: Serializer>(logs: &[Log], serializer: S) -> Result<S::Ok, S::Error> {
        let plain: Vec<_> =
            logs.iter().map(|log| (log.address, log.topics(), &log.data.data)).collect();
        plain.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Log>, D::Error> {
        let plain: Vec<(Address, Vec<B256>, Bytes)> = Deserialize::deserialize(deserializer)?;
        let log = |(address, topics, data)| {
            Log::new(address, topics, data)
                .ok_or_else(|| de::Error::custom("a log has more than four topics"))
        };
        plain.into_iter().map(log).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode};

    #[test]
    fn a_receipt_with_logs_survives_the_round_trip() {
        let log =
            Log::new(Address::repeat_byte(1), vec![B256::repeat_byte(2)], Bytes::from("data"));
        let executed = Executed {
            status: true,
            gas_used: 21_000,
            effective_gas_price: 7,
            logs: log.into_iter().collect(),
            contract: None,
            output: Bytes::new(),
        };
        assert_eq!(executed.logs.len(), 1);
        assert_eq!(decode::<Executed>(&encode(&executed)).ok(), Some(executed));
    }
}
