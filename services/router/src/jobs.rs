//! Transactions that wait to be predicted.

use std::collections::{HashMap, HashSet, VecDeque};

use atoll_types::{Address, B256, SharedTx, Tx};

/// Cuts for which a transaction waits here for an earlier one of its sender, before it goes back to
/// the pool: the earlier one may have been lost.
const PATIENCE_CUTS: u64 = 16;

/// A transaction to be predicted.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// From a local block that it did not fit.
    New {
        tx: Tx,
        /// The cut from which on it has waited for an earlier one of its sender.
        waits_since: Option<u64>,
    },
    /// Came back from a round.
    Again(SharedTx),
}

impl Job {
    pub fn tx(&self) -> &Tx {
        match self {
            Self::New { tx, .. } => tx,
            Self::Again(shared) => &shared.tx,
        }
    }
}

/// The queue. Of one sender's transactions only one batch is predicted at a time, so that later ones
/// find the predictions of those before them.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    queue: VecDeque<Job>,
    /// Senders of what is being predicted.
    busy: HashSet<Address>,
    /// Behind an earlier transaction of their senders, until the next cut.
    waiting: HashMap<B256, Job>,
}

impl Jobs {
    pub fn len(&self) -> usize {
        self.queue.len() + self.waiting.len()
    }

    pub fn add(&mut self, jobs: impl IntoIterator<Item = Job>) {
        self.queue.extend(jobs);
    }

    /// Takes the oldest jobs whose senders are not busy, at most `max`. Their senders are busy until
    /// [`Jobs::done`].
    pub fn take(&mut self, max: usize) -> Vec<Job> {
        let (mut taken, mut later) = (Vec::new(), VecDeque::new());
        let mut senders = HashSet::new();
        while taken.len() < max
            && let Some(job) = self.queue.pop_front()
        {
            let sender = job.tx().sender();
            if self.busy.contains(&sender) {
                later.push_back(job);
            } else {
                senders.insert(sender);
                taken.push(job);
            }
        }
        later.append(&mut self.queue);
        self.queue = later;
        self.busy.extend(senders);
        // Woken, returned and repeated ones stand in the queue behind later ones of their senders.
        taken.sort_by_key(|job| (job.tx().sender(), job.tx().nonce()));
        taken
    }

    /// The next jobs of these senders can be taken.
    pub fn done(&mut self, senders: impl IntoIterator<Item = Address>) {
        for sender in senders {
            self.busy.remove(&sender);
        }
    }

    /// Keeps what is behind an earlier transaction of its sender until the next cut. False if it has
    /// waited long enough.
    pub fn wait(&mut self, tx: Tx, since: Option<u64>, cut: u64) -> bool {
        let since = since.unwrap_or(cut);
        if cut > since + PATIENCE_CUTS {
            return false;
        }
        let hash = *tx.hash();
        self.waiting.insert(hash, Job::New { tx, waits_since: Some(since) });
        true
    }

    /// What waited is to be predicted once more.
    pub fn wake(&mut self) {
        let mut woken: Vec<Job> = self.waiting.drain().map(|(_, job)| job).collect();
        woken.sort_unstable_by_key(|job| (job.tx().sender(), job.tx().nonce()));
        self.queue.extend(woken);
    }
}

#[cfg(test)]
mod tests {
    use alloy_consensus::{SignableTransaction as _, TxEnvelope, TxLegacy};
    use alloy_eips::Encodable2718 as _;
    use alloy_primitives::{Bytes, Signature, TxKind, U256};

    use super::*;

    fn tx(sender: u8, nonce: u64) -> Tx {
        let sender = Address::repeat_byte(sender);
        let unsigned = TxLegacy {
            chain_id: Some(1),
            nonce,
            gas_price: 1,
            gas_limit: 21_000,
            to: TxKind::Call(sender),
            value: U256::ZERO,
            input: Bytes::new(),
        };
        let signature = Signature::new(U256::ONE, U256::ONE, false);
        let raw = TxEnvelope::from(unsigned.into_signed(signature)).encoded_2718();
        Tx::trusted(raw.into(), sender, None).expect("a transaction")
    }

    fn job(sender: u8, nonce: u64) -> Job {
        Job::New { tx: tx(sender, nonce), waits_since: None }
    }

    fn names(jobs: &[Job]) -> Vec<(u8, u64)> {
        jobs.iter().map(|job| (job.tx().sender()[0], job.tx().nonce())).collect()
    }

    #[test]
    fn one_batch_of_a_sender_at_a_time() {
        let mut jobs = Jobs::default();
        jobs.add([job(1, 0), job(1, 1), job(1, 2), job(2, 0)]);
        assert_eq!(names(&jobs.take(2)), [(1, 0), (1, 1)]);
        assert_eq!(names(&jobs.take(9)), [(2, 0)], "the first sender is busy");
        assert_eq!((names(&jobs.take(9)), jobs.len()), (vec![], 1));
        jobs.done([Address::repeat_byte(1)]);
        jobs.add([job(2, 1), job(1, 3)]);
        assert_eq!(names(&jobs.take(9)), [(1, 2), (1, 3)]);
    }

    #[test]
    fn what_is_behind_waits_for_the_next_cuts_and_not_for_ever() {
        let mut jobs = Jobs::default();
        assert!(jobs.wait(tx(1, 5), None, 10) && jobs.wait(tx(1, 4), None, 10));
        assert!(jobs.wait(tx(1, 5), None, 10), "the same once more");
        assert_eq!((jobs.len(), jobs.take(9).len()), (2, 0));
        jobs.add([job(1, 6)]);
        jobs.wake();
        let mut woken = jobs.take(9);
        assert_eq!(names(&woken), [(1, 4), (1, 5), (1, 6)], "whatever came first");
        woken.pop();
        for job in woken {
            let Job::New { tx, waits_since } = job else { panic!("it is new") };
            assert_eq!(waits_since, Some(10));
            assert!(jobs.wait(tx.clone(), waits_since, 10 + PATIENCE_CUTS));
            assert!(!jobs.wait(tx, waits_since, 11 + PATIENCE_CUTS));
        }
    }
}
