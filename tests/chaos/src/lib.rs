//! Breaks a cluster of real processes on purpose, and checks what its clients saw.
//!
//! - [`history`]: what clients saw; [`check`]: whether it can have happened; [`mutate`]: histories that
//!   cannot have;
//! - [`stage`]: contracts and accounts; [`client`]: who uses them and writes the history;
//! - [`faults`]: what is done to the cluster, with [`proxy`] (links), [`veth`] (networks) and
//!   [`volume`] (disks);
//! - [`run`]: all of it.

pub mod check;
pub mod client;
mod ending;
pub mod faults;
pub mod history;
pub mod mutate;
pub mod proxy;
pub mod run;
pub mod stage;
pub mod veth;
pub mod volume;
