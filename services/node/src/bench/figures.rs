//! Every figure: what it is, what it includes, its target, and how it follows from the loads of one
//! turn.

use std::collections::BTreeSet;

use anyhow::bail;

use super::loads::{Load, Turn};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Told, not judged.
    None,
}

impl Target {
    /// Whether a value meets it; `None` if there is nothing to meet.
    pub fn met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
            Self::None => None,
        }
    }
}

/// One figure.
pub struct Figure {
    pub id: &'static str,
    pub what: &'static str,
    /// What is counted, and what is not.
    pub includes: &'static str,
    pub target: Target,
    pub loads: &'static [Load],
    /// From the loads of one turn; `None` if one is missing.
    pub value: fn(&Turn) -> Option<f64>,
}

const CLUSTER_CPU: &str = "user and system time of the cluster's process, from the first transaction \
    of the load until all are final, for each that succeeded; not the generator's, not setup";
const OVER_RECOVERY: &str = "user and system time of the cluster's process, from the gRPC stream to \
    the synced log and the final receipt, for each transaction that succeeded; over that of one \
    recovery by libsecp256k1 on one thread, mean of before and after the load; not the generator's, \
    not setup";
const EXECUTOR_CPU: &str = "time of threads that run local blocks and groups, by their own clocks";
const LATENCY: &str = "from when a transaction was due to its receipt at the client";
const ORDERED: &str = "for each transaction that the beacon ordered, by the cluster's own counters; \
    the writing and syncing of its log included; not what its gRPC server takes on other threads";
const STATE: &str = "payments to all of these accounts alike, which are there from the genesis; user \
    and system time of the cluster's process for each that succeeded; not starting";
const MEMORY: &str = "resident memory of the cluster's process after the load, caches, the genesis \
    and log buffers included; not the kernel's page cache";

