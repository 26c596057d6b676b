//! One case: runs it, and says whether what came out is what had to.

use alloy_primitives::B256;
use anyhow::{Context as _, bail, ensure};
use atoll_evm::{Fees, Fork, Parallelism};
use atoll_types::{BlockEnv, Executed, Tx};
use serde::Serialize;
use serde_json::Value;

use super::{
    read::{field, text},
    transaction::{Indexes, defect, transaction},
    world,
};
use crate::replay::{Block, Memory, Ran, parallel, sequential, spread};

/// What is told of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub name: String,
    pub fork: String,
    /// Which of the transaction's variants: `indexes` of the case.
    pub data: usize,
    pub gas: usize,
    pub value: usize,
    pub pass: bool,
    /// What came out; `null` if nothing could be run.
    pub state_root: Option<B256>,
    pub logs_hash: Option<B256>,
    /// Why it does not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Line {
    /// A case that cannot even be begun.
    pub(super) fn broken(name: &str, fork: &str, why: &str) -> Self {
        Self {
            name: name.into(),
            fork: fork.into(),
            data: 0,
            gas: 0,
            value: 0,
            pass: false,
            state_root: None,
            logs_hash: None,
            error: Some(why.into()),
        }
    }
}

/// One fork and variant of a test.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub name: &'a str,
    pub fork: &'a str,
    pub test: &'a Value,
    pub post: &'a Value,
}

/// What a case came to.
struct Result {
    state: Memory,
    /// What the transaction did, or why it could not run.
    ran: std::result::Result<Executed, String>,
}

impl Case<'_> {
    /// Runs it.
    pub fn run(&self, shards: u16, lanes: Option<&Parallelism>) -> Line {
        let mut line = Line::broken(self.name, self.fork, "");
        let passed = self.check(shards, lanes, &mut line);
        line.pass = passed.is_ok();
        line.error = passed.err().map(|error| format!("{error:#}"));
        line
    }

    fn check(
        &self,
        shards: u16,
        lanes: Option<&Parallelism>,
        line: &mut Line,
    ) -> anyhow::Result<()> {
        let at = Indexes::of(self.post)?;
        (line.data, line.gas, line.value) = (at.data, at.gas, at.value);
        let fork = world::fork(self.fork)
            .with_context(|| format!("fork {} is not supported", self.fork))?;
        let env = world::env(self.test, fork).context("`env`")?;
        let before = world::state(self.test, env.number)?;
        let exception = field(self.post, "expectException").map(text).transpose()?;
        let exception = exception.filter(|exception| !exception.is_empty());
        let Result { mut state, ran } = match transaction(self.test, at, env.chain_id) {
            Ok(tx) => self.execute(&env, fork, tx, before, (shards, lanes))?,
            // What cannot be put together could not have been sent.
            Err(error) if exception.is_some() => {
                Result { state: before, ran: Err(format!("{error:#}")) }
            }
            Err(error) => return Err(error.context("`transaction`")),
        };
        world::touch_coinbase(&mut state, &env, fork);
        let root = world::root(&state);
        let logs = ran.as_ref().map_or(&[][..], |executed| &executed.logs);
        let logs = world::logs_hash(logs);
        (line.state_root, line.logs_hash) = (Some(root), Some(logs));
        match (&ran, exception) {
            (Err(why), None) => bail!("the transaction is refused: {why}"),
            // The signature may be what is wrong with it; it does not run then.
            (Ok(_), Some(exception)) => match defect(self.post, env.chain_id, fork) {
                Ok(()) => bail!("the transaction runs, it should be refused: {exception}"),
                Err(_) => return Ok(()),
            },
            (Ok(_), None) | (Err(_), Some(_)) => {}
        }
        let expected = world::expected(self.post, "hash")?;
        ensure!(root == expected, "state root {root}, expected {expected}");
        let expected = world::expected(self.post, "logs")?;
        ensure!(logs == expected, "logs hash {logs}, expected {expected}");
        Ok(())
    }

    fn execute(
        &self,
        env: &BlockEnv,
        fork: Fork,
        tx: Tx,
        before: Memory,
        (shards, lanes): (u16, Option<&Parallelism>),
    ) -> anyhow::Result<Result> {
        let rules = world::rules(self.test, self.fork, fork)?;
        let block = Block { env, rules, txs: &[tx] };
        let mut state = before.clone();
        let ran = match lanes {
            None => sequential(&block, Fees::AtOnce, &mut state),
            Some(lanes) => parallel(&block, Fees::AtOnce, &mut state, lanes),
        };
        let [Ran { outcome, used }] = &ran[..] else {
            bail!("one transaction, {} ends", ran.len())
        };
        let local = outcome.clone().map_err(|invalid| invalid.to_string());
        // What uses no key is refused before anything is shared.
        if shards == 1 || used.all().next().is_none() {
            return Ok(Result { state, ran: local });
        }
        let across = spread(&block, std::slice::from_ref(used), &before, shards, lanes)?;
        let end = across.ended.into_iter().next().context("no end across shards")?;
        Ok(Result { state: across.state, ran: end.map(|receipt| receipt.executed) })
    }
}
