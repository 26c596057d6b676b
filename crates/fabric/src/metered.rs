//! Counts the messages of a link, and how long they are in the encoding that goes between
//! processes, wherever the service stands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use prost::Message as _;

use crate::call::{Call, Context, Link, Rpc};

/// Spreads the sampled messages evenly, with a period that no traffic has: 2^64 divided by the
/// golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// What the calls over some links have carried. Without headers and frames.
#[derive(Debug)]
pub struct Meter {
    /// One message in so many is measured, and stands for all of them.
    every: u64,
    requests: AtomicU64,
    request_bytes: AtomicU64,
    replies: AtomicU64,
    reply_bytes: AtomicU64,
}

/// What a [`Meter`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that were sent, whatever became of them.
    pub requests: u64,
    pub request_bytes: u64,
    /// Replies that came; errors are not counted.
    pub replies: u64,
    pub reply_bytes: u64,
}

impl Meter {
    /// Measures one message in `every`. To measure one it has to be copied and encoded, which a
    /// message that stays in its process otherwise is not.
    pub fn new(every: u64) -> Arc<Self> {
        Arc::new(Self {
            every: every.max(1),
            requests: AtomicU64::new(0),
            request_bytes: AtomicU64::new(0),
            replies: AtomicU64::new(0),
            reply_bytes: AtomicU64::new(0),
        })
    }

    pub fn get(&self) -> Traffic {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            requests: get(&self.requests),
            request_bytes: get(&self.request_bytes),
            replies: get(&self.replies),
            reply_bytes: get(&self.reply_bytes),
        }
    }

    /// Counts a message, and its bytes if it is its turn.
    fn count(&self, messages: &AtomicU64, bytes: &AtomicU64, length: impl FnOnce() -> usize) {
        let number = messages.fetch_add(1, Ordering::Relaxed);
        // The first message is always in.
        if number.wrapping_mul(STEP) <= u64::MAX / self.every {
            bytes.fetch_add(length() as u64 * self.every, Ordering::Relaxed);
        }
    }
}

/// A link whose calls are counted.
pub struct Metered<M> {
    link: Link<M>,
    meter: Arc<Meter>,
}

impl<M> Metered<M>
where
    M: Rpc + Clone,
    M::Reply: Clone,
{
    /// The same link, counted by `meter`.
    pub fn link(link: Link<M>, meter: &Arc<Meter>) -> Link<M> {
        Arc::new(Self { link, meter: meter.clone() })
    }
}

#[async_trait]
impl<M> Call<M> for Metered<M>
where
    M: Rpc + Clone,
    M::Reply: Clone,
{
    async fn call(&self, context: Context, message: M) -> Result<M::Reply, M::Error> {
        let meter = &self.meter;
        let length = || message.clone().into_wire().encoded_len();
        meter.count(&meter.requests, &meter.request_bytes, length);
        let reply = self.link.call(context, message).await?;
        let length = || M::reply_into_wire(reply.clone()).encoded_len();
        meter.count(&meter.replies, &meter.reply_bytes, length);
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_stands_for_all() {
        for every in [1, 4, 8] {
            let meter = Meter::new(every);
            for message in 0..4_000 {
                // Lengths with a period that the sample must not fall in with.
                let length = || if message % 4 == 0 { 1_000 } else { 10 };
                meter.count(&meter.requests, &meter.request_bytes, length);
            }
            let (counted, sum) = (meter.get(), 1_030_000.0);
            assert_eq!(counted.requests, 4_000);
            let off = counted.request_bytes as f64 / sum - 1.0;
            assert!(off.abs() < if every == 1 { 1e-9 } else { 0.05 }, "1 in {every}: {off}");
        }
    }
}
