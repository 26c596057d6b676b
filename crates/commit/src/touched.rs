//! When keys were last read or written, for late leases.

use alloy_primitives::map::HashMap;
use atoll_types::{GroupId, StateKey};
use serde::Serialize;

/// Keys after which the older half is forgotten.
const GENERATION: usize = 1 << 18;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum By {
    Group(GroupId),
    Others,
}

/// For each key that was used lately, the newest place in the serial order at which it was.
///
/// A cache: what it has forgotten counts as used. Keys are told apart by their fingerprints; two with
/// one fingerprint only make it say "used" too often.
#[derive(Clone, Debug, Serialize)]
pub struct Touched {
    /// Uses at this cut and before it may have been forgotten.
    since: u64,
    /// The newest cut in `recent`.
    newest: u64,
    recent: HashMap<u64, (u64, By)>,
    older: HashMap<u64, (u64, By)>,
    /// The newest cut in `older`.
    older_newest: u64,
}

impl Touched {
    /// Nothing is known of uses up to cut `cut`.
    pub fn since(cut: u64) -> Self {
        Self {
            since: cut,
            newest: cut,
            recent: HashMap::default(),
            older: HashMap::default(),
            older_newest: cut,
        }
    }

    /// Notes that a local transaction after cut `cut`, a deposit of that epoch, or a group of that
    /// round uses a key.
    pub fn note(&mut self, key: &StateKey, cut: u64, by: Option<GroupId>) {
        if self.recent.len() >= GENERATION {
            self.since = self.since.max(self.older_newest);
            self.older = std::mem::take(&mut self.recent);
            self.older_newest = self.newest;
        }
        self.newest = self.newest.max(cut);
        let by = by.map_or(By::Others, By::Group);
        let before = self.recent.entry(key.fingerprint()).or_insert((cut, by));
        match before.0.cmp(&cut) {
            std::cmp::Ordering::Less => *before = (cut, by),
            std::cmp::Ordering::Equal if before.1 != by => before.1 = By::Others,
            _ => {}
        }
    }

    /// Whether nothing but this group has used a key since the group's cut.
    pub fn is_untouched(&self, key: &StateKey, group: GroupId) -> bool {
        let (hash, cut) = (key.fingerprint(), group.round);
        let harmless = |used: &(u64, By)| used.0 < cut || *used == (cut, By::Group(group));
        cut > self.since
            && self.recent.get(&hash).is_none_or(harmless)
            && self.older.get(&hash).is_none_or(harmless)
    }
}

#[cfg(test)]
mod tests {
    use atoll_types::Address;

    use super::*;

    #[test]
    fn uses_since_a_cut_are_known_or_suspected() {
        let key = |n: u64| {
            StateKey::Basic(Address::from_word(alloy_primitives::B256::from(
                alloy_primitives::U256::from(n),
            )))
        };
        let group = |round| GroupId { round, index: 0 };
        let mut touched = Touched::since(4);
        assert!(!touched.is_untouched(&key(1), group(4)), "nothing is known of what was before");
        assert!(touched.is_untouched(&key(1), group(5)));
        touched.note(&key(1), 5, Some(group(5)));
        assert!(touched.is_untouched(&key(1), group(5)), "its own use does not count");
        touched.note(&key(1), 5, Some(GroupId { round: 5, index: 1 }));
        assert!(!touched.is_untouched(&key(1), group(5)));
        assert!(touched.is_untouched(&key(1), group(6)));
        touched.note(&key(1), 4, None);
        assert!(touched.is_untouched(&key(1), group(6)), "the newest use counts");
        for n in 0..2 * GENERATION as u64 + 2 {
            touched.note(&key(n + 10), 7, None);
        }
        assert!(!touched.is_untouched(&key(1), group(5)), "what is forgotten counts as used");
        assert!(!touched.is_untouched(&key(2), group(7)));
        assert!(touched.is_untouched(&key(2), group(8)));
    }
}
