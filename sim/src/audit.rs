//! What clients check: at every cut that they read, and of everything at the end.

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::{B256, U256};
use alloy_sol_types::SolCall as _;
use anyhow::Context as _;
use atoll_tests::contracts::{self, Token};
use atoll_wire::v1::{CallOutcome, TransactionFinality, get_receipt_request::Wait};

use crate::{
    client::{
        BEGIN_WEI, BOOK_ACCOUNTS, BOOKS, Clients, HELD, LISTS, MINTED, PATIENCE, Phase, Told,
    },
    traffic::{Deed, Step},
};

impl Clients {
    /// Asks for everything again, and whether accounts, tokens and books are what the receipts lead to.
    pub(crate) async fn audit(&self) -> anyhow::Result<()> {
        let hashes: Vec<B256> = self.book.told.borrow().keys().copied().collect();
        for hash in hashes {
            let mut tries = 0;
            while self.ask(hash, Wait::Final).await != Ok(TransactionFinality::Final) {
                tries += 1;
                if tries > 60 {
                    self.book.violation(format!("durable-ack: {hash} was final and is not known"));
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        let count = self.addresses.len();
        let mut wei = vec![U256::from(BEGIN_WEI); count];
        let mut tokens = vec![vec![U256::from(MINTED); count]; self.cast.tokens.len()];
        let mut nonces = vec![0_u64; count];
        let mut held = vec![vec![i128::from(HELD); BOOK_ACCOUNTS]; BOOKS];
        let mut cut = 0;
        for Told { deed, from, done, .. } in self.book.told.borrow().values() {
            let Some(done) = done else { continue };
            cut = cut.max(done.cut);
            nonces[*from] += 1;
            let price = U256::from_be_slice(&done.effective_gas_price);
            wei[*from] -= price * U256::from(done.gas_used);
            match deed {
                Deed::Pay { to, wei: amount } if done.status => {
                    wei[*from] -= U256::from(*amount);
                    wei[*to] += U256::from(*amount);
                }
                Deed::Move { from, to, amount } if done.status => {
                    held[from.0][from.1] -= i128::from(*amount);
                    held[to.0][to.1] += i128::from(*amount);
                }
                Deed::Token { token, to, amount } if done.status => {
                    tokens[*token][*from] -= U256::from(*amount);
                    tokens[*token][*to] += U256::from(*amount);
                }
                Deed::Other { wei: amount } if done.status => wei[*from] -= *amount,
                _ => {}
            }
        }
        for (index, address) in self.addresses.iter().enumerate() {
            let account =
                self.api.account(*address, cut).await.context("cannot read an account")?;
            let found = (account.nonce, account.balance);
            let expected = (nonces[index], wei[index]);
            if found != expected {
                let what = format!("exactly-once: {address} has {found:?}, not {expected:?}");
                self.book.violation(what);
            }
            if index >= self.cast.wallets.len() {
                continue;
            }
            for (token, balances) in self.cast.tokens.iter().zip(&tokens) {
                let call = Token::balanceOfCall { account: *address };
                let reply = self.api.call(*token, call.abi_encode().into(), cut).await?;
                let found = U256::from_be_slice(&reply.return_data);
                if found != balances[index] {
                    let expected = balances[index];
                    let what = format!("atomicity: {address} has {found} {token}, not {expected}");
                    self.book.violation(what);
                }
            }
        }
        let found = self.held(cut).await?;
        let expected: Vec<i128> = held.into_iter().flatten().collect();
        if found != expected {
            self.book.violation(format!("atomicity: books hold {found:?}, not {expected:?}"));
        }
        self.audit_lists(cut).await
    }

    /// Every list holds what was appended, once, and all lists together have one order.
    async fn audit_lists(&self, cut: u64) -> anyhow::Result<()> {
        let all = (0..BOOKS).flat_map(|book| (0..LISTS).map(move |list| (book, list)));
        let reads: Vec<Step> = all.clone().map(|(book, list)| (book, list, 0)).collect();
        let reply = self.api.call(self.cast.books[0], self.cast.steps(&reads).into(), cut).await?;
        let lists = contracts::Book::runCall::abi_decode_returns(&reply.return_data)?;
        let mut expected: BTreeMap<(usize, usize), Vec<u64>> = BTreeMap::new();
        let mut writers = BTreeMap::new();
        for (number, told) in self.book.told.borrow().values().enumerate() {
            let Deed::Append(steps) = &told.deed else { continue };
            if told.done.as_ref().is_some_and(|done| done.status) {
                for (book, list, value) in steps {
                    expected.entry((*book, *list)).or_default().push(*value);
                    writers.insert(*value, number);
                }
            }
        }
        let mut order = Vec::new();
        for (place, list) in all.zip(lists) {
            let found: Vec<u64> = list.iter().map(|value| value.saturating_to()).collect();
            let (mut one, mut other) = (found.clone(), expected.remove(&place).unwrap_or_default());
            one.sort_unstable();
            other.sort_unstable();
            if one != other {
                self.book
                    .violation(format!("atomicity: list {place:?} has {one:?}, not {other:?}"));
            }
            let by = |value: &u64| writers.get(value).copied();
            order.extend(found.windows(2).filter_map(|two| Some((by(&two[0])?, by(&two[1])?))));
        }
        if has_circle(order) {
            self.book.violation("serial-equivalence: lists have no order in common".to_owned());
        }
        Ok(())
    }

    /// What all accounts of all books hold, at one cut that is not before `min_cut`.
    async fn held(&self, min_cut: u64) -> anyhow::Result<Vec<i128>> {
        let accounts = U256::from(BOOK_ACCOUNTS);
        let call = contracts::Book::totalsCall { books: self.cast.books.clone(), accounts };
        let reply = self.api.call(self.cast.books[0], call.abi_encode().into(), min_cut).await?;
        anyhow::ensure!(reply.outcome() == CallOutcome::Succeeded, "a call fails: {reply:?}");
        let held = contracts::Book::totalsCall::abi_decode_returns(&reply.return_data)?;
        Ok(held.iter().map(|held| held.saturating_to::<u64>().into()).collect())
    }

    /// Reads all books over and over, each time at the newest cut: whatever moves, nothing appears and
    /// nothing is lost, at any cut.
    pub(crate) async fn watch(&self) {
        while self.book.phase.get() < Phase::Healed {
            tokio::time::sleep(Duration::from_millis(150)).await;
            let Ok(Ok(held)) = tokio::time::timeout(PATIENCE, self.held(0)).await else { continue };
            self.book.cuts_read.set(self.book.cuts_read.get() + 1);
            let expected = (BOOKS * BOOK_ACCOUNTS) as i128 * i128::from(HELD);
            if held.iter().sum::<i128>() != expected {
                self.book.violation(format!("atomicity: at a cut books hold {held:?}"));
            }
        }
    }
}

/// Whether what comes before what leads back to where it began.
fn has_circle(order: Vec<(usize, usize)>) -> bool {
    let mut after: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut before: BTreeMap<usize, usize> = BTreeMap::new();
    for (one, other) in order.into_iter().filter(|(one, other)| one != other) {
        after.entry(one).or_default().push(other);
        before.entry(one).or_default();
        *before.entry(other).or_default() += 1;
    }
    let mut free: Vec<usize> =
        before.iter().filter(|(_, count)| **count == 0).map(|(tx, _)| *tx).collect();
    let mut left = before.len();
    while let Some(tx) = free.pop() {
        left -= 1;
        for next in after.remove(&tx).unwrap_or_default() {
            if let Some(count) = before.get_mut(&next) {
                *count -= 1;
                if *count == 0 {
                    free.push(next);
                }
            }
        }
    }
    left > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_leads_back_is_found() {
        assert!(!has_circle(vec![(1, 2), (2, 3), (1, 3), (1, 3), (4, 4)]));
        assert!(has_circle(vec![(1, 2), (2, 3), (3, 1)]));
    }
}
