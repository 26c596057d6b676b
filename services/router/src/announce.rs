//! What the beacon is told: intents, and the shard's anchor. And what the state has for others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_api::{
    beacon::{Announce, AnnounceReply},
    state::Watch,
};
use atoll_fabric::Context;
use atoll_types::{Anchor, BeaconBlock, GroupAck, GroupId, Intent, ShardId};
use tokio::{sync::Notify, time::Instant};

use crate::shared::{Shared, lock};

const WAIT_MS: u64 = 10_000;
const RETRY: Duration = Duration::from_millis(100);
/// Intents announced in one message at the most.
const MAX_INTENTS: usize = 4_096;
/// Least time between two messages with something to order or decide: a message costs the beacon as
/// much as several intents in it.
const GAP: Duration = Duration::from_millis(10);
/// How long one without such waits for one with it. A shard seems to lag by so much.
const PATIENCE: Duration = Duration::from_millis(20);
/// While rounds are busy, all of a round goes in one message, this long after the round began: a block
/// takes in what comes until it is made, and is early only if nothing is left to decide.
const LATE: Duration = Duration::from_millis(40);
/// Least time between two messages in a busy round that takes longer.
const BUSY_GAP: Duration = Duration::from_millis(30);
/// The longest time between two messages, for a beacon whose rounds are shorter than that.
const MOST: Duration = Duration::from_millis(50);
/// Transactions of all shards that make a round a busy one.
const BUSY: usize = 32;

#[derive(Default)]
struct Waiting {
    intents: Vec<Intent>,
    anchor: Option<Anchor>,
}

/// The queue to the beacon.
#[derive(Default)]
pub(crate) struct Announcements {
    waiting: Mutex<Waiting>,
    came: Notify,
    /// When the newest round began, if it is a busy one.
    busy_since: Mutex<Option<Instant>>,
    /// A message goes.
    goes: Notify,
}

impl Announcements {
    /// Takes note of a block of the beacon that has just come.
    pub fn round(&self, block: &BeaconBlock) {
        self.began(block.plan.iter().map(|group| group.txs.len()).sum());
    }

    fn began(&self, ordered: usize) {
        *lock(&self.busy_since) = (ordered >= BUSY).then(Instant::now);
    }

    /// When the message after one of `told` may go.
    fn due(&self, told: Instant) -> Instant {
        due(*lock(&self.busy_since), told)
    }

    /// Waits for the time to ask for the next block. In a busy round none is made before this shard's message
    /// or the time for it, so the question goes beside that: a beacon is woken once for both.
    pub async fn time_to_ask(&self) {
        let busy_since = *lock(&self.busy_since);
        if let Some(began) = busy_since {
            // Either will do.
            let _ = tokio::time::timeout_at(began + LATE, self.goes.notified()).await;
        }
    }

    pub fn intents(&self, intents: impl IntoIterator<Item = Intent>) {
        lock(&self.waiting).intents.extend(intents);
        self.came.notify_one();
    }

    /// Whether the beacon can do something with what waits.
    fn is_urgent(&self, told: &Told) -> bool {
        let waiting = lock(&self.waiting);
        let anchor = waiting.anchor.as_ref();
        !waiting.intents.is_empty() || anchor.is_some_and(|anchor| told.has_news(anchor))
    }

    fn anchor(&self, anchor: Anchor) {
        lock(&self.waiting).anchor = Some(anchor);
        self.came.notify_one();
    }
}

/// When the message after one of `told` may go, in a round that is busy since then, or is not.
fn due(busy_since: Option<Instant>, told: Instant) -> Instant {
    match busy_since {
        Some(began) => (told + BUSY_GAP).max((began + LATE).min(told + MOST)),
        None => told + GAP,
    }
}

/// What the beacon has of the newest anchor that it has taken.
#[derive(Default)]
struct Told {
    acks: HashMap<GroupId, GroupAck>,
    credits_sent: Vec<(ShardId, u64)>,
    credits_received: Vec<(ShardId, u64)>,
}

impl Told {
    /// Whether an anchor says more than where the shard stands.
    fn has_news(&self, anchor: &Anchor) -> bool {
        anchor.credits_sent != self.credits_sent
            || anchor.credits_received != self.credits_received
            || anchor.acks.iter().any(|ack| self.acks.get(&ack.group) != Some(ack))
    }

    /// An anchor without those acknowledgements, and how many they are.
    fn leave_out(&self, anchor: &Anchor) -> (Anchor, u32) {
        let is_new = |ack: &&GroupAck| self.acks.get(&ack.group) != Some(*ack);
        let acks: Vec<GroupAck> = anchor.acks.iter().filter(is_new).cloned().collect();
        // Fewer than there are groups.
        let earlier = (anchor.acks.len() - acks.len()) as u32;
        let Anchor { shard, head, cut, digest, gas_used, root, .. } = *anchor;
        let (credits_sent, credits_received) =
            (anchor.credits_sent.clone(), anchor.credits_received.clone());
        let left = Anchor {
            shard,
            head,
            cut,
            digest,
            gas_used,
            acks,
            credits_sent,
            credits_received,
            root,
        };
        (left, earlier)
    }

