//! Clocks and randomness, handed to those who may not read them themselves.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use atoll_types::B256;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

pub(crate) fn clock() -> Arc<dyn Fn() -> u64 + Send + Sync> {
    Arc::new(now_ms)
}

pub(crate) fn randomness() -> Arc<dyn Fn() -> B256 + Send + Sync> {
    Arc::new(|| B256::from(rand::random::<[u8; 32]>()))
}
