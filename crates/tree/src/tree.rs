//! The nodes above the pages.

use atoll_proof::{EMPTY, Hash, Proof, bit, inner};

use crate::page::{self, Leaf};
use crate::pages::{PageError, Pages};
use crate::scratch::Scratch;

/// How a tree uses memory.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Most leaves of a page.
    pub page_leaves: usize,
    /// Most pages in memory.
    pub resident_pages: usize,
}

impl Config {
    /// Pages as large as measurement has found best, and at most so many bytes of leaves in memory.
    pub fn with_leaf_bytes(bytes: usize) -> Self {
        let page_leaves = 8;
        // A page of random keys is a little more than two thirds full.
        Self { page_leaves, resident_pages: bytes / (page_leaves * page::LEAF_BYTES * 7 / 10) }
    }
}

/// What a key holds from now on.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The key's hash.
    pub key: Hash,
    /// The value's hash; `None` if the key holds its default.
    pub value: Option<Hash>,
}

/// What a tree takes, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Nodes and slots: in proportion to the number of pages.
    pub upper: usize,
    /// Leaves of pages in memory.
    pub leaves: usize,
}

/// A subtree of the upper part. One with half a page of leaves or less is a page.
#[derive(Clone, Copy, Debug)]
struct Node {
    hash: Hash,
    leaves: u32,
    below: Below,
}

#[derive(Clone, Copy, Debug)]
enum Below {
    Page(u32),
    Inner([u32; 2]),
}

/// An authenticated set of leaves.
pub struct Tree {
    /// The first one is the top.
    nodes: Vec<Node>,
    free: Vec<u32>,
    pages: Pages,
    page_leaves: usize,
}

impl Tree {
    /// A tree without keys.
    ///
    /// # Errors
    /// Of the scratch.
    pub fn new(config: Config, scratch: Box<dyn Scratch>) -> Result<Self, PageError> {
        let page_leaves = config.page_leaves.max(2);
        let mut pages = Pages::new(page_leaves, config.resident_pages, scratch);
        let below = Below::Page(pages.add(Box::default())?);
        let top = Node { hash: EMPTY, leaves: 0, below };
        Ok(Self { nodes: vec![top], free: Vec::new(), pages, page_leaves })
    }

    pub fn root(&self) -> Hash {
        self.nodes[0].hash
    }

