//! The loads that figures are made of.

use std::collections::{BTreeMap, BTreeSet};

use atoll_load::Workload;

use super::measure::Measured;

/// Share of crossing swaps, in percent, that makes each of eight shards trade alike.
const EIGHT_ALIKE: f64 = 87.5;
/// Accounts that `e2e.state` and `e2e.memory` compare with.
pub const FEW_ACCOUNTS: u32 = 10_000;

/// One load on a cluster of its own. A turn measures those that it needs in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    Erc20,
    Erc20Half,
    Erc20All,
    Erc20Calm,
    Transfer,
    TransferHalf,
    OneShard,
    SixteenShards,
    Overload,
    AmmHome,
    AmmAway,
    FewAccounts,
    ManyAccounts,
}

/// How fast a load sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As much as becomes final.
    Full,
    /// So many times what became final with another load, whatever becomes of it.
    Of(Load, f64),
}

/// Accounts that are there from the beginning, and are paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payees {
    /// Those that send pay one another.
    None,
    Few,
    /// `--state-accounts`.
    Many,
}

/// What a load is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub name: &'static str,
    pub workload: Workload,
    /// Share that crosses shards, in percent.
    pub cross: f64,
    /// `None`: `--shards`.
    pub shards: Option<u16>,
    pub pace: Pace,
    pub payees: Payees,
}

impl Plan {
    const fn full(name: &'static str, workload: Workload, cross: f64) -> Self {
        Self { name, workload, cross, shards: None, pace: Pace::Full, payees: Payees::None }
    }

    const fn on(self, shards: u16) -> Self {
        Self { shards: Some(shards), ..self }
    }

    const fn at(self, of: Load, times: f64) -> Self {
        Self { pace: Pace::Of(of, times), ..self }
    }

    const fn paying(self, payees: Payees) -> Self {
        Self { payees, ..self }
    }
}

impl Load {
    pub const fn plan(self) -> Plan {
        use Workload::{Amm, Erc20, Transfer};
        match self {
            Self::Erc20 => Plan::full("erc20 0 %", Erc20, 0.0),
            Self::Erc20Half => Plan::full("erc20 50 %", Erc20, 50.0),
            Self::Erc20All => Plan::full("erc20 100 %", Erc20, 100.0),
            Self::Erc20Calm => {
                Plan::full("erc20 50 %, half load", Erc20, 50.0).at(Self::Erc20Half, 0.5)
            }
            Self::Transfer => Plan::full("transfer 0 %", Transfer, 0.0),
            Self::TransferHalf => Plan::full("transfer 50 %", Transfer, 50.0),
            Self::OneShard => Plan::full("transfer, half load, 1 shard", Transfer, 0.0)
                .on(1)
                .at(Self::Transfer, 0.5),
            Self::SixteenShards => Plan::full("transfer, half load, 16 shards", Transfer, 0.0)
                .on(16)
                .at(Self::Transfer, 0.5),
            Self::Overload => {
                Plan::full("transfer, 5 x load", Transfer, 0.0).at(Self::Transfer, 5.0)
            }
            Self::AmmHome => Plan::full("amm at home", Amm, 0.0).on(8),
            Self::AmmAway => Plan::full("amm from 8 shards", Amm, EIGHT_ALIKE).on(8),
            Self::FewAccounts => {
                Plan::full("transfer to 10,000 accounts", Transfer, 0.0).paying(Payees::Few)
            }
            Self::ManyAccounts => {
                Plan::full("transfer to --state-accounts", Transfer, 0.0).paying(Payees::Many)
            }
        }
    }

    /// Adds this load, and that which its pace follows from.
    pub fn needed(self, all: &mut BTreeSet<Self>) {
        if let Pace::Of(other, _) = self.plan().pace {
            other.needed(all);
        }
        all.insert(self);
    }
}

/// One measurement of each load.
#[derive(Clone, Debug, Default)]
pub struct Turn(pub BTreeMap<Load, Measured>);

impl Turn {
    /// What a load gave, if it was measured.
    pub fn of(&self, load: Load) -> Option<&Measured> {
        self.0.get(&load)
    }

    /// One value of a load over that of another one.
    pub fn ratio(&self, over: Load, under: Load, value: fn(&Measured) -> f64) -> Option<f64> {
        Some(value(self.of(over)?) / value(self.of(under)?))
    }
}
