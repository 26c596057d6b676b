//! A cluster of real processes that speak TLS: it takes load, certificates change in the middle of it,
//! and strangers are refused.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use atoll::{
    backup::{BackupArgs, backup},
    certs::Authority,
    config::Role as Service,
    secure::MemberArgs,
};
use atoll_api::{
    beacon::{BeaconError, Head},
    state::{StateError, Sync, TakeSnapshot},
};
use atoll_fabric::{
    Call as _, Context, Fault, Remote,
    tls::{Clock, Connector, Expected, Files, Identity, Kept, Role, plain},
};
use atoll_tests::{
    CHAIN_ID,
    processes::{BEACON, GATEWAY, Plan, Processes, SPLIT, role_name, shard_name, until},
};
use tonic::transport::Endpoint;

use crate::{
    ATOLL, all_is_there,
    ledger::Acks,
    on,
    traffic::{COUNT, Traffic},
};

const DAY: Duration = Duration::from_secs(86_400);
const READ_AGAIN: &str = "certificates were read again";
const REFUSED: &str = "a TLS handshake was refused";

fn identity(role: Role, name: &str) -> Identity {
    Identity { chain_id: CHAIN_ID, role, name: name.to_owned() }
}

/// Certificates for all processes, and for an operator.
fn issue_all(authority: &Authority) -> anyhow::Result<()> {
    for name in Plan::names() {
        let shard = (0..=SPLIT).find(|id| name.starts_with(&shard_name(*id)));
        let roles = match shard {
            Some(id) => vec![Role::Shard(id)],
            None if name == BEACON => vec![Role::Beacon],
            None => vec![Role::Gateway, Role::Operator],
        };
        let identities: Vec<_> = roles.into_iter().map(|role| identity(role, &name)).collect();
        authority.issue(&name, &identities, &[], DAY)?;
    }
    authority.issue("operator", &[identity(Role::Operator, "operator")], &[], DAY)
}

/// Links that show one certificate.
struct Caller<'a> {
    cluster: &'a Processes,
    kept: Arc<Kept>,
}

impl<'a> Caller<'a> {
    fn new(
        cluster: &'a Processes,
        dir: &Path,
        authority: &Path,
        name: &str,
    ) -> anyhow::Result<Self> {
        let own = Some((dir.join(format!("{name}.pem")), dir.join(format!("{name}.key"))));
        let kept = Kept::open(Files { own, authority: Some(authority.to_owned()) })?;
        Ok(Self { cluster, kept })
    }

    /// To a process, which is to have this role.
    fn to(&self, name: &str, role: Role) -> anyhow::Result<Remote> {
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64;
        let clock: Clock = Arc::new(move || now);
        let connector = Connector::new(self.kept.clone(), clock, Expected::Member(CHAIN_ID, role))?;
        let endpoint = endpoint(self.cluster, "https", name)?;
        Ok(Remote::new(connector.lazy(&endpoint), 8, Duration::from_secs(20)))
    }
}

fn endpoint(cluster: &Processes, scheme: &str, name: &str) -> anyhow::Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("{scheme}://{}", cluster.plan.listen[name]))?)
}

/// A process has to say so of a stranger.
async fn logged(cluster: &Processes, name: &str, words: &[&str]) -> anyhow::Result<()> {
    let log = cluster.log(name);
    until(&format!("{name} logs {words:?}"), async || {
        let text = std::fs::read_to_string(&log)?;
        Ok(text.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(()))
    })
    .await
}

async fn head(link: &Remote) -> Result<(), Fault> {
    match link.call(Context::none(), Head).await {
        Ok(_) => Ok(()),
        Err(BeaconError::Fault(fault)) => Err(fault),
        Err(error) => panic!("{error}"),
    }
}

async fn refused(link: &Remote, words: &str) -> anyhow::Result<()> {
    match head(link).await {
        Err(Fault::Unreachable { reason }) if reason.contains(words) => Ok(()),
        other => anyhow::bail!("not refused because {words}: {other:?}"),
    }
}

