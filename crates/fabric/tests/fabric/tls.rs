//! Who is let in with TLS, and what those hear who are not.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use atoll_fabric::{
    Call as _, Context, Door, Fault, Remote,
    tls::{Acceptor, Clock, Connector, Expected, Files, Kept, Role, plain},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::{
    ClientConfig, NamedGroup, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::transport::Endpoint;

use crate::probe::{Add, ProbeError, Server, Stand};

const CHAIN: u64 = 7;
/// 2026, in milliseconds since 1970.
const NOW: u64 = 1_780_000_000_000;
const GREETING: Duration = Duration::from_millis(300);

fn clock() -> Clock {
    Arc::new(|| NOW)
}

struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).expect("signed").pem();
        std::fs::write(dir.path().join("authority.pem"), pem).expect("written");
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate with these identities, valid until the end of a year.
    fn issue(&self, name: &str, uris: &[&str], until: i32) -> Files {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 12, 31);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let uri = |uri: &&str| SanType::URI((*uri).try_into().expect("ASCII"));
        params.subject_alt_names = uris.iter().map(uri).collect();
        let key = KeyPair::generate().expect("a key");
        let pem = params.signed_by(&key, &self.issuer).expect("signed").pem();
        let (certificate, secret) = (format!("{name}.pem"), format!("{name}.key"));
        std::fs::write(self.path(&secret), key.serialize_pem()).expect("written");
        std::fs::write(self.path(&certificate), pem).expect("written");
        let own = Some((self.path(&certificate), self.path(&secret)));
        Files { own, authority: Some(self.path("authority.pem")) }
    }

    fn kept(&self, name: &str, uris: &[&str]) -> Arc<Kept> {
        Kept::open(self.issue(name, uris, 2030)).expect("they are whole")
    }
}

const STATE: &str = "spiffe://atoll/7/shard/1/state";
const ROUTER: &str = "spiffe://atoll/7/shard/1/router";

/// A service for those of shard 1.
struct Port {
    stand: Stand,
    server: Server,
    acceptor: Acceptor,
}

impl Port {
    async fn open(kept: Arc<Kept>) -> Self {
        let admits = |role| role == Role::Shard(1);
        let acceptor = Acceptor::members(kept, clock(), CHAIN, admits).expect("all is there");
        let stand = Stand::local().await;
        let door = Door { connections: 64, greeting: GREETING };
        let entrance = Some((door, Some(acceptor.clone())));
        let server = Server::start_with(stand.add.clone(), stand.act.clone(), entrance);
        Self { stand, server, acceptor }
    }

    fn endpoint(&self, scheme: &str) -> Endpoint {
        let url = format!("{scheme}://127.0.0.1:{}", self.server.port);
        Endpoint::from_shared(url).expect("an address").connect_timeout(Duration::from_secs(20))
    }

    fn link(&self, kept: Arc<Kept>, role: Role) -> Remote {
        let expected = Expected::Member(CHAIN, role);
        let connector = Connector::new(kept, clock(), expected).expect("all is there");
        remote(connector.lazy(&self.endpoint("https")))
    }

    async fn raw(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.server.port)).await.expect("it listens")
    }
}

fn remote(channel: tonic::transport::Channel) -> Remote {
    Remote::new(channel, 64, Duration::from_secs(20))
}

async fn add(link: &Remote) -> Result<u64, ProbeError> {
    link.call(Context::none(), Add { amount: 1 }).await
}

