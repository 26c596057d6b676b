//! The worlds that are explored, with bounds, and the situations that each is made for.

use crate::{
    model::CommitModel,
    scenario::{self, Bounds, Scenario},
    situations::{self, Situation},
};

/// An exploration.
pub struct Entry {
    pub name: &'static str,
    pub scenario: fn() -> Scenario,
    pub bounds: Bounds,
    pub reaches: &'static [Situation],
}

impl Entry {
    /// Its model, with `more` blocks than it has by itself.
    pub fn model(&self, more: u64) -> CommitModel {
        let blocks = self.bounds.blocks + more;
        let bounds = Bounds { blocks, ..self.bounds.clone() };
        CommitModel::new((self.scenario)(), bounds).reaches(self.reaches)
    }
}

fn blocks(blocks: u64) -> Bounds {
    Bounds { blocks, ..Bounds::default() }
}

/// Everything that is explored to the end.
pub fn catalogue() -> Vec<Entry> {
    let mut entries = hot_keys();
    entries.extend(credits());
    entries.extend(flights());
    entries.extend(late_leases());
    entries
}

fn hot_keys() -> Vec<Entry> {
    vec![
        Entry {
            name: "hot key, two shards",
            scenario: || scenario::hot_key(2),
            bounds: blocks(3),
            reaches: &[
                situations::PART_LACKING,
                situations::COMMIT_BEHIND,
                situations::READ_UNDECIDED,
            ],
        },
        Entry {
            name: "hot key, three shards",
            scenario: || scenario::hot_key(3),
            bounds: blocks(2),
            reaches: &[situations::READ_UNDECIDED],
        },
        Entry {
            name: "fenced, anchors late",
            scenario: scenario::fenced,
            bounds: Bounds { late_anchors: true, ..blocks(3) },
            reaches: &[situations::COMMIT_BEHIND],
        },
        Entry {
            name: "fenced, leases late, a crash",
            scenario: scenario::fenced,
            bounds: Bounds { late_leases: true, idle_crashes: true, crashes: 1, ..blocks(2) },
            reaches: &[situations::PART_LACKING],
        },
    ]
}

fn credits() -> Vec<Entry> {
    vec![
        Entry {
            name: "credits",
            scenario: scenario::credits,
            bounds: blocks(2),
            reaches: &[situations::CREDIT_WAITS, situations::CREDIT_RETURNS],
        },
        Entry {
            name: "travelling",
            scenario: || scenario::travelling(3),
            bounds: blocks(3),
            reaches: &[situations::CREDIT_TRAVELS, situations::CREDIT_WAITS],
        },
    ]
}

fn flights() -> Vec<Entry> {
    vec![
        Entry {
            name: "unsure, a crash, a stray",
            scenario: scenario::unsure,
            bounds: Bounds { crashes: 1, reruns: true, strays: 1, ..blocks(2) },
            reaches: &[situations::SOURCE_RUN_AGAIN, situations::RAN_AGAIN, situations::STRAY_PART],
        },
        Entry {
            name: "unsure, the beacon crashes",
            scenario: scenario::unsure,
            bounds: Bounds { beacon_crashes: 1, ..blocks(3) },
            reaches: &[situations::CHAIN_COMMITS, situations::PART_LACKING],
        },
        Entry {
            name: "chain, soon given up",
            scenario: || scenario::chain(2),
            bounds: blocks(3),
            reaches: &[situations::CHAIN_FALLS],
        },
        Entry {
            name: "chain, waited for",
            scenario: || scenario::chain(3),
            bounds: blocks(3),
            reaches: &[situations::ABSENT_UNDER_CHAIN],
        },
        Entry {
            name: "flight",
            scenario: scenario::flight,
            bounds: blocks(3),
            reaches: &[situations::FLIGHT, situations::CHAIN_COMMITS],
        },
        Entry {
            name: "flight, leases late, a crash",
            scenario: scenario::flight,
            bounds: Bounds { late_leases: true, crashes: 1, reruns: true, ..blocks(2) },
            reaches: &[situations::FLIGHT, situations::RAN_AGAIN],
        },
    ]
}

fn late_leases() -> Vec<Entry> {
    vec![
        Entry {
            name: "late, two shards",
            scenario: || scenario::late(2),
            bounds: blocks(2),
            reaches: &[situations::LATE_GRANT, situations::LATE_REFUSED],
        },
        Entry {
            name: "late, fenced",
            scenario: scenario::late_fenced,
            bounds: blocks(3),
            reaches: &[situations::LATE_REFUSED],
        },
        Entry {
            name: "late, three shards",
            scenario: || scenario::late(3),
            bounds: blocks(2),
            reaches: &[situations::LATE_OWNER],
        },
    ]
}
