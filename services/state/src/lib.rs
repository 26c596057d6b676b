//! `state`: the one writer of a shard.

mod actor;
mod changes;
mod core;
mod events;
pub mod grpc;
mod history;
mod metrics;
mod quarantine;
mod record;
mod roots;
mod rounds;
mod snapshot;
mod traced;
mod values;
mod view;

pub use self::actor::StateService;
pub use self::core::{Core, CoreConfig, GenesisAccount, OpenError, Rest, genesis_of};
pub use atoll_journal::SnapshotConfig;

pub use self::record::Record;
pub use self::roots::{NewScratch, RootError, TreeConfig};
pub use self::rounds::is_past;
pub use self::values::entry_balance;