/// Why a call was never sent.
async fn refused(link: &Remote) -> String {
    match add(link).await {
        Err(ProbeError::Fault(Fault::Unreachable { reason })) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn those_who_may_are_let_in_and_the_others_hear_why_not() {
    let (ours, other) = (Authority::new(), Authority::new());
    let port = Port::open(ours.kept("server", &[STATE])).await;
    let good = ours.kept("good", &[ROUTER]);
    assert_eq!(add(&port.link(good.clone(), Role::Shard(1))).await, Ok(1));
    // Among others.
    let several = ours.kept("several", &["spiffe://atoll/7/beacon/a", "https://x.org/", ROUTER]);
    assert_eq!(add(&port.link(several, Role::Shard(1))).await, Ok(2));
    assert_eq!(port.acceptor.refused(), 0);

    let expired = Kept::open(ours.issue("expired", &[ROUTER], 2025)).expect("it is whole");
    // It trusts the authority of the port, which does not trust its own.
    let mut foreign = other.issue("foreign", &[ROUTER], 2030);
    foreign.authority = Some(ours.path("authority.pem"));
    let foreign = Kept::open(foreign).expect("it is whole");
    for (what, kept, words) in [
        ("expired", expired, "our certificate is not valid now"),
        ("wrong authority", foreign, "it does not trust the authority of our certificate"),
        ("wrong role", ours.kept("a", &["spiffe://atoll/7/gateway/g"]), "admit the role"),
        ("wrong shard", ours.kept("b", &["spiffe://atoll/7/shard/2/router"]), "admit the role"),
        ("wrong chain", ours.kept("c", &["spiffe://atoll/8/shard/1/router"]), "admit the role"),
        ("nobody", ours.kept("d", &[]), "admit the role"),
    ] {
        let before = port.acceptor.refused();
        let reason = refused(&port.link(kept, Role::Shard(1))).await;
        assert!(reason.contains(words), "{what}: {reason}");
        assert!(port.acceptor.refused() > before, "{what} is not counted");
    }

    // The other way round: whoever answers has to be who is wanted.
    let before = port.acceptor.refused();
    let reason = refused(&port.link(good.clone(), Role::Beacon)).await;
    assert!(reason.contains(STATE) && reason.contains("none is wanted"), "{reason}");
    let mut wary = ours.issue("wary", &[ROUTER], 2030);
    wary.authority = Some(other.path("authority.pem"));
    let reason = refused(&port.link(Kept::open(wary).expect("whole"), Role::Shard(1))).await;
    assert!(reason.contains("its certificate is refused"), "{reason}");
    // The port hears of it when it has been told.
    let heard = async {
        while port.acceptor.refused() < before + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), heard).await.expect("both are counted");

    // Plain text to TLS, and TLS to plain text.
    let error = add(&remote(plain(&port.endpoint("http")))).await;
    let said = format!("{error:?}");
    assert!(said.contains("it speaks TLS: write https://"), "{said}");
    let clear = Stand::remote().await;
    let clear = clear.server.as_ref().expect("a server");
    let expected = Expected::Member(CHAIN, Role::Shard(1));
    let connector = Connector::new(good.clone(), clock(), expected).expect("all is there");
    let url = format!("https://127.0.0.1:{}", clear.port);
    let endpoint = Endpoint::from_shared(url).expect("an address");
    let reason = refused(&remote(connector.lazy(&endpoint))).await;
    assert!(reason.contains("it does not speak TLS"), "{reason}");

    assert_eq!(add(&port.link(good, Role::Shard(1))).await, Ok(3), "nobody else got in");
    port.stand.probe.stop().await;
}

/// A client of its own, with the groups that it is given.
async fn handshake(
    port: &Port,
    authority: &Authority,
    groups: &[NamedGroup],
    own: Option<&Files>,
) -> std::io::Result<Option<NamedGroup>> {
    let mut provider = aws_lc_rs::default_provider();
    let all = aws_lc_rs::ALL_KX_GROUPS.iter().copied();
    provider.kx_groups = all.filter(|group| groups.contains(&group.name())).collect();
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(authority.path("authority.pem"))?;
    roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match own.and_then(|own| own.own.as_ref()) {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::from_pem_slice(&std::fs::read(certificate)?).expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(&std::fs::read(key)?).expect("PEM");
            builder.with_client_auth_cert(vec![chain], key).expect("a pair")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("state.test").expect("a name");
    let mut stream = connector.connect(name, port.raw().await).await?;
    // The server's first frame.
    stream.read_exact(&mut [0; 9]).await?;
    Ok(stream.get_ref().1.negotiated_key_exchange_group().map(|group| group.name()))
}

#[tokio::test]
async fn what_is_negotiated_is_the_hybrid_with_a_certificate_or_nothing() {
    let ours = Authority::new();
    let server = ours.issue_for_host("server", STATE, "state.test");
    let port = Port::open(Kept::open(server).expect("it is whole")).await;
    let own = ours.issue("client", &[ROUTER], 2030);
    let both = [NamedGroup::X25519, NamedGroup::X25519MLKEM768];
    let group = handshake(&port, &ours, &both, Some(&own)).await.expect("it has the hybrid");
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    let error = handshake(&port, &ours, &both[..1], Some(&own)).await.expect_err("not hybrid");
    assert!(error.to_string().contains("HandshakeFailure"), "{error}");
    let error = handshake(&port, &ours, &both, None).await.expect_err("no certificate");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    port.stand.probe.stop().await;
}

impl Authority {
    fn issue_for_host(&self, name: &str, uri: &str, host: &str) -> Files {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ASCII")));
        let key = KeyPair::generate().expect("a key");
        let pem = params.signed_by(&key, &self.issuer).expect("signed").pem();
        let (certificate, secret) = (self.path(&format!("{name}.pem")), self.path("host.key"));
        std::fs::write(&secret, key.serialize_pem()).expect("written");
        std::fs::write(&certificate, pem).expect("written");
        Files { own: Some((certificate, secret)), authority: Some(self.path("authority.pem")) }
    }
}

#[tokio::test]
async fn whoever_does_not_speak_or_talks_nonsense_is_gone_soon() {
    let ours = Authority::new();
    let port = Port::open(ours.kept("server", &[STATE])).await;
    let mut silent = port.raw().await;
    // It is told so, or not: what counts is that the connection ends.
    let _ = silent.read_to_end(&mut Vec::new()).await;
    assert_eq!(port.acceptor.refused(), 1);

    // The beginning of a handshake, cut and changed anywhere. The seed is the loop's number.
    let hello = client_hello(&ours);
    for seed in 0..200_u64 {
        let random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) as usize;
        let mut bytes = hello.clone();
        match seed % 3 {
            0 => bytes.truncate(random % hello.len()),
            1 => bytes[random % hello.len()] ^= 1 << (seed % 8),
            _ => bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(random as u8)),
        }
        let mut socket = port.raw().await;
        // Refused while it still writes: also good.
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let _ = socket.read_to_end(&mut Vec::new()).await;
    }
    let good = ours.kept("good", &[ROUTER]);
    assert_eq!(add(&port.link(good, Role::Shard(1))).await, Ok(1), "it is as it was");
    assert!(port.acceptor.refused() > 150, "{}", port.acceptor.refused());
    port.stand.probe.stop().await;
}

