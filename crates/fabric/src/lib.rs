//! Puts a service in the caller's process or behind gRPC, and lets neither side know which.
//!
//! A request is an [`Rpc`]; a caller holds a [`Link`]; a service is an actor that implements
//! [`Handle`] for each request. [`Local`] is the mailbox of an actor in this process, [`Remote`] a
//! gRPC channel to [`serve`] in another one. Both admit a bounded number of calls, keep deadlines
//! and give the same errors.
//!
//! Nothing here opens a port. Threads are started by [`Place::new`] and, for simulated jobs that wait,
//! by [`Machine`].

mod beat;
mod call;
mod door;
mod error;
mod local;
mod machine;
mod metered;
mod remote;
mod reply;
mod serve;
mod service;
pub mod tls;
pub mod watch;
mod work;

pub use beat::Beat;
pub use call::{Call, Context, Link, Rpc};
pub use door::{Door, Guest, Visit};
pub use error::{Fault, Malformed, RpcError};
pub use local::{Cx, Local, Place, Turns};
pub use machine::{Machine, Panicked, Running, Simulated, Waits};
pub use metered::{Meter, Metered, Traffic};
pub use remote::{MAX_MESSAGE_BYTES, Remote};
pub use reply::Reply;
pub use serve::{serve, status_of};
pub use service::{Handle, Service};
