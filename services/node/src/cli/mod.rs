//! Commands that use a running cluster through its public API, `atoll.v1.LedgerService`, and
//! `statetest`, which needs none.
//!
//! Each file holds one command: what it can be told (`…Args`), `run`, and a report that is shown as
//! aligned text or, with `--json`, as one JSON object.

mod abi;
mod amount;
mod artefact;
mod client;
mod estimate;
mod key;
mod parse;
mod show;

pub mod account;
pub mod call;
pub mod cluster;
pub mod proof;
pub mod receipt;
pub mod statetest;
pub mod stats;
pub mod target;
pub mod tx;

#[cfg(test)]
mod tests;

use clap::Subcommand;

pub use target::Target;

// A command that uses a running cluster. No doc comment: clap would show it as what `atoll` is.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Signs and sends a transaction, and follows it until it is final
    Tx {
        #[command(subcommand)]
        command: tx::TxCommand,
        #[command(flatten)]
        target: Target,
    },
    /// Shows an account; without an address, the ten development accounts
    Account {
        #[command(flatten)]
        args: account::AccountArgs,
        #[command(flatten)]
        target: Target,
    },
    /// Runs a call without sending a transaction, and decodes what it returns
    Call {
        #[command(flatten)]
        args: call::CallArgs,
        #[command(flatten)]
        target: Target,
    },
    /// Shows what an account held at a settled cut, by proofs that are verified here
    Proof {
        #[command(flatten)]
        args: proof::ProofArgs,
        #[command(flatten)]
        target: Target,
    },
    /// Shows what became of a transaction
    Receipt {
        #[command(flatten)]
        args: receipt::ReceiptArgs,
        #[command(flatten)]
        target: Target,
    },
    /// Shows shards, cuts and the beacon, and which shards own addresses
    Cluster {
        #[command(flatten)]
        args: cluster::ClusterArgs,
        #[command(flatten)]
        target: Target,
    },
    /// Runs Ethereum's state tests through this executor, on one shard or across many
    Statetest(statetest::StatetestArgs),
    /// Shows what shards and beacon have counted since they were started
    Stats {
        #[command(flatten)]
        args: stats::StatsArgs,
        #[command(flatten)]
        target: Target,
    },
}

impl Command {
    /// Carries the command out. Results go to standard output.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Tx { command, target } => tx::run(command, target).await,
            Self::Account { args, target } => account::run(args, target).await,
            Self::Call { args, target } => call::run(args, target).await,
            Self::Proof { args, target } => proof::run(args, target).await,
            Self::Receipt { args, target } => receipt::run(args, target).await,
            Self::Cluster { args, target } => cluster::run(args, target).await,
            Self::Statetest(args) => statetest::run(&args),
            Self::Stats { args, target } => stats::run(args, target).await,
        }
    }
}
