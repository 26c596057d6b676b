//! `atoll`: the one binary.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use atoll::{
    backup::{BackupArgs, RestoreArgs, backup, restore},
    bench::{BenchArgs, bench},
    certs::{CertsArgs, certs},
    check::{CheckArgs, check},
    cli::target,
    cluster::Cluster,
    config::{Config, ConfigCommand},
    telemetry::Telemetry,
    up::{UpArgs, banner},
};
use clap::{CommandFactory as _, Parser, Subcommand};

/// What one thread takes another gives back here, all the time: docs/decisions/0032.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A cluster that runs Ethereum contracts on many shards and behaves as one chain.
#[derive(Parser)]
#[command(name = "atoll", version = env!("ATOLL_VERSION"), about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a whole cluster in this process, for development
    Up(UpArgs),
    /// Run some roles of a cluster, as a configuration file says
    Node(NodeArgs),
    /// Put load on a running cluster and measure it
    Load(Box<atoll_load::LoadArgs>),
    /// Measure clusters that it starts, each figure against its baseline
    Bench(BenchArgs),
    /// Take a backup of a running cluster, at one cut
    Backup(BackupArgs),
    /// Make a data directory from a backup
    Restore(RestoreArgs),
    /// Make an authority and certificates for the processes of a cluster, for development
    Certs(CertsArgs),
    /// Say whether the data directory of a stopped process is whole
    Check(CheckArgs),
    /// Say what can be configured, and whether a file is right
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(flatten)]
    Client(Box<atoll::cli::Command>),
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Write manual pages, one for each command
    Man {
        /// Directory that is there
        out: PathBuf,
    },
}

#[derive(clap::Args)]
struct NodeArgs {
    /// TOML file
    #[arg(long)]
    config: PathBuf,
    /// Overrides a key of the file: --set chain.shards=4
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => up(args).await,
        Command::Node(args) => node(args).await,
        Command::Load(args) => load(*args).await,
        Command::Bench(args) => bench(args, asked_to_stop()).await,
        Command::Backup(args) => backup(args).await,
        Command::Restore(args) => restore(&args),
        Command::Certs(args) => certs(&args),
        Command::Check(args) => check(&args),
        Command::Config(command) => command.run(),
        Command::Client(command) => command.run().await,
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "atoll", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { out } => clap_mangen::generate_to(Arguments::command(), &out)
            .with_context(|| format!("cannot write manual pages to {}", out.display())),
    }
}

async fn up(args: UpArgs) -> anyhow::Result<()> {
    let config = args.config()?;
    let mut telemetry = Telemetry::install("warn", &config)?;
    let mut cluster = Cluster::start(&config).await?;
    telemetry.export(cluster.gatherer(&config));
    cluster.tell_readiness(&config);
    announce(&cluster, &config)?;
    println!("{}", banner(&cluster, &config)?);
    asked_to_stop().await?;
    eprintln!("stopping");
    target::remove();
    cluster.stop().await;
    telemetry.stop().await;
    Ok(())
}

/// Lets the other commands find the cluster.
fn announce(cluster: &Cluster, config: &Config) -> anyhow::Result<()> {
    let mut address = cluster.gateway.context("the public API does not stand here")?;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    target::write(&target::ClusterFile {
        grpc: format!("http://{address}"),
        chain_id: config.chain.chain_id,
        pid: std::process::id(),
        more: cluster
            .admin
            .map(|admin| ("admin".to_owned(), format!("http://{admin}").into()))
            .into_iter()
            .collect(),
    })
}

async fn node(args: NodeArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config, std::env::vars(), &args.settings)?;
    let mut telemetry = Telemetry::install("info", &config)?;
    let mut cluster = Cluster::start(&config).await?;
    telemetry.export(cluster.gatherer(&config));
    cluster.tell_readiness(&config);
    tracing::info!(config = %args.config.display(), "started");
    asked_to_stop().await?;
    tracing::info!("stopping");
    cluster.stop().await;
    telemetry.stop().await;
    Ok(())
}

async fn load(args: atoll_load::LoadArgs) -> anyhow::Result<()> {
    atoll_load::run(args, asked_to_stop()).await?.print()
}

/// Ctrl-C or SIGTERM.
async fn asked_to_stop() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}
