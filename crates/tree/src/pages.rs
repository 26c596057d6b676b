//! Pages by slot: those used recently in memory, the others in the scratch.

use std::io;

use crate::page::{LEAF_BYTES, Leaf, decode, encode};
use crate::scratch::Scratch;

/// Why a page cannot be had. The tree is then neither what it was nor what it was to be: build another
/// one.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error("the tree's scratch file: {0}")]
    Io(#[from] io::Error),
    #[error("page {slot} in the tree's scratch file is not what was written")]
    Damaged { slot: u32 },
}

#[derive(Debug, Default)]
struct Slot {
    /// `None` while it is in the scratch only.
    leaves: Option<Box<[Leaf]>>,
    /// Place in the list of those in memory, if it is.
    at: u32,
    /// The scratch does not have it as it is.
    dirty: bool,
    /// Used since the hand last passed.
    used: bool,
}

pub(crate) struct Pages {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots in memory, in no order; `hand` goes round: the clock algorithm (Corbató 1968).
    resident: Vec<u32>,
    hand: usize,
    max_resident: usize,
    slot_bytes: u64,
    scratch: Box<dyn Scratch>,
}

impl Pages {
    pub fn new(page_leaves: usize, max_resident: usize, scratch: Box<dyn Scratch>) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            resident: Vec::new(),
            hand: 0,
            max_resident: max_resident.max(4),
            slot_bytes: (page_leaves * LEAF_BYTES) as u64,
            scratch,
        }
    }

    /// A page of its own for these leaves.
    pub fn add(&mut self, leaves: Box<[Leaf]>) -> Result<u32, PageError> {
        self.make_room()?;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        self.keep(slot, leaves, true);
        Ok(slot)
    }

    /// The leaves of a page, of which there are `count`. `check` says whether they are what they were,
    /// and is asked of those that come from the scratch.
    pub fn get(
        &mut self,
        slot: u32,
        count: usize,
        check: impl FnOnce(&[Leaf]) -> bool,
    ) -> Result<&mut Box<[Leaf]>, PageError> {
        let at = slot as usize;
        if self.slots[at].leaves.is_none() {
            self.make_room()?;
            let mut bytes = vec![0; count * LEAF_BYTES];
            self.scratch.read(u64::from(slot) * self.slot_bytes, &mut bytes)?;
            let leaves = decode(&bytes);
            if !check(&leaves) {
                return Err(PageError::Damaged { slot });
            }
            self.keep(slot, leaves, false);
        }
        let slot = &mut self.slots[at];
        slot.used = true;
        // It is in memory now.
        Ok(slot.leaves.get_or_insert_default())
    }

    /// What was got has been changed.
    pub fn changed(&mut self, slot: u32) {
        self.slots[slot as usize].dirty = true;
    }

    /// Takes a page away, of which there are `count` leaves.
    pub fn remove(
        &mut self,
        slot: u32,
        count: usize,
        check: impl FnOnce(&[Leaf]) -> bool,
    ) -> Result<Box<[Leaf]>, PageError> {
        let leaves = std::mem::take(self.get(slot, count, check)?);
        self.let_go(slot);
        self.free.push(slot);
        Ok(leaves)
    }

    fn keep(&mut self, slot: u32, leaves: Box<[Leaf]>, dirty: bool) {
        let at = self.resident.len() as u32;
        self.slots[slot as usize] = Slot { leaves: Some(leaves), at, dirty, used: true };
        self.resident.push(slot);
    }

    /// Forgets the leaves of a page in memory.
    fn let_go(&mut self, slot: u32) {
        let Slot { at, .. } = std::mem::take(&mut self.slots[slot as usize]);
        self.resident.swap_remove(at as usize);
        if let Some(moved) = self.resident.get(at as usize) {
            self.slots[*moved as usize].at = at;
        }
    }

    /// Puts the page that was not used for longest, roughly, into the scratch.
    fn make_room(&mut self) -> Result<(), PageError> {
        while self.resident.len() >= self.max_resident {
            self.hand %= self.resident.len();
            let number = self.resident[self.hand];
            let slot = &mut self.slots[number as usize];
            if std::mem::take(&mut slot.used) {
                self.hand += 1;
                continue;
            }
            if let Some(leaves) = slot.leaves.as_ref().filter(|_| slot.dirty) {
                self.scratch.write(u64::from(number) * self.slot_bytes, &encode(leaves))?;
            }
            self.let_go(number);
        }
        Ok(())
    }

    /// Bytes that every page takes, and those of the pages in memory.
    pub fn memory(&self) -> (usize, usize) {
        let slots = self.slots.capacity() * size_of::<Slot>() + self.free.capacity() * 4;
        let leaves = self.resident.iter().filter_map(|slot| {
            self.slots[*slot as usize].leaves.as_ref().map(|leaves| leaves.len())
        });
        let leaves = leaves.sum::<usize>() * LEAF_BYTES;
        (slots + self.resident.capacity() * 4, leaves)
    }
}
