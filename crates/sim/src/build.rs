//! Local blocks: what fits the shard alone, and the payer's side of credits.

use std::collections::{BTreeSet, HashSet};

use atoll_evm::{
    BlockExecutor as _, Bytecode, CodeCache, Effects, Fees, Invalid, Mode, Outcome, Rules,
    Sequential, StateView,
};
use atoll_invariants::Violation;
use atoll_types::{
    Address, B256, Credit, CreditKind, LocalBlock, LocalTx, Receipt, ReceiptKind, StateKey,
    StateValue, Tx, U256,
};

use crate::{
    ledger::{Input, Ledger},
    rng::Rng,
    shard::{Job, MAX_UNDER_WAY, Shard},
};

/// Most transactions that a block takes.
const MAX_BLOCK_TXS: u64 = 12;

/// The values that a local transaction may use: own ones that are not fenced.
struct LocalView<'a> {
    ledger: &'a Ledger,
    codes: &'a CodeCache,
    fenced: HashSet<StateKey>,
}

impl StateView for LocalView<'_> {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        let own = self.ledger.owner.placement().owner_of(key) == self.ledger.shard();
        (own && !self.fenced.contains(key)).then(|| self.ledger.value(key))
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.codes.get(hash)
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        self.ledger.owner.block_hash(number)
    }
}

/// What is to become of a transaction that is not in the block.
enum End {
    Escalated(Tx),
    Dropped(Tx, String),
}

/// A block, and what is to be done once it is appended.
pub(crate) struct Built {
    block: LocalBlock,
    /// Keys that it uses and does not write.
    reads: Vec<StateKey>,
    ends: Vec<End>,
    debits: Vec<Tx>,
}

impl Shard {
    /// Runs what the pool has and what was found to be a payment, and appends a block. `later`: it is
    /// appended the next time, if nothing stands against it by then.
    pub(crate) fn build(&mut self, rng: &mut Rng, later: bool) -> Result<(), Violation> {
        if let Some(built) = self.built.take() {
            return self.append(built, true);
        }
        if self.debits.is_empty() && self.runnable().next().is_none() {
            return Ok(());
        }
        let limit = 1 + rng.below(MAX_BLOCK_TXS) as usize;
        let debits: Vec<Tx> = self.debits.drain(..).collect();
        let mut senders = self.pool.senders();
        let first = rng.below(senders.len() as u64) as usize;
        senders.rotate_left(first);
        let built = self.run_block(debits, &senders, limit);
        if later {
            self.built = Some(built);
            return Ok(());
        }
        self.append(built, false)
    }

    fn append(&mut self, built: Built, may_be_stale: bool) -> Result<(), Violation> {
        let Built { block, reads, ends, debits } = built;
        if let Err(error) = self.ledger.owner.check_block(&block, &reads) {
            if !may_be_stale {
                return Err(self.ledger.refused(&error));
            }
            // The shard's chain is elsewhere, or a key was leased late: it is built anew.
            self.debits.extend(debits);
            return Ok(());
        }
        if !block.txs.is_empty() {
            for key in reads.iter().chain(block.writes.iter().map(|(key, _)| key)) {
                self.touched.note(key, block.round, None);
            }
            let included: HashSet<B256> = block.txs.iter().map(|local| *local.tx.hash()).collect();
            self.log(Input::Block(block))?;
            self.forget_past(&included);
            self.pass_on_credits();
        }
        for end in ends {
            match end {
                End::Escalated(tx) => {
                    self.pool.hand_out(tx.hash());
                    self.jobs.push_back(Job::New(tx));
                }
                End::Dropped(tx, reason) => self.drop_tx(&tx, reason),
            }
        }
        Ok(())
    }

    /// Takes off the pool what has an earlier nonce than its account.
    pub(crate) fn forget_past(&mut self, included: &HashSet<B256>) {
        for sender in self.pool.senders() {
            let nonce = self.ledger.value(&StateKey::Basic(sender)).basic().nonce;
            for tx in self.pool.settle(&sender, nonce) {
                if !included.contains(tx.hash()) {
                    self.dropped.push((*tx.hash(), "its nonce is used".to_owned()));
                }
            }
        }
    }

