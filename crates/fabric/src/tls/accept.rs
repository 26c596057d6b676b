//! The side that is called.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::SingleCertAndKey,
    version::TLS13,
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{Accept, TlsAcceptor};

use super::{
    Clock, H2, Kept, Role, Time, TlsError, provider,
    verify::{Admits, Met, Verifier},
};

/// Lines that a port logs a second about handshakes that failed. Anybody can make them fail.
const LINES: u32 = 10;

pub(crate) type Handshake = Accept<TcpStream>;

/// What is known of a caller.
#[derive(Clone, Debug)]
pub(crate) struct Seen(Arc<Met>);

impl Seen {
    /// None on a public port.
    pub fn roles(&self) -> Arc<[Role]> {
        self.0.roles.get().cloned().unwrap_or_default()
    }
}

/// Handshakes of one port.
#[derive(Clone)]
pub struct Acceptor {
    kept: Arc<Kept>,
    clock: Clock,
    /// The chain, and whom the port is for. `None`: for everybody.
    members: Option<(u64, Admits)>,
    refused: Arc<AtomicU64>,
    logged: Arc<Mutex<Option<(Instant, u32)>>>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Of a port for processes of a chain that have one of the roles that `admits` says.
    ///
    /// # Errors
    /// [`TlsError::Missing`] without an own certificate or an authority.
    pub fn members(
        kept: Arc<Kept>,
        clock: Clock,
        chain_id: u64,
        admits: impl Fn(Role) -> bool + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        if kept.get().trust.is_none() {
            return Err(TlsError::Missing { what: "the certificate of an authority" });
        }
        Self::new(kept, clock, Some((chain_id, Arc::new(admits))))
    }

    /// Of a port for everybody, who are not asked for a certificate.
    ///
    /// # Errors
    /// [`TlsError::Missing`] without an own certificate.
    pub fn public(kept: Arc<Kept>, clock: Clock) -> Result<Self, TlsError> {
        Self::new(kept, clock, None)
    }

    fn new(
        kept: Arc<Kept>,
        clock: Clock,
        members: Option<(u64, Admits)>,
    ) -> Result<Self, TlsError> {
        if kept.get().own.is_none() {
            return Err(TlsError::Missing { what: "a certificate and its key" });
        }
        Ok(Self { kept, clock, members, refused: Arc::default(), logged: Arc::default() })
    }

    /// Handshakes that have failed.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self, socket: TcpStream) -> Result<(Handshake, Seen), rustls::Error> {
        let met = Arc::new(Met::default());
        let config = Arc::new(self.config(&met)?);
        Ok((TlsAcceptor::from(config).accept(socket), Seen(met)))
    }

    /// Made for each connection, as it notes what the connection shows. It is a few allocations.
    fn config(&self, met: &Arc<Met>) -> Result<ServerConfig, rustls::Error> {
        let missing = || rustls::Error::General("there is no certificate any more".into());
        let material = self.kept.get();
        let provider = provider(self.members.is_some());
        let time = Arc::new(Time(self.clock.clone()));
        let builder = ServerConfig::builder_with_details(provider.clone(), time)
            .with_protocol_versions(&[&TLS13])?;
        let verifier = match &self.members {
            None => WebPkiClientVerifier::no_client_auth(),
            Some((chain_id, admits)) => {
                let trust = material.trust.as_ref().ok_or_else(missing)?;
                Arc::new(Verifier {
                    chain_id: *chain_id,
                    admits: admits.clone(),
                    roots: trust.roots.clone(),
                    callers: trust.callers.clone(),
                    provider,
                    met: met.clone(),
                })
            }
        };
        let own = material.own.clone().ok_or_else(missing)?;
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        config.alpn_protocols = vec![H2.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Counts a handshake that failed and logs it, if not too many have been.
    pub(crate) fn failed(&self, from: Option<SocketAddr>, seen: &Seen, error: &io::Error) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        if error.kind() == io::ErrorKind::UnexpectedEof {
            // Whoever just looks whether a port is open.
            tracing::debug!(?from, refused, "a connection ended before its TLS handshake");
            return;
        }
        if !self.may_log() {
            return;
        }
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        let reason = match seen.0.refusal.get() {
            Some(reason) => reason.clone(),
            None => reason(error),
        };
        tracing::warn!(from, reason, refused, "a TLS handshake was refused");
    }

    fn may_log(&self) -> bool {
        let now = Instant::now();
        let mut logged = self.logged.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &mut *logged {
            Some((since, lines)) if now.duration_since(*since) < Duration::from_secs(1) => {
                *lines = lines.saturating_add(1);
                *lines <= LINES
            }
            new => {
                *new = Some((now, 1));
                true
            }
        }
    }
}

fn reason(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("it does not speak TLS as is usual, perhaps plain text: {error}")
        }
        Some(rustls::Error::NoCertificatesPresented) => "it shows no certificate".into(),
        Some(rustls::Error::PeerIncompatible(_)) => {
            format!("it does not have TLS 1.3 with X25519MLKEM768: {error}")
        }
        _ => error.to_string(),
    }
}
