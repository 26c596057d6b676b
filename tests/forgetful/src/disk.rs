//! Files and directories as they are, and as the disk has them.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    mem,
};

pub const ROOT: u64 = 1;
/// A file in the root: writing a number to it cuts the power, with that seed.
pub const SWITCH: u64 = 2;
pub const SWITCH_NAME: &str = ".power";
const SECTOR: usize = 512;
/// What lies this deep is not forgotten: a test keeps its own things there.
const SAFE_DEPTH: u32 = 2;

type Names = BTreeMap<OsString, u64>;

/// What it holds, and what of that has been synced.
pub enum Node {
    Dir { live: Names, synced: Names, depth: u32 },
    File { live: Vec<u8>, synced: Vec<u8>, depth: u32 },
}

pub struct Disk {
    nodes: HashMap<u64, Node>,
    next: u64,
}

/// What a power cut has done.
#[derive(Debug, Default)]
pub struct Cut {
    pub files_changed: u64,
    pub sectors_lost: u64,
    pub sectors_torn: u64,
    pub names_lost: u64,
}

impl Disk {
    pub fn new() -> Self {
        let switch = Node::File { live: Vec::new(), synced: Vec::new(), depth: 1 };
        let names = Names::from([(SWITCH_NAME.into(), SWITCH)]);
        let root = Node::Dir { live: names.clone(), synced: names, depth: 0 };
        Self { nodes: HashMap::from([(ROOT, root), (SWITCH, switch)]), next: 3 }
    }

    pub fn node(&self, number: u64) -> Option<&Node> {
        self.nodes.get(&number)
    }

    pub fn names(&self, number: u64) -> Option<&Names> {
        match self.nodes.get(&number)? {
            Node::Dir { live, .. } => Some(live),
            Node::File { .. } => None,
        }
    }

    pub fn find(&self, parent: u64, name: &OsStr) -> Option<u64> {
        self.names(parent)?.get(name).copied()
    }

    pub fn make(&mut self, parent: u64, name: &OsStr, is_dir: bool) -> Option<u64> {
        let depth = match self.nodes.get(&parent)? {
            Node::Dir { depth, .. } => depth + 1,
            Node::File { .. } => return None,
        };
        let number = self.next;
        self.next += 1;
        let node = match is_dir {
            true => Node::Dir { live: Names::new(), synced: Names::new(), depth },
            false => Node::File { live: Vec::new(), synced: Vec::new(), depth },
        };
        self.nodes.insert(number, node);
        self.set(parent, name, Some(number));
        Some(number)
    }

    /// Has a name lead to a node, or to none. Nodes stay: somebody may have them open.
    pub fn set(&mut self, parent: u64, name: &OsStr, number: Option<u64>) -> bool {
        let Some(Node::Dir { live, .. }) = self.nodes.get_mut(&parent) else { return false };
        match number {
            Some(number) => live.insert(name.to_owned(), number).is_some(),
            None => live.remove(name).is_some(),
        }
    }

    pub fn content(&mut self, number: u64) -> Option<&mut Vec<u8>> {
        match self.nodes.get_mut(&number)? {
            Node::File { live, .. } => Some(live),
            Node::Dir { .. } => None,
        }
    }

    pub fn sync(&mut self, number: u64) {
        match self.nodes.get_mut(&number) {
            Some(Node::File { live, synced, .. }) => synced.clone_from(live),
            Some(Node::Dir { live, synced, .. }) => synced.clone_from(live),
            None => {}
        }
    }

    /// Forgets what was not synced: of each sector that changed since, one of the two, or a part of
    /// each; of each directory, all names that changed since or none.
    pub fn cut(&mut self, seed: u64) -> Cut {
        let mut random = Random(seed);
        let mut cut = Cut::default();
        let mut numbers: Vec<u64> = self.nodes.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            match self.nodes.get_mut(&number) {
                Some(Node::File { live, synced, depth }) if *depth > SAFE_DEPTH => {
                    if live != synced {
                        cut.files_changed += 1;
                        forget(live, synced, &mut random, &mut cut);
                    }
                    synced.clone_from(live);
                }
                Some(Node::Dir { live, synced, depth }) if *depth >= SAFE_DEPTH => {
                    if live != synced && random.below(2) == 0 {
                        cut.names_lost += 1;
                        live.clone_from(synced);
                    }
                    synced.clone_from(live);
                }
                _ => {}
            }
        }
        cut
    }
}

fn forget(live: &mut Vec<u8>, synced: &[u8], random: &mut Random, cut: &mut Cut) {
    let new = mem::take(live);
    let (shorter, longer) = (new.len().min(synced.len()), new.len().max(synced.len()));
    let length = shorter + random.below((longer - shorter) as u64 + 1) as usize;
    live.resize(length, 0);
    for from in (0..length).step_by(SECTOR) {
        let to = (from + SECTOR).min(length);
        let byte = |of: &[u8], at: usize| of.get(at).copied().unwrap_or(0);
        let changed = (from..to).any(|at| byte(&new, at) != byte(synced, at));
        // How much of the sector is new.
        let border = match random.below(4) {
            _ if !changed => to,
            0 | 1 => to,
            2 => from,
            _ => from + random.below((to - from) as u64) as usize,
        };
        cut.sectors_lost += u64::from(border == from && changed);
        cut.sectors_torn += u64::from(border > from && border < to);
        for (at, here) in live.iter_mut().enumerate().take(to).skip(from) {
            *here = if at < border { byte(&new, at) } else { byte(synced, at) };
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_stays_and_what_was_not_can_go() {
        let mut lost = 0;
        for seed in 0..50 {
            let mut disk = Disk::new();
            let a = disk.make(ROOT, OsStr::new("a"), true).unwrap();
            let b = disk.make(a, OsStr::new("b"), true).unwrap();
            let file = disk.make(b, OsStr::new("file"), false).unwrap();
            disk.content(file).unwrap().extend_from_slice(&[1; 3_000]);
            disk.sync(file);
            disk.sync(b);
            disk.content(file).unwrap().extend_from_slice(&[2; 3_000]);
            disk.make(b, OsStr::new("other"), false).unwrap();
            disk.cut(seed);
            assert_eq!(disk.find(b, OsStr::new("file")), Some(file));
            let content = disk.content(file).unwrap();
            assert!(content.len() >= 3_000 && content[..3_000] == [1; 3_000]);
            lost += u32::from(disk.find(b, OsStr::new("other")).is_none());
        }
        assert!(lost > 10 && lost < 40);
    }
}
