//! Bugs on purpose, which the simulation has to find.

use std::{fmt, str::FromStr};

/// A bug that is put into a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Logs are not synced, and disks say that they are.
    NoSync,
    /// What was appended is acknowledged, and written to the log a while later.
    LateLog,
    /// Snapshots are renamed without having been synced.
    RawSnapshot,
    /// One of the state machines of the protocol has it.
    #[cfg(feature = "planted")]
    Protocol(atoll_commit::Planted),
}

impl Planted {
    /// Every bug that this build has room for.
    pub fn all() -> Vec<Self> {
        #[cfg(feature = "planted")]
        let protocol = atoll_commit::Planted::ALL.map(Self::Protocol);
        #[cfg(not(feature = "planted"))]
        let protocol = [];
        [Self::NoSync, Self::LateLog, Self::RawSnapshot].into_iter().chain(protocol).collect()
    }

    /// Plants it in the state machines of this thread.
    #[cfg(feature = "planted")]
    pub fn plant(bug: Option<Self>) {
        atoll_commit::plant_everywhere(match bug {
            Some(Self::Protocol(bug)) => Some(bug),
            _ => None,
        });
    }

    #[cfg(not(feature = "planted"))]
    pub fn plant(_: Option<Self>) {}
}

/// As in `--planted`: in small letters, with hyphens.
impl fmt::Display for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            #[cfg(feature = "planted")]
            Self::Protocol(bug) => format!("{bug:?}"),
            other => format!("{other:?}"),
        };
        for (at, letter) in name.chars().enumerate() {
            if at > 0 && letter.is_uppercase() {
                f.write_str("-")?;
            }
            write!(f, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

impl FromStr for Planted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = Self::all();
        all.iter().find(|bug| bug.to_string() == text).copied().ok_or_else(|| {
            let names: Vec<String> = all.iter().map(Self::to_string).collect();
            format!("{text} is not among {}", names.join(", "))
        })
    }
}
