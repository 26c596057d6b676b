//! Conversions between requests and their protobuf messages.
//!
//! Decoding is where a message is validated: lengths, kinds of values, presence of what is
//! required, order of key sets. What a message means is for the service to judge.

mod acks;
mod beacon;
mod block;
mod commit;
mod executor;
mod key;
mod mempool;
mod receipt;
mod refusal;
mod router;
mod scalar;
mod state;
mod stats;
mod tx;

use std::sync::Arc;

use atoll_fabric::Malformed;

/// Longest list that is taken.
pub const MAX_ITEMS: usize = 65_536;

/// Longest list of keys, values, hashes, credits or other things of fixed size that is taken.
pub const MAX_SMALL_ITEMS: usize = 1 << 20;

/// Longest contract code that is taken, in bytes: well above what Ethereum lets be deployed.
pub const MAX_CODE_BYTES: usize = 128 * 1024;

/// A domain type that protobuf carries as `W`.
pub(crate) trait Proto<W>: Sized {
    fn into_wire(self) -> W;

    /// The path in an error begins inside `W`; whoever holds a `W` puts its name before it.
    fn from_wire(wire: W) -> Result<Self, Malformed>;
}

/// What is shared in the process is copied when it leaves it.
impl<W, T: Proto<W> + Clone> Proto<W> for Arc<T> {
    fn into_wire(self) -> W {
        Self::unwrap_or_clone(self).into_wire()
    }

    fn from_wire(wire: W) -> Result<Self, Malformed> {
        T::from_wire(wire).map(Self::new)
    }
}

/// A field that is always there.
mod plain {
    use super::{Malformed, Proto};

    pub fn encode<T: Proto<W>, W>(value: T) -> W {
        value.into_wire()
    }

    pub fn decode<T: Proto<W>, W>(wire: W, field: &str) -> Result<T, Malformed> {
        T::from_wire(wire).map_err(|malformed| malformed.within(field))
    }
}

/// A message that protobuf lets be absent and the domain does not.
mod required {
    use super::{Malformed, Proto, plain};

    pub fn encode<T: Proto<W>, W>(value: T) -> Option<W> {
        Some(value.into_wire())
    }

    pub fn decode<T: Proto<W>, W>(wire: Option<W>, field: &str) -> Result<T, Malformed> {
        plain::decode(present(wire, field)?, field)
    }

    /// What is in a field or oneof that has to be set.
    pub fn present<W>(wire: Option<W>, field: &str) -> Result<W, Malformed> {
        wire.ok_or_else(|| Malformed::new(field, "present, and of a kind that is known"))
    }
}

/// A field that may be absent.
mod optional {
    use super::{Malformed, Proto, plain};

    pub fn encode<T: Proto<W>, W>(value: Option<T>) -> Option<W> {
        value.map(T::into_wire)
    }

    pub fn decode<T: Proto<W>, W>(wire: Option<W>, field: &str) -> Result<Option<T>, Malformed> {
        wire.map(|wire| plain::decode(wire, field)).transpose()
    }
}

/// A list of at most [`MAX_ITEMS`](super::MAX_ITEMS).
mod list {
    use super::{MAX_ITEMS, Malformed, Proto};

    pub fn encode<T: Proto<W>, W>(values: Vec<T>) -> Vec<W> {
        values.into_iter().map(T::into_wire).collect()
    }

    pub fn decode<T: Proto<W>, W>(wires: Vec<W>, field: &str) -> Result<Vec<T>, Malformed> {
        decode_up_to(MAX_ITEMS, wires, field)
    }

    pub fn decode_up_to<T: Proto<W>, W>(
        max: usize,
        wires: Vec<W>,
        field: &str,
    ) -> Result<Vec<T>, Malformed> {
        if wires.len() > max {
            let expected = format!("a list of at most {max} items, not {}", wires.len());
            return Err(Malformed::new(field, expected));
        }
        let item = |(index, wire)| {
            T::from_wire(wire)
                .map_err(|malformed| malformed.within(&format!("[{index}]")).within(field))
        };
        wires.into_iter().enumerate().map(item).collect()
    }
}