/// All figures.
pub const FIGURES: &[Figure] = &[
    Figure {
        id: "e2e.cpu",
        what: "CPU of a local transfer / of one signature recovery",
        includes: OVER_RECOVERY,
        target: Target::AtMost(1.6),
        loads: &[Load::Transfer],
        value: |turn| turn.of(Load::Transfer).map(|load| load.cpu_us / load.recovery_us),
    },
    Figure {
        id: "e2e.erc20",
        what: "CPU of a local ERC-20 transfer / of one signature recovery",
        includes: OVER_RECOVERY,
        target: Target::AtMost(1.9),
        loads: &[Load::Erc20],
        value: |turn| turn.of(Load::Erc20).map(|load| load.cpu_us / load.recovery_us),
    },
    Figure {
        id: "e2e.tps",
        what: "local transfers a second",
        includes: "final ones that succeeded; the generator runs on the same cores",
        target: Target::AtLeast(15_000.0),
        loads: &[Load::Transfer],
        value: |turn| turn.of(Load::Transfer).map(|load| load.tps),
    },
    Figure {
        id: "e2e.shards",
        what: "CPU of a transfer on 16 shards / on one, same load",
        includes: CLUSTER_CPU,
        target: Target::AtMost(1.15),
        loads: &[Load::OneShard, Load::SixteenShards],
        value: |turn| turn.ratio(Load::SixteenShards, Load::OneShard, |load| load.cpu_us),
    },
    Figure {
        id: "e2e.overload",
        what: "transfers executed a second at 5 x the peak's load / at the peak",
        includes: "executed within the measured time; accounts that are refused pause before they \
            try again, and every refusal is counted",
        target: Target::AtLeast(0.9),
        loads: &[Load::Transfer, Load::Overload],
        value: |turn| turn.ratio(Load::Overload, Load::Transfer, |load| load.executed_tps),
    },
    Figure {
        id: "e2e.state",
        what: "CPU of a transfer with --state-accounts accounts / with 10,000",
        includes: STATE,
        target: Target::AtMost(1.5),
        loads: &[Load::FewAccounts, Load::ManyAccounts],
        value: |turn| turn.ratio(Load::ManyAccounts, Load::FewAccounts, |load| load.cpu_us),
    },
    Figure {
        id: "e2e.memory",
        what: "resident MB for each million accounts",
        includes: MEMORY,
        target: Target::None,
        loads: &[Load::FewAccounts, Load::ManyAccounts],
        value: |turn| {
            let (few, many) = (turn.of(Load::FewAccounts)?, turn.of(Load::ManyAccounts)?);
            // Bytes for each are megabytes for a million.
            Some((many.resident - few.resident) / (many.payees - few.payees))
        },
    },
    Figure {
        id: "e2e.memory.peak",
        what: "most MB ever resident with --state-accounts accounts",
        includes: "the cluster's process from its start, reading the genesis included",
        target: Target::None,
        loads: &[Load::ManyAccounts],
        value: |turn| turn.of(Load::ManyAccounts).map(|load| load.peak / 1e6),
    },
    Figure {
        id: "cross.cpu",
        what: "CPU of a crossing ERC-20 transfer / of a local one",
        includes: CLUSTER_CPU,
        target: Target::AtMost(2.0),
        loads: &[Load::Erc20, Load::Erc20All],
        value: |turn| turn.ratio(Load::Erc20All, Load::Erc20, |load| load.cpu_us),
    },
    Figure {
        id: "cross.tps.erc20",
        what: "ERC-20 transfers a second, 50 % crossing / none",
        includes: "final ones that succeeded; the generator runs on the same cores",
        target: Target::AtLeast(0.6),
        loads: &[Load::Erc20, Load::Erc20Half],
        value: |turn| turn.ratio(Load::Erc20Half, Load::Erc20, |load| load.tps),
    },
    Figure {
        id: "cross.tps.transfers",
        what: "payments a second, 50 % crossing / none",
        includes: "final ones that succeeded; the generator runs on the same cores",
        target: Target::AtLeast(0.6),
        loads: &[Load::Transfer, Load::TransferHalf],
        value: |turn| turn.ratio(Load::TransferHalf, Load::Transfer, |load| load.tps),
    },
    Figure {
        id: "cross.hot",
        what: "swaps on one pool for each second of executor threads, from 8 shards / at home",
        includes: EXECUTOR_CPU,
        target: Target::AtLeast(0.7),
        loads: &[Load::AmmHome, Load::AmmAway],
        // The other way round: fewer µs are more swaps.
        value: |turn| turn.ratio(Load::AmmHome, Load::AmmAway, |load| load.run_us),
    },
    Figure {
        id: "cross.predict",
        what: "prediction besides, µs a swap",
        includes: "time of threads that predict, by their own clocks",
        target: Target::None,
        loads: &[Load::AmmAway],
        value: |turn| turn.of(Load::AmmAway).map(|load| load.predict_us),
    },
    Figure {
        id: "cross.latency.executed",
        what: "half load: local executed p50, ms",
        includes: LATENCY,
        target: Target::AtMost(10.0),
        loads: &[Load::Erc20Calm],
        value: |turn| turn.of(Load::Erc20Calm).map(|load| load.executed_p50),
    },
    Figure {
        id: "cross.latency.final",
        what: "half load: crossing final p50, ms",
        includes: LATENCY,
        target: Target::AtMost(100.0),
        loads: &[Load::Erc20Calm],
        value: |turn| turn.of(Load::Erc20Calm).map(|load| load.cross_p50),
    },
    Figure {
        id: "cross.latency.p99",
        what: "half load: crossing final p99, ms",
        includes: LATENCY,
        target: Target::AtMost(250.0),
        loads: &[Load::Erc20Calm],
        value: |turn| turn.of(Load::Erc20Calm).map(|load| load.cross_p99),
    },
    Figure {
        id: "beacon.cpu",
        what: "beacon CPU, µs a transaction ordered",
        includes: ORDERED,
        target: Target::AtMost(3.0),
        loads: &[Load::Erc20Half],
        value: |turn| turn.of(Load::Erc20Half).map(|load| load.beacon_us),
    },
    Figure {
        id: "beacon.bytes",
        what: "bytes into the beacon, a transaction ordered",
        includes: ORDERED,
        target: Target::AtMost(200.0),
        loads: &[Load::Erc20Half],
        value: |turn| turn.of(Load::Erc20Half).map(|load| load.beacon_bytes),
    },
];

/// The figures with these ids, or whose ids begin with these names; all if none is given.
pub fn select(names: &[String]) -> anyhow::Result<Vec<&'static Figure>> {
    let is = |id: &str, name: &str| {
        id.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    for name in names {
        if is(name, "exec") {
            bail!(
                "{name}: `cargo bench -p atoll-evm` measures exec.*, of one block without services"
            );
        }
        if !FIGURES.iter().any(|figure| is(figure.id, name)) {
            let ids: Vec<_> = FIGURES.iter().map(|figure| figure.id).collect();
            bail!("there is no figure {name:?}: use one of {}, or how they begin", ids.join(", "));
        }
    }
    let wanted = |id| names.is_empty() || names.iter().any(|name| is(id, name));
    Ok(FIGURES.iter().filter(|figure| wanted(figure.id)).collect())
}

/// The loads of some figures, in the order in which a turn measures them.
pub fn loads_of(figures: &[&Figure]) -> BTreeSet<Load> {
    let mut all = BTreeSet::new();
    for load in figures.iter().flat_map(|figure| figure.loads) {
        load.needed(&mut all);
    }
    all
}