    fn took(&mut self, anchor: Anchor) {
        let Anchor { acks, credits_sent, credits_received, .. } = anchor;
        let acks = acks.into_iter().map(|ack| (ack.group, ack)).collect();
        *self = Self { acks, credits_sent, credits_received };
    }
}

/// Waits for something to tell, and until it is time to: what can be ordered or decided by the beacon
/// goes when it is [due](Announcements::due) after the last such message, at `last`; what else there is
/// waits for it, but not for long.
async fn pace(announcements: &Announcements, told: &Told, last: &mut Option<Instant>) {
    announcements.came.notified().await;
    let patience = Instant::now() + PATIENCE;
    while !announcements.is_urgent(told) {
        if tokio::time::timeout_at(patience, announcements.came.notified()).await.is_err() {
            return;
        }
    }
    if let Some(last) = *last {
        tokio::time::sleep_until(announcements.due(last)).await;
    }
    *last = Some(Instant::now());
}

/// Tells the beacon whatever waits, one message at a time.
pub(crate) async fn announce(shared: Arc<Shared>) {
    let mut told = Told::default();
    let mut last = None;
    loop {
        pace(&shared.announcements, &told, &mut last).await;
        let (intents, anchor) = {
            let mut waiting = lock(&shared.announcements.waiting);
            let count = waiting.intents.len().min(MAX_INTENTS);
            let intents: Vec<Intent> = waiting.intents.drain(..count).collect();
            if !waiting.intents.is_empty() {
                shared.announcements.came.notify_one();
            }
            (intents, waiting.anchor.take())
        };
        // It went with the last message.
        if intents.is_empty() && anchor.is_none() {
            continue;
        }
        let (left, earlier_acks) = anchor.as_ref().map(|anchor| told.leave_out(anchor)).unzip();
        let message = Announce {
            from: shared.shard(),
            intents,
            anchor: left,
            earlier_acks: earlier_acks.unwrap_or(0),
        };
        shared.announcements.goes.notify_waiters();
        match shared.beacon.announce.call(shared.context(), message).await {
            Ok(AnnounceReply { whole: false }) => {
                if let Some(anchor) = anchor {
                    told.took(anchor);
                }
                continue;
            }
            Ok(AnnounceReply { whole: true }) => told = Told::default(),
            Err(error) => {
                tracing::warn!(%error, "cannot reach the beacon; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
        // The refresh announces intents again; an anchor has only this one chance until the next
        // one.
        if let Some(anchor) = anchor {
            lock(&shared.announcements.waiting).anchor.get_or_insert(anchor);
            shared.announcements.came.notify_one();
        }
    }
}

/// Passes on the shard's anchors to the beacon and its credits to their receivers.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut version = 0;
    let mut newest: BTreeMap<ShardId, u64> = BTreeMap::new();
    loop {
        let credits_after = newest.iter().map(|(shard, seq)| (*shard, *seq)).collect();
        let context = Context::none().with_timeout(Duration::from_millis(2 * WAIT_MS));
        let ask = Watch { version, credits_after, wait_ms: WAIT_MS };
        match shared.state.watch.call(context, ask).await {
            Ok(reply) => {
                if reply.version != version {
                    version = reply.version;
                    shared.announcements.anchor(reply.anchor);
                }
                let mut by_shard: BTreeMap<ShardId, Vec<_>> = BTreeMap::new();
                for credit in reply.credits {
                    newest.insert(credit.to, credit.seq);
                    by_shard.entry(credit.to).or_default().push(credit);
                }
                for (to, credits) in by_shard {
                    if let Some(peer) = shared.peers.get(&to) {
                        peer.outbound.credits(credits);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot watch the shard's state; trying again");
                version = 0;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_round_is_told_late_and_once_and_another_one_soon() {
        let began = Instant::now();
        assert_eq!(due(None, began), began + GAP);
        assert_eq!(due(Some(began + GAP), began), began + GAP + LATE);
        // A round that is slow to end is told of what came since.
        let told = began + LATE;
        assert_eq!(due(Some(began), told), told + BUSY_GAP);
        // Rounds shorter than that do not put it off for ever.
        assert_eq!(due(Some(told + BUSY_GAP), told), told + MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_block_is_asked_for_with_the_message_of_a_busy_round() {
        let announcements = Announcements::default();
        let began = Instant::now();
        announcements.time_to_ask().await;
        assert_eq!(Instant::now(), began, "a light round may end at any time");
        announcements.began(BUSY);
        announcements.time_to_ask().await;
        assert_eq!(Instant::now(), began + LATE, "there may be no message");
        announcements.began(BUSY);
        let message = async { announcements.goes.notify_waiters() };
        let began = Instant::now();
        tokio::join!(announcements.time_to_ask(), message);
        assert_eq!(Instant::now(), began);
    }

    #[test]
    fn a_round_is_busy_by_what_all_shards_have_ordered() {
        let announcements = Announcements::default();
        let is_busy = |ordered| {
            announcements.began(ordered);
            lock(&announcements.busy_since).is_some()
        };
        assert!(!is_busy(BUSY - 1) && is_busy(BUSY) && !is_busy(0));
    }
}
