//! Clocks, randomness and threads, handed to those who may not read them themselves.

use std::{
    sync::{Arc, OnceLock},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use atoll_evm::{Clock, Crew, Helpers, Nobody};

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Nanoseconds since the first time it was asked.
pub(crate) fn stopwatch() -> Clock {
    static START: OnceLock<Instant> = OnceLock::new();
    Arc::new(|| START.get_or_init(Instant::now).elapsed().as_nanos() as u64)
}

/// Threads that help whoever runs a block, so that it runs on `threads` in all.
pub(crate) fn helpers(threads: usize) -> anyhow::Result<Arc<dyn Helpers>> {
    if threads < 2 {
        return Ok(Arc::new(Nobody));
    }
    let start = |work| {
        let named = std::thread::Builder::new().name("execution".to_owned());
        named.spawn(work).map(drop)
    };
    let crew = Crew::new(threads - 1, start).context("cannot start threads for execution")?;
    Ok(Arc::new(crew))
}
