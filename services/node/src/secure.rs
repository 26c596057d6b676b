//! What a process needs to speak TLS: its certificates, followed as they change, and handshakes made
//! from them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use atoll_fabric::{
    Door,
    tls::{Acceptor, Clock, Connector, Expected, Files, Identity, Kept, Role, TlsError, to_host},
};
use tonic::transport::{Channel, Endpoint, Server};

use crate::{
    access::Guard,
    config::Config,
    listen::{Entrance, internal_server},
    place::now_ms,
    visitors::Visitors,
};

/// Time between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// For links and ports between processes; `None` in it: plain text.
#[derive(Clone)]
pub(crate) struct Secure {
    chain_id: u64,
    members: Option<Arc<Kept>>,
    public: Option<Arc<Kept>>,
    clock: Clock,
    client_requests: u32,
}

impl Secure {
    /// Reads what the configuration names, and follows it.
    pub fn open(config: &Config, clock: Clock) -> anyhow::Result<Self> {
        let open = |files: Option<Files>| files.map(Kept::open).transpose();
        let members = open(config.tls.members()?).context("[tls]")?;
        let public = open(config.tls.public()?).context("[tls]")?;
        if let Some(kept) = &members {
            unnamed(config, &kept.get().identities)?;
        }
        members.iter().chain(&public).for_each(|kept| kept.watch(LOOK));
        let client_requests = config.limits.client_requests;
        Ok(Self { chain_id: config.chain.chain_id, members, public, clock, client_requests })
    }

    /// How to reach a process of this role; `None`: in plain text.
    pub fn connector(&self, role: Role) -> anyhow::Result<Option<Connector>> {
        let expected = Expected::Member(self.chain_id, role);
        let connector =
            |kept: &Arc<Kept>| Connector::new(kept.clone(), self.clock.clone(), expected);
        Ok(self.members.as_ref().map(connector).transpose()?)
    }

    /// To services for other processes.
    pub fn entrance(
        &self,
        services: &[&'static str],
        shard: Option<u16>,
    ) -> anyhow::Result<Entrance> {
        let Some(kept) = &self.members else {
            return Ok(Entrance::plain(internal_server()));
        };
        let (server, door) = internal_server();
        let guard = Guard::new(services, shard);
        let admits = {
            let guard = guard.clone();
            move |role| guard.lets_in(role)
        };
        let tls = Acceptor::members(kept.clone(), self.clock.clone(), self.chain_id, admits)?;
        Ok(Entrance { server, door, tls: Some(tls), guard: Some(guard), visitors: None })
    }

    /// To the public API.
    pub fn public(&self, server: Server, door: Door) -> anyhow::Result<Entrance> {
        let acceptor = |kept: &Arc<Kept>| Acceptor::public(kept.clone(), self.clock.clone());
        let tls = self.public.as_ref().map(acceptor).transpose()?;
        let visitors = (self.client_requests > 0).then(|| Visitors::new(self.client_requests));
        Ok(Entrance { server, door, tls, guard: None, visitors })
    }
}

/// Refuses a certificate that does not name what stands here.
pub(crate) fn unnamed(config: &Config, shown: &[Identity]) -> anyhow::Result<()> {
    let chain_id = config.chain.chain_id;
    let named = |role| shown.iter().any(|id| id.chain_id == chain_id && id.role == role);
    match roles(config).into_iter().find(|role| !named(*role)) {
        Some(role) => bail!(
            "the certificate of this process does not name spiffe://atoll/{chain_id}/{role}/…, and \
             {role} stands here"
        ),
        None => Ok(()),
    }
}

/// Those that stand in this process.
pub(crate) fn roles(config: &Config) -> Vec<Role> {
    let mut roles: Vec<Role> = config.beacon.iter().map(|_| Role::Beacon).collect();
    roles.extend(config.shard.iter().map(|shard| Role::Shard(shard.id)));
    roles.extend(config.gateway.iter().map(|_| Role::Gateway));
    // It asks the others as operators do.
    roles.extend(config.admin.iter().map(|_| Role::Operator));
    roles.sort();
    roles.dedup();
    roles
}

/// What a command needs to reach a public API that speaks TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct TlsArgs {
    /// For https://: PEM file with the authority of the gateway's certificate [default: those that the
    /// system trusts]
    #[arg(long, env = "ATOLL_TLS_AUTHORITY", value_name = "FILE", global = true)]
    pub tls_authority: Option<PathBuf>,
}

impl TlsArgs {
    /// Connects to a public API.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, TlsError> {
        to_host(endpoint, self.tls_authority.as_deref(), Arc::new(now_ms)).await
    }
}

/// What an operator needs to reach a port between processes that speaks TLS.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MemberArgs {
    /// For https://: PEM file with an operator's certificate
    #[arg(long, env = "ATOLL_TLS_CERTIFICATE", value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// For https://: PEM file with its private key
    #[arg(long, env = "ATOLL_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// For https://: PEM file with the cluster's authority
    #[arg(long, env = "ATOLL_TLS_AUTHORITY", value_name = "FILE")]
    pub tls_authority: Option<PathBuf>,
}

impl MemberArgs {
    /// Connects to what operators may ask, on the chain that the certificate is of.
    pub async fn connect(&self, url: &str, endpoint: &Endpoint) -> anyhow::Result<Channel> {
        if endpoint.uri().scheme_str() != Some("https") {
            return Ok(endpoint.connect().await?);
        }
        let all = (&self.tls_certificate, &self.tls_key, &self.tls_authority);
        let (Some(certificate), Some(key), Some(authority)) = all else {
            bail!("{url} needs --tls-certificate, --tls-key and --tls-authority");
        };
        let own = Some((certificate.clone(), key.clone()));
        let kept = Kept::open(Files { own, authority: Some(authority.clone()) })?;
        let shown = kept.get();
        let operator = shown.identities.iter().find(|id| id.role == Role::Operator);
        let chain_id = operator
            .with_context(|| format!("{} names no operator", certificate.display()))?
            .chain_id;
        let expected = Expected::Member(chain_id, Role::Operator);
        Ok(Connector::new(kept, Arc::new(now_ms), expected)?.connect(endpoint).await?)
    }
}
