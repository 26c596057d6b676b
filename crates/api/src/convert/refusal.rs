//! The rules that messages from other shards break.

use atoll_fabric::Malformed;
use atoll_types::Refusal;
use atoll_wire::v1 as wire;

use super::{Proto, optional, variants};

variants! {
    Refusal => refusal::Refusal, rule: Rule {
        wrong_chain: WrongChain { found: plain, expected: plain }
        wrong_epoch: WrongEpoch { found: plain, expected: plain }
        group_not_open: GroupNotOpen { group: required }
        not_executor: NotExecutor { group: required, found: plain, expected: plain }
        not_for_this_shard: NotForThisShard { group: required, found: plain, expected: plain }
        outside_fence: OutsideFence { group: required, key: required }
        lacks_fenced: LacksFenced { group: required, key: required }
        not_late: NotLate { group: required, key: required, why: plain }
        manifest_mismatch: ManifestMismatch { group: required }
        other_result: OtherResult { group: required }
        credit_gap: CreditGap { from: plain, found: plain, newest: plain }
        not_owner: NotOwner { owner: plain, here: plain }
        old_attempt: OldAttempt { tx: plain, attempt: plain }
        too_many_shared: TooManyShared { limit: plain }
        expired: Expired { last: plain, cut: plain }
        malformed: Malformed { what: plain }
    }
}

impl Proto<wire::Acceptance> for Option<Refusal> {
    fn into_wire(self) -> wire::Acceptance {
        wire::Acceptance { refusal: optional::encode(self) }
    }

    fn from_wire(wire: wire::Acceptance) -> Result<Self, Malformed> {
        optional::decode(wire.refusal, "refusal")
    }
}
