//! Groups: runs each on the blocking pool, and fetches the code that it turns out to need.

use std::sync::Arc;

use atoll_api::executor::{ExecutorError, GroupRun, RunGroups, RunGroupsReply};
use atoll_evm::{Bytecode, Group, GroupError, Source};
use atoll_fabric::Waits;
use atoll_telemetry::{metrics::Timer, stages};
use atoll_types::{B256, GroupId, GroupResult, KeySet, LateAsk, Part, SharedTx, TxOutcome};

use crate::shared::{Ground, Shared};

const MAX_PASSES: usize = 1_024;

impl Source for Shared {
    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.code(hash)
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        self.block_hash(number)
    }
}

/// Runs groups. The same request gives the same reply, wherever and however often it is run.
pub(crate) async fn run_groups(
    shared: Arc<Shared>,
    request: RunGroups,
) -> Result<RunGroupsReply, ExecutorError> {
    let txs = request.groups.iter().flat_map(|run| run.txs.iter().map(|shared| &shared.tx));
    let _stages = stages("run", shared.shard(), txs);
    // A router may hear of a cut first; the hashes of the blocks before it have to be here, too.
    let newest = request.groups.iter().map(|run| run.env.number).max().unwrap_or(0);
    let passed = |ground: &Option<Ground>| ground.as_ref().is_some_and(|g| g.tip.cut >= newest);
    // Fails only if the sender is gone, and it is in `shared`.
    let _ = shared.ground.subscribe().wait_for(passed).await;
    let runner = shared.clone();
    let work = move |waits: &Waits| {
        let timer = Timer::start();
        let all = || run_all(&runner, request, waits);
        let reply = runner.counts.groups.measure(all);
        timer.stage("run", runner.shard());
        reply
    };
    let reply = shared.config.machine.run_waiting(work).await;
    let reply = reply.map_err(|e| ExecutorError::BadGroup { what: e.to_string() })?;
    let outcomes = || reply.results.iter().flat_map(|r| &r.parts).flat_map(|part| &part.outcomes);
    let wrong = |(_, outcome): &&(B256, TxOutcome)| matches!(outcome, TxOutcome::Wrong { .. });
    shared.counts.groups.done(reply.results.len(), outcomes().count());
    shared.counts.wrong.add(outcomes().filter(wrong).count());
    Ok(reply)
}

/// Groups have nothing to do with one another: each runs on its own leases.
fn run_all(shared: &Arc<Shared>, request: RunGroups, waits: &Waits) -> RunGroupsReply {
    let mut reply = RunGroupsReply { results: Vec::new(), lacking: Vec::new() };
    let ids: Vec<GroupId> = request.groups.iter().map(|run| run.group.id).collect();
    let txs = request.groups.iter().flat_map(|run| run.txs.iter().map(|shared| &shared.tx));
    let takes_ns = shared.groups.takes_ns(txs);
    let (runner, waits) = (shared.clone(), waits.clone());
    let run = move |run: &GroupRun| run_one(&runner, run, &waits);
    for (group, ran) in ids.into_iter().zip(shared.groups.each(request.groups, takes_ns, run)) {
        match ran {
            Ok(Ran::Parts(parts)) => reply.results.push(GroupResult { group, parts }),
            Ok(Ran::Lacks(keys)) => reply.lacking.push(LateAsk { group, keys }),
            Err(error) => tracing::warn!(%group, %error, "group does not run"),
        }
    }
    reply
}

enum Ran {
    Parts(Vec<Part>),
    /// It has to be leased more.
    Lacks(KeySet),
}

/// On the blocking pool.
fn run_one(shared: &Arc<Shared>, run: &GroupRun, waits: &Waits) -> Result<Ran, ExecutorError> {
    let group = Group {
        placement: shared.placement(),
        plan: &run.group,
        env: &run.env,
        rules: shared.config.rules,
        epoch: run.epoch,
        txs: &run.txs,
        values: &run.values,
        late_writes: &run.late_writes,
        refused: &run.refused,
    };
    for _ in 0..MAX_PASSES {
        match group.run_with(shared.clone(), &shared.groups) {
            Ok(parts) => {
                tell_vain_attempts(run, &parts);
                return Ok(Ran::Parts(parts));
            }
            // Code is read from this shard's state, where the router has put it.
            Err(GroupError::Codes(codes)) => {
                let unknown = waits.until(shared.fetch(Vec::new(), codes))?;
                if let Some(hash) = unknown.first() {
                    let what = format!("code {hash} is not with this shard's state");
                    return Err(ExecutorError::BadGroup { what });
                }
            }
            Err(GroupError::Lacks(keys)) => return Ok(Ran::Lacks(keys)),
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
