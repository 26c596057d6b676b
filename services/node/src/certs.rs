//! `atoll certs`: an authority for development, and certificates of it for the processes of a cluster.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use atoll_fabric::tls::{Identity, Role};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::{config::Config, place::now_ms, secure::roles};

const AUTHORITY: &str = "authority";
/// Of clocks that are behind.
const EARLIER: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Makes certificates for the processes of a cluster, signed by an authority of its own: for
/// development and tests. Run again, it makes new certificates of the same authority, which running
/// processes pick up.
#[derive(Clone, Debug, clap::Args)]
pub struct CertsArgs {
    /// Where to put them: authority.pem, and NAME.pem and NAME.key for each process
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Configuration files of processes, each of which gets a certificate with its roles and the name
    /// of its file, besides operator.pem for operators
    #[arg(value_name = "CONFIG", required_unless_present = "identity")]
    pub configs: Vec<PathBuf>,
    /// More certificates, each by its identity: spiffe://atoll/CHAIN_ID/ROLE/NAME, where ROLE is beacon,
    /// shard/N, gateway or operator
    #[arg(long, value_name = "URI")]
    pub identity: Vec<String>,
    /// Hosts that clients reach the gateway by, besides localhost
    #[arg(long, value_name = "NAME_OR_IP")]
    pub host: Vec<String>,
    /// Days for which the certificates are valid; the authority is for ten years
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
}

/// Makes them, and says what was made.
pub fn certs(args: &CertsArgs) -> anyhow::Result<()> {
    let mut wanted: Vec<(String, Vec<Identity>)> = Vec::new();
    for path in &args.configs {
        let config = Config::load(path, std::env::vars(), &[])?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        wanted.push((name.clone(), identities(&config, &name)?));
    }
    for uri in &args.identity {
        let identity = Identity::parse(uri)
            .with_context(|| format!("{uri} is not spiffe://atoll/CHAIN_ID/ROLE/NAME"))?;
        wanted.push((identity.name.clone(), vec![identity]));
    }
    let chain_id = wanted.first().and_then(|(_, ids)| ids.first()).map(|id| id.chain_id);
    let chain_id = chain_id.context("nothing stands in the first configuration")?;
    if !args.configs.is_empty() {
        let operator = Identity { chain_id, role: Role::Operator, name: "operator".into() };
        wanted.push(("operator".into(), vec![operator]));
    }
    ensure!(
        wanted.iter().flat_map(|(_, ids)| ids).all(|id| id.chain_id == chain_id),
        "the configurations are of several chains"
    );
    let mut names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    names.push(AUTHORITY);
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("two certificates would be called {}", pair[0]);
    }
    let authority = Authority::open(&args.out, chain_id)?;
    for (name, identities) in &wanted {
        authority.issue(name, identities, &args.host, EARLIER + DAY * args.days)?;
        let identities: Vec<_> = identities.iter().map(Identity::to_string).collect();
        println!("{}  {}", args.out.join(format!("{name}.pem")).display(), identities.join(" "));
    }
    println!("signed by {}", args.out.join("authority.pem").display());
    Ok(())
}

/// One for each role that stands there.
fn identities(config: &Config, name: &str) -> anyhow::Result<Vec<Identity>> {
    let of = |role| {
        let identity = Identity { chain_id: config.chain.chain_id, role, name: name.to_owned() };
        let readable = Identity::parse(&identity.to_string()).is_some();
        ensure!(readable, "{name} cannot be a name: use letters, digits, `-`, `_` and `.`");
        Ok(identity)
    };
    roles(config).into_iter().map(of).collect()
}

/// Signs certificates. Its name and key are all it needs.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// That of a directory; a new one if there is none.
    pub fn open(dir: &Path, chain_id: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let (certificate, key) = (dir.join("authority.pem"), dir.join("authority.key"));
        let mut params = CertificateParams::default();
        params.distinguished_name =
            named(&format!("Atoll development authority, chain {chain_id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = match fs::read_to_string(&key) {
            Ok(pem) => {
                let pair = KeyPair::from_pem(&pem);
                pair.with_context(|| format!("{} is no private key", key.display()))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                ensure!(!certificate.exists(), "{} has no key", certificate.display());
                let pair = KeyPair::generate()?;
                valid_for(&mut params, DAY * 3650);
                write(&key, &pair.serialize_pem(), 0o600)?;
                write(&certificate, &params.self_signed(&pair)?.pem(), 0o644)?;
                pair
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", key.display()));
            }
        };
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// Makes `name.pem` and `name.key`, valid from an hour ago for so long.
    pub fn issue(
        &self,
        name: &str,
        identities: &[Identity],
        hosts: &[String],
        valid: Duration,
    ) -> anyhow::Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, valid);
        for identity in identities {
            params.subject_alt_names.push(SanType::URI(identity.to_string().try_into()?));
        }
        let usual = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        for host in usual.iter().chain(hosts) {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(host.as_str().try_into()?),
            });
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        // A process that looks in between keeps what it has until both are there.
        write(&self.dir.join(format!("{name}.key")), &key.serialize_pem(), 0o600)?;
        write(&self.dir.join(format!("{name}.pem")), &certificate.pem(), 0o644)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}

fn valid_for(params: &mut CertificateParams, valid: Duration) {
    let now = Duration::from_millis(now_ms());
    let begin = date_time_ymd(1970, 1, 1) + now.saturating_sub(EARLIER);
    params.not_before = begin;
    params.not_after = begin + valid;
}

/// Wholly or not at all; a key is never readable for others.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let written = (|| {
        // What a run before this one may have left.
        if let Err(error) = fs::remove_file(&new)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    written.with_context(|| format!("cannot write {}", path.display()))
}
