//! What gas costs: a function of what the shards' local blocks use.

use std::sync::Arc;

use atoll_types::Anchor;

use super::Planner;

/// Wei that the base fee never falls below.
const MIN_BASE_FEE: u64 = 7;
/// Reciprocal of the largest change of the base fee in twelve seconds (EIP-1559).
const BASE_FEE_CHANGE_DENOMINATOR: i128 = 8;
const BASE_FEE_PERIOD_S: i128 = 12;

impl Planner {
    pub(super) fn gas_after(&self, anchors: &[Arc<Anchor>]) -> Vec<u64> {
        let mut gas: Vec<u64> =
            self.anchors.iter().map(|a| a.as_ref().map_or(0, |a| a.gas_used)).collect();
        for anchor in anchors {
            gas[usize::from(anchor.shard.0)] = anchor.gas_used;
        }
        gas
    }

    /// EIP-1559's rule on the busiest shard's gas for each second, an eighth in twelve seconds at
    /// the most. It changes when the timestamp does.
    pub(super) fn base_fee(&self, timestamp: u64, anchors: &[Arc<Anchor>]) -> u64 {
        let fee = self.block.env.base_fee;
        let seconds = i128::from(timestamp - self.block.env.timestamp.min(timestamp));
        if seconds == 0 {
            return fee;
        }
        let gas = self.gas_after(anchors);
        let used = gas.iter().zip(&self.priced_gas).map(|(now, then)| now.saturating_sub(*then));
        let target = i128::from(self.config.target_gas_per_second.max(1));
        let rate = i128::from(used.max().unwrap_or(0)) / seconds;
        let excess = (rate - target).clamp(-target, target);
        let seconds = seconds.min(BASE_FEE_PERIOD_S);
        let scale = target * BASE_FEE_CHANGE_DENOMINATOR * BASE_FEE_PERIOD_S;
        let change = i128::from(fee) * excess * seconds / scale;
        let change = if excess > 0 { change.max(1) } else { change };
        u64::try_from(i128::from(fee) + change).unwrap_or(u64::MAX).max(MIN_BASE_FEE)
    }
}
