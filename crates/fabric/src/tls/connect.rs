//! The side that calls.

use std::{io, path::Path, sync::Arc};

use hyper_util::rt::TokioIo;
use rustls::{
    AlertDescription, ClientConfig,
    client::{Resumption, WebPkiServerVerifier},
    pki_types::ServerName,
    sign::SingleCertAndKey,
    version::TLS13,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{
    Clock, Files, H2, Kept, Role, Time, TlsError, provider,
    verify::{Met, Verifier},
    wire::Wire,
};

/// Bytes that are waited for before a connection counts as one: the header of an HTTP/2 frame.
const FIRST_BYTES: usize = 9;
/// Where Debian and those that follow it keep the authorities that everybody trusts.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Who has to be at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A process of this chain with this role, wherever it is.
    Member(u64, Role),
    /// Whoever has a certificate for the host that the URL names.
    Host,
}

/// Connects to one kind of process.
#[derive(Clone)]
pub struct Connector {
    kept: Arc<Kept>,
    clock: Clock,
    expected: Expected,
}

impl Connector {
    /// # Errors
    /// [`TlsError::Missing`] without an authority, or without an own certificate for other members.
    pub fn new(kept: Arc<Kept>, clock: Clock, expected: Expected) -> Result<Self, TlsError> {
        let material = kept.get();
        if material.trust.is_none() {
            return Err(TlsError::Missing { what: "the certificate of an authority" });
        }
        if material.own.is_none() && expected != Expected::Host {
            return Err(TlsError::Missing { what: "a certificate and its key" });
        }
        Ok(Self { kept, clock, expected })
    }

    /// A channel that connects when it is used.
    pub fn lazy(self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri| {
            let connector = self.clone();
            async move { connector.open(uri).await.map(TokioIo::new) }
        }))
    }

    /// A channel that is connected.
    ///
    /// # Errors
    /// Says why it cannot be.
    pub async fn connect(self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        let connecting = endpoint.connect_with_connector(tower::service_fn(move |uri| {
            let connector = self.clone();
            async move { connector.open(uri).await.map(TokioIo::new) }
        }));
        connecting.await
    }

    async fn open(&self, uri: Uri) -> io::Result<Wire> {
        let (host, socket) = dial(&uri, 443).await?;
        let met = Arc::new(Met::default());
        let failed = |error: io::Error| {
            let reason = explain(&error, &met);
            io::Error::new(error.kind(), format!("TLS with {uri}: {reason}"))
        };
        let config = self.config(&met).map_err(|error| failed(io::Error::other(error)))?;
        let name = ServerName::try_from(host).map_err(|e| failed(io::Error::other(e)))?;
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, socket).await.map_err(failed)?;
        let group = stream.get_ref().1.negotiated_key_exchange_group().map(|group| group.name());
        // With TLS 1.3 this side is done before the other one has looked at its certificate. Only when
        // something comes back is it known to be a connection: until then, nothing is sent on it.
        let mut first = vec![0; FIRST_BYTES];
        if self.expected == Expected::Host {
            first.clear();
        } else {
            let read = stream.read(&mut first).await.map_err(failed)?;
            if read == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            first.truncate(read);
        }
        tracing::debug!(%uri, ?group, "connected with TLS");
        Ok(Wire::Secure(Box::new(stream), first))
    }

    /// Made for each connection, as it notes what the connection shows.
    fn config(&self, met: &Arc<Met>) -> Result<ClientConfig, rustls::Error> {
        let missing = || rustls::Error::General("there is no certificate any more".into());
        let material = self.kept.get();
        let trust = material.trust.as_ref().ok_or_else(missing)?;
        let provider = provider(self.expected != Expected::Host);
        let time = Arc::new(Time(self.clock.clone()));
        let builder = ClientConfig::builder_with_details(provider.clone(), time)
            .with_protocol_versions(&[&TLS13])?;
        let builder = match self.expected {
            Expected::Host => {
                let roots = trust.roots.clone();
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
                let verifier = verifier.map_err(|e| rustls::Error::General(e.to_string()))?;
                builder.with_webpki_verifier(verifier)
            }
            Expected::Member(chain_id, role) => {
                let verifier = Arc::new(Verifier {
                    chain_id,
                    admits: Arc::new(move |shown| shown == role),
                    roots: trust.roots.clone(),
                    callers: trust.callers.clone(),
                    provider,
                    met: met.clone(),
                });
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
        };
        let mut config = match &material.own {
            Some(own) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![H2.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// A channel to whoever a URL names: with TLS if it begins with `https://`, believing what `authority`
/// has signed.
///
/// # Errors
/// Says why it cannot be.
pub async fn to_host(
    endpoint: &Endpoint,
    authority: Option<&Path>,
    clock: Clock,
) -> Result<Channel, TlsError> {
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(endpoint.connect_with_connector(tower::service_fn(clear)).await?);
    }
    let authority = authority.unwrap_or(Path::new(SYSTEM)).to_owned();
    let kept = Kept::open(Files { own: None, authority: Some(authority) })?;
    Ok(Connector::new(kept, clock, Expected::Host)?.connect(endpoint).await?)
}

/// A channel in plain text that connects when it is used, and says so when the other side speaks TLS.
pub fn plain(endpoint: &Endpoint) -> Channel {
    endpoint.connect_with_connector_lazy(tower::service_fn(clear))
}

async fn clear(uri: Uri) -> io::Result<TokioIo<Wire>> {
    let (_, socket) = dial(&uri, 80).await?;
    Ok(TokioIo::new(Wire::Plain(socket, false)))
}

async fn dial(uri: &Uri, usual_port: u16) -> io::Result<(String, TcpStream)> {
    let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(usual_port);
    let socket = TcpStream::connect((host.as_str(), port)).await?;
    socket.set_nodelay(true)?;
    Ok((host, socket))
}

fn explain(error: &io::Error, met: &Met) -> String {
    if let Some(reason) = met.refusal.get() {
        return reason.clone();
    }
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let more = match tls {
        Some(rustls::Error::AlertReceived(alert)) => match alert {
            AlertDescription::AccessDenied => "it does not admit the role of our certificate",
            AlertDescription::CertificateExpired => "our certificate is not valid now",
            // The second is of an authority that has the same name.
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "it does not trust the authority of our certificate"
            }
            AlertDescription::CertificateRequired => "it wants a certificate of its authority",
            AlertDescription::HandshakeFailure => "there is no key exchange that both have",
            _ => "it does not want our certificate",
        },
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS",
        Some(rustls::Error::InvalidCertificate(_)) => "its certificate is refused",
        None if error.kind() == io::ErrorKind::UnexpectedEof => "it has hung up",
        _ => return error.to_string(),
    };
    format!("{more}: {error}")
}
