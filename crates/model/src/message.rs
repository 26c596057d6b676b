//! What shards and beacon say to one another, and the network that carries it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use atoll_types::{
    Anchor, Credit, Flight, LateAsk, LateLease, Lease, PartMessage, Settlement, ShardId, SharedTx,
    TxRef, Want,
};
use serde::Serialize;

use crate::{canonical::fingerprint, toy::short};

/// What is said.
#[derive(Clone, Debug, Serialize)]
pub enum Content {
    Share(SharedTx),
    /// An answer to one sharing: the last valid round tells it from others of the attempt.
    Held {
        by: ShardId,
        tx: TxRef,
        last: u64,
    },
    Lease(Lease),
    Part(PartMessage),
    Credit(Credit),
    Settle(Settlement),
    Want {
        from: ShardId,
        want: Want,
    },
    Flight {
        from: ShardId,
        flight: Flight,
    },
    Late {
        from: ShardId,
        ask: LateAsk,
    },
    LateLease(LateLease),
    /// To the beacon.
    Anchor(Anchor),
}

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Message {
    /// The shard it is for; the sender, if it is for the beacon.
    pub shard: ShardId,
    pub content: Content,
    id: u64,
}

impl Message {
    /// What tells it from others.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// A message to a shard, or an anchor of it.
    pub fn new(shard: ShardId, content: Content) -> Self {
        Self { shard, id: fingerprint(&(shard, &content)), content }
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.shard;
        match &self.content {
            Content::Share(tx) => write!(
                f,
                "share of transaction {} (attempt {}) reaches shard {to}",
                short(tx.tx.hash()),
                tx.attempt
            ),
            Content::Held { by, tx, .. } => {
                write!(f, "shard {to} hears that shard {by} holds transaction {}", short(&tx.hash))
            }
            Content::Lease(lease) => {
                write!(
                    f,
                    "lease of group {} by shard {} reaches shard {to}",
                    lease.group, lease.from
                )
            }
            Content::Part(part) => write!(
                f,
                "part of group {} from shard {} reaches shard {to}, result {}",
                part.part.group,
                part.part.executor,
                short(&part.digest())
            ),
            Content::Credit(credit) => write!(
                f,
                "credit {} of {} wei from shard {} reaches shard {to}",
                credit.seq, credit.amount, credit.from
            ),
            Content::Settle(end) => write!(
                f,
                "shard {to} hears that shard {} is done with its credits up to {}",
                end.by, end.up_to
            ),
            Content::Want { from, want } => write!(
                f,
                "shard {from} asks shard {to} for values of group {} for group {}",
                want.source, want.to
            ),
            Content::Flight { from, flight } => write!(
                f,
                "values of group {} from shard {from} reach shard {to} for group {}, result {}",
                flight.source,
                flight.to,
                short(&flight.digest)
            ),
            Content::Late { from, ask } => {
                write!(f, "shard {from} asks shard {to} for late leases of group {}", ask.group)
            }
            Content::LateLease(lease) => write!(
                f,
                "late leases of group {} by shard {} reach shard {to}, {} keys refused",
                lease.group,
                lease.from,
                lease.refused.len()
            ),
            Content::Anchor(anchor) => {
                write!(f, "anchor of shard {to} at cut {} reaches the beacon", anchor.cut)
            }
        }
    }
}

/// Every message that was ever sent and may still matter. A message stays when it is delivered:
/// it may be delivered at any time, again and in any order, or never. That is loss, repetition and
/// reordering without bound, and needs neither copies nor retransmission in the state.
#[derive(Clone, Default)]
pub struct Network {
    messages: Arc<BTreeMap<u64, Arc<Message>>>,
    sum: u64,
}

impl Network {
    /// Adds a message. Returns whether it is a new one.
    pub fn send(&mut self, message: Message) -> bool {
        let id = message.id;
        if self.messages.contains_key(&id) {
            return false;
        }
        self.sum = self.sum.wrapping_add(id);
        Arc::make_mut(&mut self.messages).insert(id, Arc::new(message));
        true
    }

    /// All messages.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.messages.values()
    }

    /// Forgets what can have no effect any more.
    pub fn retain(&mut self, useful: impl Fn(&Message) -> bool) {
        if self.messages.values().all(|message| useful(message)) {
            return;
        }
        Arc::make_mut(&mut self.messages).retain(|_, message| useful(message));
        self.sum = self.messages.keys().fold(0, |sum, id| sum.wrapping_add(*id));
    }

    /// Hash of the set.
    pub fn fingerprint(&self) -> u64 {
        self.sum
    }
}
