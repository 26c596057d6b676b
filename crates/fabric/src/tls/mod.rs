//! Mutual TLS between processes. Who is at the other end stands in its certificate
//! ([`Identity`]), which one authority has signed; names of hosts count for nothing between
//! processes. TLS 1.3 alone, with the hybrid X25519MLKEM768 alone, so that what is recorded today stays
//! secret from a later quantum computer; a public port also takes what strangers have.
//!
//! Nothing is resumed: every connection shows its certificate, and a new one is used as soon as its
//! file is there ([`Kept`]).

mod accept;
mod connect;
mod identity;
mod kept;
mod verify;
mod wire;

use std::{path::PathBuf, sync::Arc};

use rustls::{
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::UnixTime,
    time_provider::TimeProvider,
};

pub use accept::Acceptor;
pub(crate) use accept::{Handshake, Seen};
pub use connect::{Connector, Expected, plain, to_host};
pub use identity::{Identity, Role};
pub use kept::{Files, Kept, Material};

/// Milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What is negotiated besides the cipher: HTTP/2.
const H2: &[u8] = b"h2";

/// What is wrong with the files, or with what they are to be used for.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error("TLS needs {what}")]
    Missing { what: &'static str },
    #[error(transparent)]
    NotConnected(#[from] tonic::transport::Error),
}

/// Certificates are valid at the time of the clock that was handed in.
struct Time(Clock);

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let now = std::time::Duration::from_millis((self.0)());
        Some(UnixTime::since_unix_epoch(now))
    }
}

/// The cryptography: with the hybrid group only, or with those that strangers have besides.
fn provider(hybrid_only: bool) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    if !hybrid_only {
        use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519};
        provider.kx_groups.extend([X25519, SECP256R1, SECP384R1]);
    }
    Arc::new(provider)
}
