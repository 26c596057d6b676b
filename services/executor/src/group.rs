//! Groups: runs each on the blocking pool, and fetches the code that it turns out to need.

use std::sync::Arc;

use atoll_api::executor::{ExecutorError, GroupRun, RunGroups, RunGroupsReply};
use atoll_evm::{Bytecode, Group, GroupError, Source};
use atoll_telemetry::stages;
use atoll_types::{B256, GroupResult, Part, SharedTx, TxOutcome};

use crate::shared::Shared;

const MAX_PASSES: usize = 1_024;

impl Source for Shared {
    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.code(hash)
    }
}

/// Runs groups. The same request gives the same reply, wherever and however often it is run.
pub(crate) async fn run_groups(
    shared: Arc<Shared>,
    request: RunGroups,
) -> Result<RunGroupsReply, ExecutorError> {
    let txs = request.groups.iter().flat_map(|run| run.txs.iter().map(|shared| &shared.tx));
    let _stages = stages("run", shared.shard(), txs);
    let handle = tokio::runtime::Handle::current();
    let work = move || {
        let run = |run: GroupRun| match run_one(&shared, &run, &handle) {
            Ok(parts) => Some(GroupResult { group: run.group.id, parts }),
            Err(error) => {
                tracing::warn!(group = %run.group.id, %error, "group does not run");
                None
            }
        };
        request.groups.into_iter().filter_map(run).collect()
    };
    let results = tokio::task::spawn_blocking(work).await;
    let results = results.map_err(|e| ExecutorError::BadGroup { what: e.to_string() })?;
    Ok(RunGroupsReply { results })
}

/// On the blocking pool.
fn run_one(
    shared: &Shared,
    run: &GroupRun,
    handle: &tokio::runtime::Handle,
) -> Result<Vec<Part>, ExecutorError> {
    let group = Group {
        placement: shared.placement(),
        plan: &run.group,
        env: &run.env,
        epoch: run.epoch,
        txs: &run.txs,
        values: &run.values,
    };
    for _ in 0..MAX_PASSES {
        match group.run(shared) {
            Ok(parts) => {
                tell_vain_attempts(run, &parts);
                return Ok(parts);
            }
            // Code is read from this shard's state, where the router has put it.
            Err(GroupError::Codes(codes)) => {
                let unknown = handle.block_on(shared.fetch(Vec::new(), codes))?;
                if let Some(hash) = unknown.first() {
                    let what = format!("code {hash} is not with this shard's state");
                    return Err(ExecutorError::BadGroup { what });
                }
            }
            Err(error) => return Err(ExecutorError::BadGroup { what: error.to_string() }),
        }
    }
    Err(ExecutorError::BadGroup { what: "it needs code without end".into() })
}

fn tell_vain_attempts(run: &GroupRun, parts: &[Part]) {
    for (hash, outcome) in parts.iter().flat_map(|part| &part.outcomes) {
        if *outcome != TxOutcome::Executed {
            let tried = run.txs.iter().find(|shared| shared.tx.hash() == hash);
            let (attempt, wrong) =
                tried.map_or((0, 0), |SharedTx { attempt, wrong, .. }| (*attempt, *wrong));
            tracing::debug!(group = %run.group.id, tx = %hash, attempt, wrong, ?outcome, "attempt has no effect");
        }
    }
}
