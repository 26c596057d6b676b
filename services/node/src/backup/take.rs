//! `atoll backup`: writes what a running cluster streams.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use atoll_store::{StoreError, read_snapshot};
use atoll_types::B256;
use atoll_wire::v1::{
    BackupRequest, admin_service_client::AdminServiceClient, backup_response::Item,
};
use tonic::transport::Endpoint;

use super::{FORMAT, File, MANIFEST, Manifest, is_empty, names, path_of};
use crate::{cli::target, config::Chain, listen::MAX_MESSAGE_BYTES, secure::MemberArgs};

/// Takes a backup of a running cluster: all shards and the beacon, at one cut.
#[derive(Clone, Debug, clap::Args)]
pub struct BackupArgs {
    /// Where to put it: a directory that is not there, or empty
    pub out: PathBuf,
    /// Where a process of the cluster serves operators ([admin] of its configuration) [default: that
    /// of the cluster that `atoll up` runs here]
    #[arg(long, env = "ATOLL_ADMIN", value_name = "URL")]
    pub admin: Option<String>,
    #[command(flatten)]
    pub tls: MemberArgs,
}

/// Takes a backup. It is whole when this returns.
pub async fn backup(args: BackupArgs) -> anyhow::Result<()> {
    let out = &args.out;
    ensure!(is_empty(out)?, "{} is not empty; give another directory", out.display());
    let url = match &args.admin {
        Some(url) => url.clone(),
        None => {
            let more = target::find()?.more;
            let url = more.get("admin").and_then(|url| url.as_str());
            url.context("the cluster here does not say where operators reach it; give --admin")?
                .to_owned()
        }
    };
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let manifest = receive(&url, &args.tls, out).await?;
    for file in &manifest.files {
        check_file(out, file)?;
    }
    let path = out.join(MANIFEST);
    write_file(&path, &serde_json::to_vec_pretty(&manifest)?)?;
    fs::File::open(out).and_then(|dir| dir.sync_all())?;
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    println!(
        "backup of {} shards at cut {} in {}, {bytes} bytes",
        manifest.chain.shards,
        manifest.cut,
        out.display()
    );
    Ok(())
}

async fn receive(url: &str, tls: &MemberArgs, out: &Path) -> anyhow::Result<Manifest> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("{url} is no URL; use http://host:port"))?;
    let channel = tls.connect(url, &endpoint).await;
    let channel = channel.with_context(|| format!("cannot reach {url}"))?;
    let mut client = AdminServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut stream = client.backup(BackupRequest {}).await?.into_inner();
    let mut begun: Option<(u64, Chain)> = None;
    let mut files: Vec<File> = Vec::new();
    let mut open: Option<fs::File> = None;
    while let Some(response) = stream.message().await? {
        match response.item.context("a message without content")? {
            Item::Begin(begin) => {
                let chain =
                    serde_json::from_str(&begin.chain).context("what the chain began with")?;
                begun = Some((begin.cut, chain));
            }
            Item::File(file) => {
                close(open.take())?;
                let (_, chain) = begun.as_ref().context("a file before the beginning")?;
                // Names of files are not taken from the network.
                let expected = names(chain).nth(files.len());
                if expected.as_ref() != Some(&file.name) {
                    bail!("file {} is not the one expected", file.name);
                }
                let path = path_of(out, &file.name);
                let created = fs::File::create(&path);
                open = Some(created.with_context(|| format!("cannot write {}", path.display()))?);
                let digest = B256::try_from(&file.digest[..]).context("digest")?;
                let (number, bytes) = (file.number, file.bytes);
                files.push(File { name: file.name, number, bytes, digest });
            }
            Item::Piece(piece) => {
                let file = open.as_mut().context("bytes before a file")?;
                file.write_all(&piece).context("cannot write the backup")?;
            }
        }
    }
    close(open)?;
    let (cut, chain) = begun.context("the stream has ended before it began")?;
    ensure!(files.len() == names(&chain).count(), "the stream has ended early");
    Ok(Manifest { format: FORMAT, cut, chain, files })
}

fn close(file: Option<fs::File>) -> anyhow::Result<()> {
    file.map_or(Ok(()), |file| file.sync_all()).context("cannot write the backup")
}

fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    Ok(())
}

/// Reads a file of a backup through: it has to be what the manifest says.
pub(super) fn check_file(dir: &Path, file: &File) -> anyhow::Result<()> {
    let path = path_of(dir, &file.name);
    let summary = read_snapshot(&path, &mut |_| Ok::<_, StoreError>(()))?;
    let found = (summary.number, summary.bytes, B256::new(summary.digest));
    let said = (file.number, file.bytes, file.digest);
    ensure!(found == said, "{} is not the file that {MANIFEST} lists", path.display());
    Ok(())
}
