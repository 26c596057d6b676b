//! What tests of whole clusters share.
//!
//! - [`here`], [`apart`]: a cluster in this process, and a shard of it that can be stopped alone;
//! - [`processes`], [`audit`]: a cluster of processes of their own, and what it leaves on disk;
//! - [`api`]: a client of the public API, which waits with a deadline;
//! - [`wallet`]: keys and signed transactions;
//! - [`contracts`]: the contracts of `contracts/artifacts`;
//! - [`program`]: random programs of transactions, and who carries them out;
//! - [`check`]: all of what follows, in one go;
//! - [`history`], [`order`], [`replay`], [`compare`]: what a cluster has recorded, the serial order
//!   that follows from it, one machine with plain revm that runs this order, and the two final
//!   states side by side.

pub mod apart;
pub mod api;
pub mod audit;
pub mod check;
pub mod compare;
pub mod contracts;
pub mod here;
pub mod history;
pub mod order;
pub mod processes;
pub mod program;
pub mod replay;
pub mod rpc;
pub mod wallet;

use std::time::Duration;

/// How long a test waits for anything before it fails. Machines that run tests are busy.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Chain id of the clusters that tests start.
pub const CHAIN_ID: u64 = 31_337;

/// Shows what the cluster logs, as far as `RUST_LOG` asks for it.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    // Another test of the same process may have been first.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).try_init();
}
