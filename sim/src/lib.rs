//! The real services - beacon, states, routers, executors, mempools, gateway - on machines that are
//! simulated: time is virtual, the network is turmoil's, jobs are done one at a time, disks lose what
//! was not synced. A run is a function of its seed.
//!
//! [`run::run`] carries out one: clients send transactions while processes are killed, machines lose
//! their power, links break, disks fill up and clocks jump; then all is healed, and everything that was
//! ever acknowledged is asked for again. [`machine`] is what a process finds around itself, [`faults`]
//! what breaks, [`client`] what clients do and what they check.

mod audit;
pub mod client;
pub mod disk;
pub mod driver;
pub mod faults;
pub mod frames;
pub mod layout;
pub mod machine;
pub mod net;
mod oracle;
pub mod planted;
pub mod run;
pub mod trace;
pub mod traffic;
