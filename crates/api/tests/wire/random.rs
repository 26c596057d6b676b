//! Random values of basic types; edges are likely.

use std::sync::Arc;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEnvelope, TxLegacy};
use alloy_eips::Encodable2718;
use alloy_primitives::{Signature, TxKind};
use atoll_types::{
    Address, B256, Bytes, Fingerprints, IntentKeys, ShardId, TraceContext, Tx, U256,
};
use rand::{Rng, RngCore, rngs::StdRng};

/// A type with random values.
pub trait Random: Sized {
    fn random(rng: &mut StdRng) -> Self;
}

/// Structs, field by field.
macro_rules! structs {
    ($($type:ty { $($field:tt),* $(,)? })*) => { $(
        impl $crate::random::Random for $type {
            fn random(rng: &mut rand::rngs::StdRng) -> Self {
                let _ = &rng;
                Self { $($field: $crate::random::Random::random(rng)),* }
            }
        }
    )* };
}

/// Enums of struct variants, each as likely as the others.
macro_rules! enums {
    ($($type:ty { $($variant:ident { $($field:tt),* $(,)? })* })*) => { $(
        impl $crate::random::Random for $type {
            fn random(rng: &mut rand::rngs::StdRng) -> Self {
                use rand::seq::IndexedRandom as _;
                let makers: &[fn(&mut rand::rngs::StdRng) -> Self] = &[
                    $(|rng| {
                        let _ = &rng;
                        Self::$variant { $($field: $crate::random::Random::random(rng)),* }
                    }),*
                ];
                makers.choose(rng).expect("an enum has a variant")(rng)
            }
        }
    )* };
}

macro_rules! integers {
    ($($type:ty),*) => { $(
        impl Random for $type {
            fn random(rng: &mut StdRng) -> Self {
                match rng.random_range(0..6) {
                    0 => Self::MIN,
                    1 => Self::MAX,
                    2 => rng.random_range(0..200),
                    _ => rng.random(),
                }
            }
        }
    )* };
}

integers!(u16, u32, u64, u128);

impl Random for () {
    fn random(_: &mut StdRng) -> Self {}
}

impl Random for bool {
    fn random(rng: &mut StdRng) -> Self {
        rng.random()
    }
}

impl Random for ShardId {
    fn random(rng: &mut StdRng) -> Self {
        Self(u16::random(rng))
    }
}

impl Random for String {
    fn random(rng: &mut StdRng) -> Self {
        let letters = ['a', 'Z', ' ', '\0', 'é', '→', '\u{10ffff}'];
        let length = rng.random_range(0..8);
        (0..length).map(|_| letters[rng.random_range(0..letters.len())]).collect()
    }
}

impl Random for Bytes {
    fn random(rng: &mut StdRng) -> Self {
        let mut bytes = vec![0; rng.random_range(0..40)];
        rng.fill_bytes(&mut bytes);
        bytes.into()
    }
}

impl Random for Address {
    fn random(rng: &mut StdRng) -> Self {
        Self(rng.random::<[u8; 20]>().into())
    }
}

impl Random for B256 {
    fn random(rng: &mut StdRng) -> Self {
        Self(rng.random())
    }
}

impl Random for U256 {
    fn random(rng: &mut StdRng) -> Self {
        match rng.random_range(0..5) {
            0 => Self::ZERO,
            1 => Self::MAX,
            2 => Self::from(u64::random(rng)),
            _ => Self::from_limbs(rng.random()),
        }
    }
}

impl Random for TraceContext {
    fn random(rng: &mut StdRng) -> Self {
        Self { trace_id: u128::random(rng).max(1), span_id: u64::random(rng).max(1) }
    }
}

impl Random for Tx {
    fn random(rng: &mut StdRng) -> Self {
        let (nonce, gas_limit) = (u32::random(rng).into(), u64::random(rng));
        let (input, value) = (Bytes::random(rng), U256::random(rng));
        let to = Option::<Address>::random(rng).map_or(TxKind::Create, TxKind::Call);
        let (chain_id, price) = (u32::random(rng).into(), u64::random(rng).into());
        let signature = Signature::new(U256::from(1), U256::from(nonce) + U256::ONE, rng.random());
        let envelope: TxEnvelope = match rng.random_range(0..3) {
            0 => TxLegacy {
                chain_id: Some(chain_id),
                gas_price: price,
                nonce,
                gas_limit,
                to,
                value,
                input,
            }
            .into_signed(signature)
            .into(),
            1 => TxEip2930 {
                chain_id,
                gas_price: price,
                nonce,
                gas_limit,
                to,
                value,
                input,
                access_list: Default::default(),
            }
            .into_signed(signature)
            .into(),
            _ => TxEip1559 {
                chain_id,
                max_fee_per_gas: price,
                max_priority_fee_per_gas: price,
                nonce,
                gas_limit,
                to,
                value,
                input,
                access_list: Default::default(),
            }
            .into_signed(signature)
            .into(),
        };
        let raw = envelope.encoded_2718().into();
        Self::trusted(raw, Address::random(rng), Option::random(rng)).expect("a transaction")
    }
}

impl<T: Random> Random for Option<T> {
    fn random(rng: &mut StdRng) -> Self {
        rng.random::<bool>().then(|| T::random(rng))
    }
}

impl<T: Random> Random for Arc<T> {
    fn random(rng: &mut StdRng) -> Self {
        Self::new(T::random(rng))
    }
}

impl Random for Fingerprints {
    fn random(rng: &mut StdRng) -> Self {
        Vec::random(rng).into()
    }
}

impl Random for IntentKeys {
    fn random(rng: &mut StdRng) -> Self {
        Vec::random(rng).into()
    }
}

impl<T: Random> Random for Vec<T> {
    fn random(rng: &mut StdRng) -> Self {
        let length = [0, 1, 1, 2, 3][rng.random_range(0..5)];
        (0..length).map(|_| T::random(rng)).collect()
    }
}

pub(crate) use {enums, structs};