/// What a client says first.
fn client_hello(authority: &Authority) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(authority.path("authority.pem")).expect("written");
    roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("an authority");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("state.test").expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("memory");
    hello
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).expect("copied");
}

#[tokio::test]
async fn certificates_change_for_new_connections_and_old_ones_live_on() {
    let (ours, next) = (Authority::new(), Authority::new());
    let kept = ours.kept("server", &[STATE]);
    let port = Port::open(kept.clone()).await;
    let client = ours.kept("client", &[ROUTER]);
    let old = port.link(client.clone(), Role::Shard(1));
    assert_eq!(add(&old).await, Ok(1));
    assert!(!kept.look().expect("nothing is wrong"), "nothing has changed");

    // A file that is half there changes nothing.
    std::fs::write(ours.path("server.pem"), "-----BEGIN CERTIFICATE-----\nAAAA").expect("written");
    assert!(kept.look().is_err());
    assert_eq!(add(&port.link(client.clone(), Role::Shard(1))).await, Ok(2));
    // Neither does a certificate whose key is not there yet.
    let files = next.issue("server", &[STATE], 2030);
    let (certificate, key) = files.own.expect("given");
    copy(&certificate, &ours.path("server.pem"));
    let error = kept.look().expect_err("the key is the old one").to_string();
    assert!(error.contains("server.key") && error.contains("not the key of"), "{error}");

    // Now everything is of the other authority.
    copy(&key, &ours.path("server.key"));
    copy(&next.path("authority.pem"), &ours.path("authority.pem"));
    assert!(kept.look().expect("it is whole"));
    assert_eq!(add(&old).await, Ok(3), "a connection ended");
    // The client's authority file is the same file, which it has not looked at yet.
    let reason = refused(&port.link(client.clone(), Role::Shard(1))).await;
    assert!(reason.contains("its certificate is refused"), "{reason}");
    next.issue("client", &[ROUTER], 2030);
    copy(&next.path("client.key"), &ours.path("client.key"));
    copy(&next.path("client.pem"), &ours.path("client.pem"));
    assert!(client.look().expect("it is whole"));
    assert_eq!(add(&port.link(client, Role::Shard(1))).await, Ok(4));
    assert_eq!(add(&old).await, Ok(5));
    port.stand.probe.stop().await;
}
