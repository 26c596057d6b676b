//! Requests and replies of `executor`.

use super::{messages, variants};
use crate::executor::{
    CodeWanted, Debit, GroupRun, Predict, PredictReply, Prediction, RunGroups, RunGroupsReply,
};

messages! {
    Predict => PredictRequest { txs: list, known: small_list }
    PredictReply => PredictResponse { predictions: list }
    CodeWanted => CodeWanted { hash: plain, account: plain }
    Debit => DebitRequest { txs: list }
    RunGroups => RunGroupsRequest { groups: list }
    GroupRun => GroupRun {
        group: required, env: required, epoch: plain, txs: list, values: small_list,
    }
    RunGroupsReply => RunGroupsResponse { results: list }
}

variants! {
    Prediction => prediction::Prediction, prediction: Prediction {
        uses: Uses { keys: required, credit: plain }
        needs: Needs { keys: small_list, codes: list }
        invalid: Invalid { reason: plain, nonce_ahead: plain }
    }
}
