//! What services count.

use atoll_fabric::{Malformed, Traffic};
use atoll_wire::v1 as wire;

use super::{Proto, messages};

messages! {
    Traffic => Traffic {
        requests: plain, request_bytes: plain, replies: plain, reply_bytes: plain,
    }
}

impl Proto<wire::RuleCount> for (String, u64) {
    fn into_wire(self) -> wire::RuleCount {
        let (rule, count) = self;
        wire::RuleCount { rule, count }
    }

    fn from_wire(wire: wire::RuleCount) -> Result<Self, Malformed> {
        Ok((wire.rule, wire.count))
    }
}
