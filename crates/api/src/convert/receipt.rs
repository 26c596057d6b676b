//! Receipts.

use atoll_fabric::Malformed;
use atoll_types::{Executed, Finality, Log, Receipt, ReceiptKind};
use atoll_wire::v1::{self as wire, receipt_kind::Kind};

use super::{Proto, messages, plain, required};

messages! {
    Executed => Executed {
        status: plain, gas_used: plain, effective_gas_price: plain, logs: list, contract: optional,
        output: plain,
    }
    Receipt => Receipt {
        tx: plain, sender: plain, nonce: plain, to: optional, executed: required, kind: required,
        shards: list, round: plain, index: plain, block: plain,
    }
}

impl Proto<wire::Log> for Log {
    fn into_wire(self) -> wire::Log {
        let (topics, data) = self.data.split();
        wire::Log {
            address: self.address.into_wire(),
            topics: topics.into_iter().map(Proto::into_wire).collect(),
            data: data.into_wire(),
        }
    }

    fn from_wire(wire: wire::Log) -> Result<Self, Malformed> {
        let address = plain::decode(wire.address, "address")?;
        let topics = super::list::decode_up_to(4, wire.topics, "topics")?;
        Ok(Self::new_unchecked(address, topics, plain::decode(wire.data, "data")?))
    }
}

impl Proto<wire::ReceiptKind> for ReceiptKind {
    fn into_wire(self) -> wire::ReceiptKind {
        let kind = match self {
            Self::Local => Kind::Local(wire::receipt_kind::Local {}),
            Self::Credit => Kind::Credit(wire::receipt_kind::Credit {}),
            Self::Group(group) => Kind::Group(group.into_wire()),
        };
        wire::ReceiptKind { kind: Some(kind) }
    }

    fn from_wire(wire: wire::ReceiptKind) -> Result<Self, Malformed> {
        Ok(match required::present(wire.kind, "kind")? {
            Kind::Local(_) => Self::Local,
            Kind::Credit(_) => Self::Credit,
            Kind::Group(group) => Self::Group(plain::decode(group, "group")?),
        })
    }
}

impl Proto<i32> for Finality {
    fn into_wire(self) -> i32 {
        match self {
            Self::Executed => wire::Finality::Executed,
            Self::Final => wire::Finality::Final,
        }
        .into()
    }

    fn from_wire(wire: i32) -> Result<Self, Malformed> {
        match wire::Finality::try_from(wire) {
            Ok(wire::Finality::Executed) => Ok(Self::Executed),
            Ok(wire::Finality::Final) => Ok(Self::Final),
            Ok(wire::Finality::Unspecified) | Err(_) => {
                Err(Malformed::new("", "a finality that is known"))
            }
        }
    }
}
