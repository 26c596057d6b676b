//! State keys and their values.

use atoll_fabric::Malformed;
use atoll_types::{Basic, CodeRef, KeySet, StateKey, StateValue, Write};
use atoll_wire::v1::{self as wire, state_key::Key, state_value::Value};

use super::{Proto, messages, plain, required, small_list};

messages! {
    Basic => Basic { nonce: plain, balance: plain }
    CodeRef => CodeRef { hash: plain, incarnation: plain }
}

impl Proto<wire::StateKey> for StateKey {
    fn into_wire(self) -> wire::StateKey {
        let key = match self {
            Self::Basic(address) => Key::Basic(address.into_wire()),
            Self::Code(address) => Key::Code(address.into_wire()),
            Self::Slot(address, incarnation, slot) => Key::Slot(wire::SlotKey {
                address: address.into_wire(),
                incarnation,
                slot: slot.into_wire(),
            }),
        };
        wire::StateKey { key: Some(key) }
    }

    fn from_wire(wire: wire::StateKey) -> Result<Self, Malformed> {
        Ok(match required::present(wire.key, "key")? {
            Key::Basic(address) => Self::Basic(plain::decode(address, "basic")?),
            Key::Code(address) => Self::Code(plain::decode(address, "code")?),
            Key::Slot(slot) => Self::Slot(
                plain::decode(slot.address, "slot.address")?,
                slot.incarnation,
                plain::decode(slot.slot, "slot.slot")?,
            ),
        })
    }
}

impl Proto<wire::StateValue> for StateValue {
    fn into_wire(self) -> wire::StateValue {
        let value = match self {
            Self::Basic(basic) => Value::Basic(basic.into_wire()),
            Self::Code(code) => Value::Code(code.into_wire()),
            Self::Slot(word) => Value::Slot(word.into_wire()),
        };
        wire::StateValue { value: Some(value) }
    }

    fn from_wire(wire: wire::StateValue) -> Result<Self, Malformed> {
        Ok(match required::present(wire.value, "value")? {
            Value::Basic(basic) => Self::Basic(plain::decode(basic, "basic")?),
            Value::Code(code) => Self::Code(plain::decode(code, "code")?),
            Value::Slot(word) => Self::Slot(plain::decode(word, "slot")?),
        })
    }
}

impl Proto<wire::Write> for Write {
    fn into_wire(self) -> wire::Write {
        let (key, value) = self;
        wire::Write { key: required::encode(key), value: required::encode(value) }
    }

    fn from_wire(wire: wire::Write) -> Result<Self, Malformed> {
        let key: StateKey = required::decode(wire.key, "key")?;
        let value = required::decode(wire.value, "value")?;
        if !key.holds(&value) {
            return Err(Malformed::new("value", "of the variant that its key has"));
        }
        Ok((key, value))
    }
}

impl Proto<wire::KeySet> for KeySet {
    fn into_wire(self) -> wire::KeySet {
        wire::KeySet {
            reads: small_list::encode(self.reads),
            writes: small_list::encode(self.writes),
        }
    }

    fn from_wire(wire: wire::KeySet) -> Result<Self, Malformed> {
        let reads: Vec<StateKey> = small_list::decode(wire.reads, "reads")?;
        let writes: Vec<StateKey> = small_list::decode(wire.writes, "writes")?;
        for (keys, field) in [(&reads, "reads"), (&writes, "writes")] {
            if !keys.is_sorted_by(|a, b| a < b) {
                return Err(Malformed::new(field, "ascending, without repetition"));
            }
        }
        if reads.iter().any(|key| writes.binary_search(key).is_ok()) {
            return Err(Malformed::new("reads", "without keys that are in writes"));
        }
        Ok(Self { reads, writes })
    }
}
