//! Which machines a run has, and what stands on them.

use std::path::Path;

use alloy_primitives::Address;
use atoll::config::{
    Addresses, Beacon, Chain, Config, Gateway, Limits, Role, Shard, ShardAddress, Storage, Tls,
};
use atoll_tests::CHAIN_ID;

use crate::{client::BEGIN_WEI, machine::BEGIN_MS, traffic::Cast};

const PORT: u16 = 7_000;

/// Shards, of which one may stand apart: each of its four services on a machine of its own.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub shards: u16,
    pub split: Option<u16>,
    /// Whether the beacon makes so many blocks that groups are open for many of them, and aborted soon.
    pub hasty: bool,
}

/// A machine, and what stands on it.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: String,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Beacon,
    Gateway,
    Shard(u16),
    Role(u16, Role),
}

fn role_name(shard: u16, role: Role) -> String {
    format!("shard-{shard}-{role:?}").to_lowercase()
}

impl Layout {
    /// All machines, those with disks first: the beacon, then one for each shard.
    pub fn places(&self) -> Vec<Place> {
        let mut whats = vec![What::Beacon];
        whats.extend((0..self.shards).map(|shard| match self.split == Some(shard) {
            true => What::Role(shard, Role::State),
            false => What::Shard(shard),
        }));
        if let Some(shard) = self.split {
            let others = Role::ALL.into_iter().filter(|role| *role != Role::State);
            whats.extend(others.map(|role| What::Role(shard, role)));
        }
        whats.push(What::Gateway);
        let name = |what| match what {
            What::Beacon => "beacon".to_owned(),
            What::Gateway => "gateway".to_owned(),
            What::Shard(shard) => format!("shard-{shard}"),
            What::Role(shard, role) => role_name(shard, role),
        };
        whats.into_iter().map(|what| Place { name: name(what), what }).collect()
    }

    /// How many machines have disks.
    pub fn disks(&self) -> usize {
        1 + usize::from(self.shards)
    }

    /// In which order processes are stopped so that all shards come to the beacon's last cut.
    pub fn stop_order(&self) -> Vec<usize> {
        let (count, disks) = (self.places().len(), self.disks());
        [0, count - 1].into_iter().chain(disks..count - 1).chain(1..disks).collect()
    }

    pub fn chain(&self, cast: &Cast) -> Chain {
        Chain {
            chain_id: CHAIN_ID,
            shards: self.shards,
            genesis_time_ms: BEGIN_MS,
            coinbase: Address::repeat_byte(0xc0),
            development: false,
            balances: cast.senders().map(|w| (w.address(), BEGIN_WEI.to_string())).collect(),
            placement: cast.placement(self.shards),
            genesis: Default::default(),
        }
    }

    /// What the process of a machine is told.
    pub fn config(&self, place: &Place, chain: &Chain, data: &Path) -> Config {
        let listen = Some(([0, 0, 0, 0], PORT).into());
        let (shard, is_beacon, is_gateway) = match place.what {
            What::Beacon => (None, true, false),
            What::Gateway => (None, false, true),
            What::Shard(id) => {
                (Some(Shard { id, roles: Role::ALL.to_vec(), listen }), false, false)
            }
            What::Role(id, role) => (Some(Shard { id, roles: vec![role], listen }), false, false),
        };
        let whole = match place.what {
            What::Shard(id) => Some(id),
            _ => None,
        };
        let others = (0..self.shards).filter(|id| Some(*id) != whole);
        Config {
            chain: chain.clone(),
            data: data.to_owned(),
            beacon: is_beacon.then(|| self.beacon(listen)),
            shard: shard.into_iter().collect(),
            gateway: is_gateway
                .then(|| Gateway { listen: ([0, 0, 0, 0], 50_051).into(), rpc: None }),
            admin: None,
            metrics: None,
            health: None,
            address: Addresses {
                beacon: (!is_beacon).then(|| format!("http://beacon:{PORT}")),
                shard: others.map(|id| self.address(id)).collect(),
            },
            limits: Limits { execution_threads: 1, recovery_threads: 1, ..Limits::default() },
            storage: Storage {
                snapshot_log_bytes: 64 << 10,
                segment_bytes: 16 << 10,
                reserve_bytes: 0,
                min_free_bytes: 0,
                ..Storage::default()
            },
            tls: Tls::default(),
        }
    }

    fn beacon(&self, listen: Option<std::net::SocketAddr>) -> Beacon {
        let usual = Beacon { listen, ..Beacon::default() };
        if self.hasty { Beacon { block_ms: 10, min_block_ms: 5, ..usual } } else { usual }
    }

    fn address(&self, id: u16) -> ShardAddress {
        if self.split != Some(id) {
            let all = Some(format!("http://shard-{id}:{PORT}"));
            return ShardAddress { id, all, ..ShardAddress::default() };
        }
        let at = |role| Some(format!("http://{}:{PORT}", role_name(id, role)));
        ShardAddress {
            id,
            all: None,
            mempool: at(Role::Mempool),
            executor: at(Role::Executor),
            state: at(Role::State),
            router: at(Role::Router),
        }
    }
}
