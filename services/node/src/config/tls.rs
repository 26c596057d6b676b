//! How processes know one another.

use std::{net::IpAddr, path::PathBuf};

use anyhow::bail;
use atoll_fabric::tls::Files;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;

/// What a process proves itself with, and whom it believes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file with the certificate of this process, and those between it and the authority. With
    /// `key` and `authority`: all ports between processes speak mutual TLS. Read again when it
    /// changes, as are the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// PEM file with the certificates of those who sign the certificates of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<PathBuf>,
    /// Without certificates: allows ports and links between processes beyond loopback, where whoever
    /// reaches such a port can write, and whoever is in between can read.
    pub plain_text: bool,
    /// PEM file with the certificate that the gateway's public gRPC port shows to clients; without
    /// one, that port is in plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_certificate: Option<PathBuf>,
    /// PEM file with its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PathBuf>,
}

impl Tls {
    /// Those for other processes, if there are.
    pub(crate) fn members(&self) -> anyhow::Result<Option<Files>> {
        match (&self.certificate, &self.key, &self.authority) {
            (None, None, None) => Ok(None),
            (Some(certificate), Some(key), Some(authority)) => Ok(Some(Files {
                own: Some((certificate.clone(), key.clone())),
                authority: Some(authority.clone()),
            })),
            _ => bail!("tls.certificate, tls.key and tls.authority go together: give all three"),
        }
    }

    /// Those for clients, if there are.
    pub(crate) fn public(&self) -> anyhow::Result<Option<Files>> {
        match (&self.public_certificate, &self.public_key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => {
                Ok(Some(Files { own: Some((certificate.clone(), key.clone())), authority: None }))
            }
            _ => bail!("tls.public_certificate and tls.public_key go together: give both"),
        }
    }

    pub(super) fn check(&self, config: &Config) -> anyhow::Result<()> {
        let secure = self.members()?.is_some();
        self.public()?;
        if secure && self.plain_text {
            bail!("tls.plain_text is for a cluster without certificates: remove it, or them");
        }
        for (key, url) in urls(config) {
            match url.split_once("://") {
                Some(("https", _)) if !secure => {
                    bail!("{key} is {url}, which needs tls.certificate, tls.key and tls.authority")
                }
                Some(("http", _)) if secure => {
                    bail!("{key} is {url}: with tls.certificate it has to begin with https://")
                }
                _ => {}
            }
            if !secure && !self.plain_text && !is_loopback(url) {
                bail!("{key} is {url}: {BEYOND}");
            }
        }
        if secure || self.plain_text {
            return Ok(());
        }
        let beacon = config.beacon.iter().filter_map(|beacon| beacon.listen);
        let shards = config.shard.iter().filter_map(|shard| shard.listen);
        let admin = config.admin.iter().map(|admin| admin.listen);
        match beacon.chain(shards).chain(admin).find(|listen| !listen.ip().is_loopback()) {
            Some(listen) => bail!("a port for other processes listens on {listen}: {BEYOND}"),
            None => Ok(()),
        }
    }
}

const BEYOND: &str = "beyond loopback processes speak TLS. Give tls.certificate, tls.key and \
                      tls.authority (`atoll certs` makes some), or say tls.plain_text = true if \
                      nobody else can reach this network";

fn urls(config: &Config) -> Vec<(String, &str)> {
    let mut urls = Vec::new();
    if let Some(url) = config.address.beacon.as_deref().filter(|_| config.beacon.is_none()) {
        urls.push(("address.beacon".to_owned(), url));
    }
    for shard in &config.address.shard {
        let roles = [&shard.all, &shard.mempool, &shard.executor, &shard.state, &shard.router];
        let key = format!("a URL of shard {} in [[address.shard]]", shard.id);
        urls.extend(roles.into_iter().flatten().map(|url| (key.clone(), url.as_str())));
    }
    urls
}

/// The host of a URL, without brackets.
fn host(url: &str) -> Option<String> {
    let uri: tonic::transport::Uri = url.parse().ok()?;
    Some(uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned())
}

/// What cannot be read is not called so: whoever connects says what is wrong with it.
fn is_loopback(url: &str) -> bool {
    let Some(host) = host(url) else { return true };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