    fn run_block(&self, debits: Vec<Tx>, senders: &[Address], limit: usize) -> Built {
        let owner = &self.ledger.owner;
        let env = owner.env();
        let fenced = owner.fenced().copied().collect();
        let view = LocalView { ledger: &self.ledger, codes: &self.codes, fenced };
        let mut running = Running {
            shard: self,
            evm: Sequential::new(&env, Rules::default(), Fees::WhenUsed, &view),
            block: LocalBlock {
                shard: owner.shard(),
                number: owner.head() + 1,
                parent: owner.digest(),
                round: owner.cut_number(),
                txs: Vec::new(),
                writes: Vec::new(),
                codes: Vec::new(),
                credits: Vec::new(),
                fees: U256::ZERO,
                burned: U256::ZERO,
            },
            used: BTreeSet::new(),
            ends: Vec::new(),
            across: false,
        };
        for tx in &debits {
            running.across = false;
            running.one(tx, Mode::Debit);
        }
        for sender in senders {
            let mut under_way = 0;
            running.across = false;
            for (tx, away) in self.consecutive(*sender) {
                if running.block.txs.len() >= limit || under_way >= MAX_UNDER_WAY {
                    break;
                }
                running.across |= away;
                if !away && !running.one(tx, Mode::Transact) && !running.across {
                    break;
                }
                under_way += usize::from(running.across);
            }
        }
        let Running { evm, mut block, mut used, ends, .. } = running;
        let changes = evm.finish();
        (block.writes, block.codes, block.fees) = (changes.writes, changes.codes, changes.fees);
        for (key, _) in &block.writes {
            used.remove(key);
        }
        Built { block, reads: used.into_iter().collect(), ends, debits }
    }
}

struct Running<'a> {
    shard: &'a Shard,
    evm: Sequential<'a, LocalView<'a>>,
    block: LocalBlock,
    used: BTreeSet<StateKey>,
    ends: Vec<End>,
    /// An earlier transaction of the sender goes across shards.
    across: bool,
}

impl Running<'_> {
    /// Runs one transaction. True if it is in the block.
    fn one(&mut self, tx: &Tx, mode: Mode) -> bool {
        if self.across || self.shard.ledger.owner.is_pinned(&tx.sender()) {
            self.across = true;
            self.ends.push(End::Escalated(tx.clone()));
            return false;
        }
        let run = self.evm.attempt(tx, mode);
        match run.outcome {
            Outcome::Executed(effects) => {
                self.used.extend(run.used.all());
                self.include(tx, mode, *effects);
                return true;
            }
            Outcome::Missing | Outcome::Invalid(Invalid::NonceTooHigh { .. }) => {
                self.across = true;
                self.ends.push(End::Escalated(tx.clone()));
            }
            Outcome::Invalid(reason) => {
                self.ends.push(End::Dropped(tx.clone(), reason.to_string()));
            }
        }
        false
    }

    fn include(&mut self, tx: &Tx, mode: Mode, effects: Effects) {
        self.evm.keep(&effects);
        let here = self.block.shard;
        self.block.burned += effects.burned;
        let mut shards = vec![here];
        let debited = mode == Mode::Debit;
        if let (true, Some(account)) = (debited, tx.to()) {
            let to = self.shard.ledger.owner.placement().owner(&account);
            shards.push(to);
            shards.sort_unstable();
            let (payer, amount) = (tx.sender(), tx.value());
            let kind = CreditKind::Payment { tx: *tx.hash() };
            let credit = Credit { from: here, to, seq: 0, account, payer, amount, kind };
            self.block.credits.push(credit);
        }
        let receipt = Receipt {
            tx: *tx.hash(),
            sender: tx.sender(),
            nonce: tx.nonce(),
            to: tx.to(),
            executed: effects.executed,
            kind: if debited { ReceiptKind::Credit } else { ReceiptKind::Local },
            shards,
            round: self.block.round,
            index: self.block.txs.len() as u32,
            block: self.block.number,
        };
        self.block.txs.push(LocalTx { tx: tx.clone(), receipt });
    }
}
