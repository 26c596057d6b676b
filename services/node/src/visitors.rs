//! How often one client may ask the public API: a bucket of requests for each address, which fills with
//! time.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
};

use atoll_fabric::Visit;
use axum::{
    extract::Request,
    middleware::{Next, from_fn},
};
use tokio::time::Instant;
use tonic::{Status, metadata::MetadataValue, service::Routes};

/// Addresses that are remembered. Those that have not asked for a second are forgotten first.
const ADDRESSES: usize = 65_536;

/// The clients of one port.
pub(crate) struct Visitors {
    /// Requests a second, and as many at once.
    rate: u32,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Visitors {
    pub fn new(rate: u32) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Whether a client may make a request now; else, after how many milliseconds.
    fn admit(&self, from: IpAddr, now: Instant) -> Result<(), u64> {
        let rate = f64::from(self.rate);
        let mut buckets = self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let from = owner(from);
        if buckets.len() >= ADDRESSES && !buckets.contains_key(&from) {
            // A bucket that is full again says nothing.
            buckets.retain(|_, bucket| now.duration_since(bucket.at).as_secs() < 1);
            if buckets.len() >= ADDRESSES {
                return Err(1_000);
            }
        }
        let bucket = buckets.entry(from).or_insert(Bucket { left: rate, at: now });
        let since = now.duration_since(bucket.at).as_secs_f64();
        *bucket = Bucket { left: (bucket.left + since * rate).min(rate), at: now };
        if bucket.left < 1.0 {
            return Err(((1.0 - bucket.left) / rate * 1_000.0).ceil() as u64);
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// The same routes, for as many requests.
    pub fn routes(self, routes: Routes) -> Routes {
        let visitors = Arc::new(self);
        let look = from_fn(move |request: Request, next: Next| {
            let visitors = visitors.clone();
            async move {
                let visit = request.extensions().get::<Visit>();
                let from = visit.and_then(|visit| visit.tcp.remote_addr());
                match from.map_or(Ok(()), |from| visitors.admit(from.ip(), Instant::now())) {
                    Ok(()) => next.run(request).await,
                    Err(wait_ms) => visitors.refusal(wait_ms).into_http(),
                }
            }
        });
        routes.into_axum_router().layer(look).into()
    }

    fn refusal(&self, wait_ms: u64) -> Status {
        let mut status = Status::resource_exhausted(format!(
            "limits.client_requests: one address may make {} requests a second; try again in \
             {wait_ms} ms",
            self.rate
        ));
        status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from(wait_ms));
        status
    }
}

/// One client has a whole /64 of IPv6, and an IPv4 address may come as one of IPv6.
fn owner(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(all) => Ipv6Addr::from_bits(all.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_client_has_so_many_requests_a_second() {
        let (visitors, start) = (Visitors::new(10), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for _ in 0..10 {
            assert_eq!(visitors.admit(ip("10.0.0.1"), start), Ok(()));
        }
        assert_eq!(visitors.admit(ip("10.0.0.1"), start), Err(100));
        assert_eq!(visitors.admit(ip("::ffff:10.0.0.1"), start), Err(100), "the same client");
        assert_eq!(visitors.admit(ip("10.0.0.2"), start), Ok(()), "another one");
        assert_eq!(visitors.admit(ip("10.0.0.1"), at(40)), Err(60));
        assert_eq!(visitors.admit(ip("10.0.0.1"), at(100)), Ok(()));
        assert_eq!(visitors.admit(ip("10.0.0.1"), at(100)), Err(100));
        for _ in 0..10 {
            assert_eq!(visitors.admit(ip("2001:db8::1"), start), Ok(()));
        }
        assert_eq!(visitors.admit(ip("2001:db8::2"), start), Err(100), "of the same /64");
        assert_eq!(visitors.admit(ip("2001:db8:0:1::1"), start), Ok(()));
    }

    #[test]
    fn so_many_addresses_are_remembered_and_no_more() {
        let (visitors, start) = (Visitors::new(1), Instant::now());
        for number in 0..ADDRESSES as u32 {
            assert_eq!(visitors.admit(std::net::Ipv4Addr::from(number).into(), start), Ok(()));
        }
        assert_eq!(visitors.admit(ip("200.0.0.1"), start), Err(1_000));
        let later = start + Duration::from_secs(2);
        assert_eq!(visitors.admit(ip("200.0.0.1"), later), Ok(()));
    }
}
