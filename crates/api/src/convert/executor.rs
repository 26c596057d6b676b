//! Requests and replies of `executor`.

use atoll_meter::WorkDone;

use super::{messages, variants};
use crate::executor::{
    CodeWanted, Debit, ExecutorStats, ExecutorStatsReply, GroupRun, Predict, PredictReply,
    Prediction, RunGroups, RunGroupsReply,
};

messages! {
    Predict => PredictRequest { txs: list, known: small_list }
    PredictReply => PredictResponse { predictions: list }
    CodeWanted => CodeWanted { hash: plain, account: plain }
    Debit => DebitRequest { txs: list }
    RunGroups => RunGroupsRequest { groups: list }
    GroupRun => GroupRun {
        group: required, env: required, epoch: plain, txs: list, values: small_list,
        late_writes: small_list, refused: small_list,
    }
    RunGroupsReply => RunGroupsResponse { results: list, lacking: list }
    ExecutorStats => ExecutorStatsRequest {}
    ExecutorStatsReply => ExecutorStatsResponse {
        local: required, groups: required, predictions: required, wrong: plain,
    }
    WorkDone => Work { batches: plain, items: plain, cpu_ns: plain }
}

variants! {
    Prediction => prediction::Prediction, prediction: Prediction {
        uses: Uses { keys: required, credit: plain }
        needs: Needs { keys: small_list, codes: list }
        invalid: Invalid { reason: plain, nonce_ahead: plain }
        refused: Refused { reason: plain }
    }
}