async fn strangers_are_refused(cluster: &Processes, ours: &Authority) -> anyhow::Result<()> {
    let dir = cluster.plan.certificates.clone().context("there are certificates")?;
    let trusted = dir.join("authority.pem");
    let beacon_of = |dir: &Path, authority: &Path, name: &str| {
        Caller::new(cluster, dir, authority, name)?.to(BEACON, Role::Beacon)
    };
    ensure!(head(&beacon_of(&dir, &trusted, GATEWAY)?).await.is_ok(), "the gateway may ask");

    // Of an authority that has the same name.
    let other = tempfile::tempdir()?;
    issue_all(&Authority::open(other.path(), CHAIN_ID)?)?;
    let wrong = "it does not trust the authority of our certificate";
    refused(&beacon_of(other.path(), &trusted, GATEWAY)?, wrong).await?;
    logged(cluster, BEACON, &[REFUSED, "from=", "invalid peer certificate"]).await?;
    // And we do not believe it either.
    let theirs = other.path().join("authority.pem");
    refused(&beacon_of(&dir, &theirs, GATEWAY)?, "its certificate is refused").await?;

    ours.issue("expired", &[identity(Role::Gateway, "expired")], &[], Duration::from_secs(1))?;
    refused(&beacon_of(&dir, &trusted, "expired")?, "our certificate is not valid now").await?;
    logged(cluster, BEACON, &[REFUSED, "expired"]).await?;

    // A beacon calls nobody.
    refused(&beacon_of(&dir, &trusted, BEACON)?, "admit the role").await?;
    logged(cluster, BEACON, &[REFUSED, "its certificate names", "/beacon/beacon"]).await?;
    // The port is where a shard is expected, and it is the beacon's.
    let misled = Caller::new(cluster, &dir, &trusted, GATEWAY)?.to(BEACON, Role::Shard(0))?;
    refused(&misled, "none is wanted here").await?;

    // A gateway may read a state, and neither follow it nor copy it.
    let state = role_name(Service::State);
    let link = Caller::new(cluster, &dir, &trusted, "shard-0")?.to(&state, Role::Shard(SPLIT))?;
    let answer = link.call(Context::none(), Sync { after: 0, wait_ms: 0, full: false }).await;
    let said = format!("{answer:?}");
    ensure!(said.contains("Unreachable") && said.contains("admit the role"), "{said}");
    ours.issue("gateway-1", &[identity(Role::Gateway, "gateway-1")], &[], DAY)?;
    let link = Caller::new(cluster, &dir, &trusted, "gateway-1")?.to(&state, Role::Shard(SPLIT))?;
    let answer = link.call(Context::none(), TakeSnapshot { cut: 0 }).await;
    let said = format!("{answer:?}");
    let denied = matches!(answer, Err(StateError::Fault(Fault::Internal { .. })));
    ensure!(denied && said.contains("gateway may not call /atoll.v1.StateService"), "{said}");
    logged(cluster, &state, &["a request was refused", "gateway", "TakeSnapshot"]).await?;

    let clear = plain(&endpoint(cluster, "http", BEACON)?);
    let answer = head(&Remote::new(clear, 8, Duration::from_secs(20))).await;
    let said = format!("{answer:?}");
    ensure!(said.contains("it speaks TLS: write https://"), "{said}");
    logged(cluster, BEACON, &[REFUSED, "plain text"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_tls_goes_on_while_certificates_change_and_refuses_strangers() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::open(dir.path(), CHAIN_ID).expect("an authority");
    issue_all(&authority).expect("certificates");
    let mut traffic = Traffic::new().expect("keys");
    let plan = Plan::new(ATOLL.as_ref(), traffic.balances(), traffic.placement());
    let mut plan = plan.expect("free ports");
    plan.certificates = Some(dir.path().to_owned());
    let cluster = Processes::start(plan).await;
    on(cluster.expect("a cluster"), async |cluster| {
        let api = cluster.api.clone();
        traffic.deploy(&api).await.context("deploy")?;
        let acks = Acks::watch(&api).await?;
        let mut load = traffic.start(&api, 5)?;
        acks.reach(COUNT / 5).await?;
        issue_all(&authority)?;
        for name in Plan::names() {
            logged(cluster, &name, &[READ_AGAIN]).await?;
        }
        // One that has the new certificate meets those that have connections from before.
        let victim = vec![role_name(Service::Router)];
        cluster.kill(&victim)?;
        cluster.launch(&victim).await?;
        while let Some(sender) = load.join_next().await {
            let sent = sender?;
            cluster.is_running()?;
            sent.context("the load does not finish")?;
        }
        let out = tempfile::tempdir()?;
        let tls = MemberArgs {
            tls_certificate: Some(dir.path().join("operator.pem")),
            tls_key: Some(dir.path().join("operator.key")),
            tls_authority: Some(dir.path().join("authority.pem")),
        };
        let (admin, nobody) = (cluster.admin(), MemberArgs::default());
        let to = |name: &str, tls| BackupArgs {
            out: out.path().join(name),
            admin: Some(admin.clone()),
            tls,
        };
        backup(to("one", tls)).await.context("a backup by an operator")?;
        let error = backup(to("two", nobody)).await.expect_err("nobody asks");
        ensure!(format!("{error:#}").contains("--tls-certificate"), "{error:#}");
        strangers_are_refused(cluster, &authority).await?;
        all_is_there(&mut traffic, cluster, &acks, &[]).await
    })
    .await;
}
