//! `state`: the one writer of a shard.

mod actor;
mod changes;
mod core;
mod events;
pub mod grpc;
mod history;
mod record;
mod values;

pub use self::actor::StateService;
pub use self::core::{Core, CoreConfig, GenesisAccount, OpenError};
pub use self::record::Record;
