//! Integers, byte strings and text.

use atoll_fabric::Malformed;
use atoll_types::{Address, B256, Bytes, ShardId, U256};
use atoll_wire::v1 as wire;

use super::{MAX_CODE_BYTES, Proto};

/// Types that protobuf has too.
macro_rules! same {
    ($($type:ty),*) => { $(
        impl Proto<$type> for $type {
            fn into_wire(self) -> $type {
                self
            }

            fn from_wire(wire: $type) -> Result<Self, Malformed> {
                Ok(wire)
            }
        }
    )* };
}

same!(bool, u32, u64, String);

impl Proto<u32> for ShardId {
    fn into_wire(self) -> u32 {
        self.0.into()
    }

    fn from_wire(wire: u32) -> Result<Self, Malformed> {
        let id = u16::try_from(wire);
        id.map(Self).map_err(|_| Malformed::new("", "a shard, at most 65535"))
    }
}

impl Proto<bytes::Bytes> for Bytes {
    fn into_wire(self) -> bytes::Bytes {
        self.0
    }

    fn from_wire(wire: bytes::Bytes) -> Result<Self, Malformed> {
        Ok(Self(wire))
    }
}

impl Proto<bytes::Bytes> for Address {
    fn into_wire(self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(self.as_slice())
    }

    fn from_wire(wire: bytes::Bytes) -> Result<Self, Malformed> {
        Self::try_from(&wire[..]).map_err(|_| length("an address of 20 bytes", &wire))
    }
}

impl Proto<bytes::Bytes> for B256 {
    fn into_wire(self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(self.as_slice())
    }

    fn from_wire(wire: bytes::Bytes) -> Result<Self, Malformed> {
        Self::try_from(&wire[..]).map_err(|_| length("a hash of 32 bytes", &wire))
    }
}

impl Proto<bytes::Bytes> for U256 {
    fn into_wire(self) -> bytes::Bytes {
        self.to_be_bytes_trimmed_vec().into()
    }

    fn from_wire(wire: bytes::Bytes) -> Result<Self, Malformed> {
        if wire.len() > Self::BYTES {
            return Err(length("an integer of at most 32 bytes", &wire));
        }
        Ok(Self::from_be_slice(&wire))
    }
}

impl Proto<bytes::Bytes> for u128 {
    fn into_wire(self) -> bytes::Bytes {
        U256::from(self).into_wire()
    }

    fn from_wire(wire: bytes::Bytes) -> Result<Self, Malformed> {
        if wire.len() > size_of::<Self>() {
            return Err(length("an integer of at most 16 bytes", &wire));
        }
        let digits = wire.iter();
        Ok(digits.fold(0, |value, digit| value << 8 | Self::from(*digit)))
    }
}

impl Proto<wire::CodeEntry> for Option<Bytes> {
    fn into_wire(self) -> wire::CodeEntry {
        wire::CodeEntry { code: self.map(Bytes::into_wire) }
    }

    fn from_wire(wire: wire::CodeEntry) -> Result<Self, Malformed> {
        let code = wire.code.map(Bytes);
        if let Some(code) = &code {
            check_code(code).map_err(|malformed| malformed.within("code"))?;
        }
        Ok(code)
    }
}

/// Refuses code that is longer than [`MAX_CODE_BYTES`].
pub(super) fn check_code(code: &Bytes) -> Result<(), Malformed> {
    if code.len() > MAX_CODE_BYTES {
        return Err(length(&format!("at most {MAX_CODE_BYTES} bytes"), code));
    }
    Ok(())
}

fn length(expected: &str, found: &[u8]) -> Malformed {
    Malformed::new("", format!("{expected}, not of {}", found.len()))
}