/// Slots of one request for proofs.
mod slots {
    use super::{Malformed, Proto, list};
    use crate::state::Prove;

    pub use list::encode;

    pub fn decode<T: Proto<W>, W>(wires: Vec<W>, field: &str) -> Result<Vec<T>, Malformed> {
        list::decode_up_to(Prove::MAX_SLOTS, wires, field)
    }
}

/// A list of at most [`MAX_SMALL_ITEMS`](super::MAX_SMALL_ITEMS).
mod small_list {
    use super::{MAX_SMALL_ITEMS, Malformed, Proto, list};

    pub use list::encode;

    pub fn decode<T: Proto<W>, W>(wires: Vec<W>, field: &str) -> Result<Vec<T>, Malformed> {
        list::decode_up_to(MAX_SMALL_ITEMS, wires, field)
    }
}

/// A [`small_list`] whose order says nothing: sent in one that does not change from run to run.
mod set {
    use super::{Proto, small_list};

    pub use small_list::decode;

    pub fn encode<T: Proto<W> + Ord, W>(mut items: Vec<T>) -> Vec<W> {
        items.sort_unstable();
        small_list::encode(items)
    }
}

/// A list of contract codes.
mod codes {
    use atoll_types::Bytes;

    use super::{Malformed, list, scalar};

    pub use list::encode;

    pub fn decode(wires: Vec<bytes::Bytes>, field: &str) -> Result<Vec<Bytes>, Malformed> {
        let codes: Vec<Bytes> = list::decode(wires, field)?;
        for (index, code) in codes.iter().enumerate() {
            scalar::check_code(code)
                .map_err(|malformed| malformed.within(&format!("[{index}]")).within(field))?;
        }
        Ok(codes)
    }
}

/// Structs whose fields have the names of their message's. After each field stands the module above
/// that converts it.
macro_rules! messages {
    ($($domain:ty => $wire:ident { $($field:ident: $mode:ident),* $(,)? })*) => { $(
        impl $crate::convert::Proto<atoll_wire::v1::$wire> for $domain {
            fn into_wire(self) -> atoll_wire::v1::$wire {
                let Self { $($field),* } = self;
                atoll_wire::v1::$wire {
                    $($field: $crate::convert::$mode::encode($field)),*
                }
            }

            fn from_wire(
                wire: atoll_wire::v1::$wire,
            ) -> Result<Self, atoll_fabric::Malformed> {
                let atoll_wire::v1::$wire { $($field),* } = wire;
                Ok(Self {
                    $($field: $crate::convert::$mode::decode($field, stringify!($field))?),*
                })
            }
        }
    )* };
}

/// An enum, and a message with one oneof of a nested message for each variant. Each variant follows
/// its name in the oneof.
macro_rules! variants {
    ($domain:ident => $module:ident::$wire:ident, $oneof:ident: $enum:ident {
        $($name:ident: $variant:ident { $($field:ident: $mode:ident),* $(,)? })*
    }) => {
        impl $crate::convert::Proto<atoll_wire::v1::$wire> for $domain {
            fn into_wire(self) -> atoll_wire::v1::$wire {
                use atoll_wire::v1::$module as nested;
                let variant = match self { $(
                    Self::$variant { $($field),* } => {
                        nested::$enum::$variant(nested::$variant {
                            $($field: $crate::convert::$mode::encode($field)),*
                        })
                    }
                )* };
                atoll_wire::v1::$wire { $oneof: Some(variant) }
            }

            fn from_wire(
                wire: atoll_wire::v1::$wire,
            ) -> Result<Self, atoll_fabric::Malformed> {
                use atoll_wire::v1::$module as nested;
                let present = $crate::convert::required::present(wire.$oneof, stringify!($oneof))?;
                match present { $(
                    nested::$enum::$variant(nested::$variant { $($field),* }) => {
                        let decode = || Ok(Self::$variant {
                            $($field: $crate::convert::$mode::decode($field, stringify!($field))?),*
                        });
                        decode().map_err(|malformed: atoll_fabric::Malformed| {
                            malformed.within(stringify!($name))
                        })
                    }
                )* }
            }
        }
    };
}

pub(crate) use {messages, variants};
