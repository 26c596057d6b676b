//! Which cluster a command talks to, and what was last seen of it.
//!
//! `atoll up` writes where it listens to a file in a place of the user's own; commands find it there.
//! Beside it stands the newest cut that a command has seen, so that the next one reads nothing older.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::secure::TlsArgs;

/// Name of the file that says where the cluster is.
const CLUSTER: &str = "cluster.json";
/// Name of the file with the newest cut seen.
const LAST_CUT: &str = "last_cut";
/// What a file of ours can be long, in bytes.
const FILE_BYTES: u64 = 64 << 10;

/// Which cluster to use.
#[derive(Args, Clone, Debug, Default)]
pub struct Target {
    /// gRPC endpoint of a gateway [default: that of the cluster that `atoll up` runs here]
    #[arg(long, env = "ATOLL_TARGET", value_name = "URL", global = true)]
    pub target: Option<String>,
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// What `atoll up` says about its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// gRPC endpoint of the gateway, such as `http://127.0.0.1:50051`.
    pub grpc: String,
    pub chain_id: u64,
    /// The process that runs the cluster.
    pub pid: u32,
    /// Whatever else there is to say.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// An endpoint, and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// With scheme, without a slash at its end.
    pub url: String,
    /// The process that should be listening, if the file named it.
    pub pid: Option<u32>,
    /// Directory of the files.
    pub home: PathBuf,
    pub tls: TlsArgs,
}

#[derive(Serialize, Deserialize)]
struct LastCut {
    grpc: String,
    cut: u64,
}

/// Where the file of the running cluster is: `$ATOLL_HOME`, else `$HOME/.atoll`, else a directory
/// for temporary files.
pub fn discovery_path() -> PathBuf {
    home().join(CLUSTER)
}

/// Says that a cluster runs. What was seen of an earlier one is forgotten.
pub fn write(cluster: &ClusterFile) -> anyhow::Result<()> {
    write_in(&home(), cluster)
}

/// Takes back what this process has written with [`write`]. The file of another process stays.
pub fn remove() {
    remove_in(&home(), process::id());
}

/// The cluster that `atoll up` runs here.
pub fn find() -> anyhow::Result<ClusterFile> {
    find_in(&home())
}

/// Whether this is the name of a file that is kept in the directory of [`discovery_path`]. That may
/// be where somebody wants to keep a cluster's data, too.
pub fn is_own_file(name: &str) -> bool {
    name == CLUSTER || name == LAST_CUT
}

impl Target {
    /// The endpoint to use.
    pub fn find(&self) -> anyhow::Result<Found> {
        self.find_from(home())
    }

    pub(super) fn find_from(&self, home: PathBuf) -> anyhow::Result<Found> {
        let (url, pid) = match &self.target {
            Some(url) => (url.clone(), None),
            None => {
                let cluster = find_in(&home)?;
                (cluster.grpc, Some(cluster.pid))
            }
        };
        Ok(Found { url: normal(&url)?, pid, home, tls: self.tls.clone() })
    }
}

impl Found {
    /// The newest cut that a command has seen of this cluster; 0 if none has.
    pub fn last_cut(&self) -> u64 {
        let last = read(&self.home.join(LAST_CUT)).ok();
        let last = last.and_then(|text| serde_json::from_str::<LastCut>(&text).ok());
        last.filter(|last| last.grpc == self.url).map_or(0, |last| last.cut)
    }

    /// Remembers a cut if it is the newest one. A command that has done its work does not fail
    /// because this cannot be written.
    pub fn saw_cut(&self, cut: u64) {
        if cut <= self.last_cut() {
            return;
        }
        let last = LastCut { grpc: self.url.clone(), cut };
        let path = self.home.join(LAST_CUT);
        if let Err(error) = write_json(&path, &last) {
            eprintln!("warning: {error:#}; the next command may read older state");
        }
    }

    /// The cluster does not know the cut: it was started afresh.
    pub fn forget_cut(&self) {
        // If it stays, the next command finds out again.
        let _ = fs::remove_file(self.home.join(LAST_CUT));
    }
}

fn home() -> PathBuf {
    home_of(env::var_os("ATOLL_HOME"), env::var_os("HOME"), env::temp_dir())
}

pub(super) fn home_of(
    own: Option<OsString>,
    home: Option<OsString>,
    temporary: PathBuf,
) -> PathBuf {
    let set = |value: Option<OsString>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    match (set(own), set(home)) {
        (Some(own), _) => own,
        (None, Some(home)) => home.join(".atoll"),
        (None, None) => temporary.join("atoll"),
    }
}

pub(super) fn write_in(home: &Path, cluster: &ClusterFile) -> anyhow::Result<()> {
    let _ = fs::remove_file(home.join(LAST_CUT));
    write_json(&home.join(CLUSTER), cluster)
}

pub(super) fn remove_in(home: &Path, pid: u32) {
    if find_in(home).is_ok_and(|cluster| cluster.pid == pid) {
        let _ = fs::remove_file(home.join(CLUSTER));
        let _ = fs::remove_file(home.join(LAST_CUT));
    }
}

pub(super) fn find_in(home: &Path) -> anyhow::Result<ClusterFile> {
    let path = home.join(CLUSTER);
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("no cluster is running here: start one with `atoll up`, or give --target")
        }
        Err(error) => {
            return Err(error).with_context(|| {
                format!("cannot read {}: make it readable, or give --target", path.display())
            });
        }
    };
    serde_json::from_str(&text).with_context(|| {
        format!(
            "{} does not say where a cluster is: remove it and start `atoll up` again, or give \
             --target",
            path.display()
        )
    })
}

fn read(path: &Path) -> std::io::Result<String> {
    let size = fs::metadata(path)?.len();
    if size > FILE_BYTES {
        return Err(std::io::Error::other(format!("{size} bytes, the limit is {FILE_BYTES}")));
    }
    fs::read_to_string(path)
}

/// Whoever reads the file at the same time sees all of it or what was there before.
fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value)?;
    let new = path.with_extension(format!("{}.new", process::id()));
    let written = path.parent().map_or(Ok(()), fs::create_dir_all);
    let written = written.and_then(|()| fs::write(&new, text + "\n"));
    let written = written.and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// With scheme, without a slash at its end.
fn normal(url: &str) -> anyhow::Result<String> {
    let (scheme, rest) = url.trim().split_once("://").unwrap_or(("http", url.trim()));
    let rest = rest.trim_end_matches('/');
    match scheme {
        "http" | "https" if !rest.is_empty() => Ok(format!("{scheme}://{rest}")),
        _ => bail!("`{url}` is not an endpoint such as http://127.0.0.1:50051"),
    }
}