    /// How many keys there are.
    pub fn len(&self) -> u32 {
        self.nodes[0].leaves
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn memory(&self) -> Memory {
        let nodes = self.nodes.capacity() * size_of::<Node>() + self.free.capacity() * 4;
        let (slots, leaves) = self.pages.memory();
        Memory { upper: nodes + slots, leaves }
    }

    /// Makes changes; the last one counts where a key has several. The new root.
    ///
    /// # Errors
    /// [`PageError`], after which the tree is of no use.
    pub fn update(&mut self, mut changes: Vec<Change>) -> Result<Hash, PageError> {
        // Stable, so that the last of a key stays the last.
        changes.sort_by_key(|change| change.key);
        changes.reverse();
        changes.dedup_by_key(|change| change.key);
        changes.reverse();
        self.update_node(0, 0, &changes)?;
        Ok(self.root())
    }

    /// Returns whether anything has changed.
    fn update_node(
        &mut self,
        id: u32,
        depth: usize,
        changes: &[Change],
    ) -> Result<bool, PageError> {
        if changes.is_empty() {
            return Ok(false);
        }
        let Below::Inner([left, right]) = self.nodes[id as usize].below else {
            return self.update_page(id, depth, changes);
        };
        let at = changes.partition_point(|change| !bit(&change.key, depth));
        let (on_left, on_right) = changes.split_at(at);
        let changed = self.update_node(left, depth + 1, on_left)?
            | self.update_node(right, depth + 1, on_right)?;
        if changed {
            self.sum_up(id, depth)?;
        }
        Ok(changed)
    }

    /// Brings an inner node up to date with those below it.
    fn sum_up(&mut self, id: u32, depth: usize) -> Result<(), PageError> {
        let Below::Inner(children) = self.nodes[id as usize].below else {
            return Ok(());
        };
        let [left, right] = children.map(|child| self.nodes[child as usize]);
        let leaves = left.leaves + right.leaves;
        if leaves as usize > self.page_leaves / 2 {
            let node = &mut self.nodes[id as usize];
            (node.hash, node.leaves) = (inner(&left.hash, &right.hash), leaves);
            return Ok(());
        }
        // Both are pages: a node with so few leaves has become one before.
        let mut all = Vec::with_capacity(leaves as usize);
        for child in [left, right] {
            if let Below::Page(slot) = child.below {
                all.extend(self.take_page(slot, &child, depth + 1)?);
            }
        }
        self.free.extend(children);
        self.build(id, depth, all.into())
    }

    fn update_page(
        &mut self,
        id: u32,
        depth: usize,
        changes: &[Change],
    ) -> Result<bool, PageError> {
        let node = self.nodes[id as usize];
        let Below::Page(slot) = node.below else {
            return Ok(false);
        };
        let page_leaves = self.page_leaves;
        let leaves = self.page(slot, &node, depth)?;
        match merge(leaves, changes) {
            Merged::Same => Ok(false),
            Merged::InPlace => {
                let hash = page::hash_of(leaves, depth);
                self.pages.changed(slot);
                self.nodes[id as usize].hash = hash;
                Ok(true)
            }
            Merged::New(all) if all.len() <= page_leaves => {
                let (hash, count) = (page::hash_of(&all, depth), all.len() as u32);
                *leaves = all;
                self.pages.changed(slot);
                self.nodes[id as usize] = Node { hash, leaves: count, ..node };
                Ok(true)
            }
            Merged::New(all) => {
                self.take_page(slot, &node, depth)?;
                self.build(id, depth, all)?;
                Ok(true)
            }
        }
    }

    /// Makes a node a page of these leaves, or what they need.
    fn build(&mut self, id: u32, depth: usize, all: Box<[Leaf]>) -> Result<(), PageError> {
        let leaves = all.len() as u32;
        if all.len() <= self.page_leaves {
            let hash = page::hash_of(&all, depth);
            let below = Below::Page(self.pages.add(all)?);
            self.nodes[id as usize] = Node { hash, leaves, below };
            return Ok(());
        }
        let (on_left, on_right) = page::halves(&all, depth);
        let children = [self.new_node(), self.new_node()];
        self.build(children[0], depth + 1, on_left.into())?;
        self.build(children[1], depth + 1, on_right.into())?;
        let [left, right] = children.map(|child| self.nodes[child as usize].hash);
        let below = Below::Inner(children);
        self.nodes[id as usize] = Node { hash: inner(&left, &right), leaves, below };
        Ok(())
    }

    fn new_node(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node { hash: EMPTY, leaves: 0, below: Below::Inner([0, 0]) });
            (self.nodes.len() - 1) as u32
        })
    }

    fn page(
        &mut self,
        slot: u32,
        node: &Node,
        depth: usize,
    ) -> Result<&mut Box<[Leaf]>, PageError> {
        let check = |leaves: &[Leaf]| page::hash_of(leaves, depth) == node.hash;
        self.pages.get(slot, node.leaves as usize, check)
    }

    fn take_page(
        &mut self,
        slot: u32,
        node: &Node,
        depth: usize,
    ) -> Result<Box<[Leaf]>, PageError> {
        let check = |leaves: &[Leaf]| page::hash_of(leaves, depth) == node.hash;
        self.pages.remove(slot, node.leaves as usize, check)
    }

    /// The node of the page in which a key stands or would stand, with what stands beside its path.
    fn descend(&self, key: &Hash) -> (u32, Vec<Hash>) {
        let mut id = 0;
        let mut siblings = Vec::new();
        while let Below::Inner(children) = self.nodes[id as usize].below {
            let right = bit(key, siblings.len());
            siblings.push(self.nodes[children[usize::from(!right)] as usize].hash);
            id = children[usize::from(right)];
        }
        (id, siblings)
    }

    /// The hash of a key's value, by the key's hash.
    ///
    /// # Errors
    /// [`PageError`].
    pub fn get(&mut self, key: &Hash) -> Result<Option<Hash>, PageError> {
        let (id, siblings) = self.descend(key);
        let node = self.nodes[id as usize];
        let Below::Page(slot) = node.below else { return Ok(None) };
        let leaves = self.page(slot, &node, siblings.len())?;
        Ok(page::find(leaves, key).map(|leaf| leaf.value))
    }

    /// A proof of what a key holds, by the key's hash.
    ///
    /// # Errors
    /// [`PageError`].
    pub fn prove(&mut self, key: &Hash) -> Result<Proof, PageError> {
        let (id, siblings) = self.descend(key);
        let node = self.nodes[id as usize];
        let Below::Page(slot) = node.below else { return Ok(page::prove(&[], key, siblings)) };
        let leaves = self.page(slot, &node, siblings.len())?;
        Ok(page::prove(leaves, key, siblings))
    }
}

enum Merged {
    Same,
    /// Only values have changed.
    InPlace,
    /// These are the leaves from now on.
    New(Box<[Leaf]>),
}

/// Makes changes, sorted and one a key, to sorted leaves.
fn merge(leaves: &mut [Leaf], changes: &[Change]) -> Merged {
    let mut changed = false;
    let mut moved: Vec<&Change> = Vec::new();
    for change in changes {
        match (leaves.binary_search_by_key(&change.key, |leaf| leaf.key), change.value) {
            (Ok(at), Some(value)) => {
                changed |= leaves[at].value != value;
                leaves[at].value = value;
            }
            (Err(_), None) => {}
            (Ok(_), None) | (Err(_), Some(_)) => moved.push(change),
        }
    }
    if moved.is_empty() {
        return if changed { Merged::InPlace } else { Merged::Same };
    }
    let mut all = Vec::with_capacity(leaves.len() + moved.len());
    let leaf = |change: &Change| Some(Leaf { key: change.key, value: change.value? });
    let mut moved = moved.into_iter().peekable();
    for old in leaves.iter() {
        while let Some(change) = moved.next_if(|change| change.key < old.key) {
            all.extend(leaf(change));
        }
        if moved.next_if(|change| change.key == old.key).is_none() {
            all.push(*old);
        }
    }
    all.extend(moved.filter_map(leaf));
    Merged::New(all.into())
}
