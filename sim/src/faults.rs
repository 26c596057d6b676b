//! What breaks in a run, and when: drawn from the seed before it begins.

use std::{collections::BTreeMap, fmt, time::Duration};

use rand::{Rng as _, rngs::StdRng};

/// Something that breaks. Machines are numbers of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process is killed; what it wrote is with the operating system.
    Kill { host: usize },
    /// A machine loses its power: what was not synced is gone or torn.
    PowerCut { host: usize },
    /// A process is stopped in good order.
    Stop { host: usize },
    /// Nothing passes between two machines.
    Partition { a: usize, b: usize },
    /// Nothing passes from one machine to another.
    OneWay { from: usize, to: usize },
    /// What passes between two machines is late by so much.
    Delay { a: usize, b: usize, by_ms: u64 },
    /// What is sent between two machines arrives all at once when this ends.
    Hold { a: usize, b: usize },
    /// Each job of a machine takes up to so long.
    Slow { host: usize, most_ms: u64 },
    /// A process is stopped, as by SIGSTOP, and continued: meanwhile nothing reaches it or leaves it, and
    /// its jobs stand still; its timers pile up work.
    Freeze { host: usize },
    /// Requests reach a machine a second time, at once or later.
    Repeat { host: usize },
    /// The machine behind the next answer to a client loses its power right after it.
    CutAtAnswer,
    /// A machine dies after so many steps of writing a snapshot.
    DieInSnapshot { host: usize, after: u32 },
    /// A sync of a log fails.
    FailedSync { host: usize },
    /// A disk is full.
    Full { host: usize },
    /// A clock is off by so much.
    Clock { host: usize, by_ms: i64 },
}

impl Fault {
    /// Its kind, for counts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::PowerCut { .. } => "power-cut",
            Self::Stop { .. } => "stop",
            Self::Partition { .. } => "partition",
            Self::OneWay { .. } => "one-way",
            Self::Delay { .. } => "delay",
            Self::Hold { .. } => "hold",
            Self::Slow { .. } => "slow",
            Self::Freeze { .. } => "freeze",
            Self::Repeat { .. } => "repeat",
            Self::CutAtAnswer => "cut-at-answer",
            Self::DieInSnapshot { .. } => "die-in-snapshot",
            Self::FailedSync { .. } => "failed-sync",
            Self::Full { .. } => "full",
            Self::Clock { .. } => "clock",
        }
    }
}

/// A fault, when it comes and how long it lasts.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub at: Duration,
    pub lasts: Duration,
    pub fault: Fault,
}

/// How many faults of each kind there were.
#[derive(Clone, Debug, Default)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    pub fn add(&mut self, kind: &'static str) {
        *self.0.entry(kind).or_default() += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            *self.0.entry(kind).or_default() += count;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> =
            self.0.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        f.write_str(&all.join(", "))
    }
}

/// Draws the faults of `chaos`, all of the kind `only` if one is named: `disks` machines have logs, the
/// others of `hosts` have none.
pub fn draw(
    random: &mut StdRng,
    hosts: usize,
    disks: usize,
    chaos: Duration,
    only: Option<&str>,
) -> Vec<Event> {
    let mut events = Vec::new();
    let mut at = Duration::ZERO;
    // Some runs are rough and some are calm.
    let pause_ms = random.random_range(400..4_000);
    loop {
        at += Duration::from_millis(random.random_range(1..2 * pause_ms));
        if at >= chaos {
            return events;
        }
        let lasts = Duration::from_millis(match random.random_range(0..8) {
            0 => random.random_range(5_000..15_000),
            1..=3 => random.random_range(1_000..5_000),
            _ => random.random_range(20..1_000),
        });
        let mut fault = one(random, hosts, disks);
        // In vain for a while, for a kind that there is; not for ever, for one that there is not.
        for _ in 0..1_000 {
            if only.is_none_or(|only| only == fault.kind()) {
                break;
            }
            fault = one(random, hosts, disks);
        }
        events.push(Event { at, lasts, fault });
    }
}

fn one(random: &mut StdRng, hosts: usize, disks: usize) -> Fault {
    let host = random.random_range(0..hosts);
    let disk = random.random_range(0..disks);
    let a = random.random_range(0..hosts);
    let b = (a + random.random_range(1..hosts)) % hosts;
    match random.random_range(0..22) {
        0..=2 => Fault::Kill { host },
        3..=5 => Fault::PowerCut { host: disk },
        6 => Fault::Stop { host },
        7..=8 => Fault::Partition { a, b },
        9 => Fault::OneWay { from: a, to: b },
        10 => Fault::Delay { a, b, by_ms: random.random_range(20..1_500) },
        11 => Fault::Hold { a, b },
        12 => Fault::Slow { host: disk, most_ms: random.random_range(5..800) },
        13 => Fault::FailedSync { host: disk },
        14 => Fault::Full { host: disk },
        15..=16 => Fault::Freeze { host },
        17 => Fault::Repeat { host },
        18..=19 => Fault::CutAtAnswer,
        20 => Fault::DieInSnapshot { host: disk, after: random.random_range(0..12) },
        _ => {
            let hour = 3_600_000;
            Fault::Clock { host, by_ms: random.random_range(-hour..=hour) }
        }
    }
}
