//! The memory that argon2 works in.

use argon2::Block;
use memmap2::{Advice, MmapMut};
use zeroize::Zeroize;

use crate::pg::error::Error;

/// Blocks of 1 KiB for one hash, wiped and given back to the operating system when dropped.
///
/// Mapped rather than allocated: glibc keeps a freed allocation of this size with the backend.
pub struct WorkArea(MmapMut);

impl WorkArea {
    /// Maps `blocks` blocks, or raises an error if there is no memory.
    pub fn new(blocks: usize) -> Self {
        let map = MmapMut::map_anon(blocks * Block::SIZE).unwrap_or_else(|_| Error::Memory.raise());
        // Fewer page faults and TLB misses where the kernel has huge pages; without, the same.
        let _ = map.advise(Advice::HugePage);
        Self(map)
    }
}

impl AsMut<[Block]> for WorkArea {
    fn as_mut(&mut self) -> &mut [Block] {
        let blocks = self.0.len() / Block::SIZE;
        // SAFETY: a map is aligned to pages, more than a `Block` (64 bytes) needs; it is at least
        // this long, every bit pattern is a `Block` (words), and `&mut self` makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<Block>(), blocks) }
    }
}

impl Drop for WorkArea {
    fn drop(&mut self) {
        for block in self.as_mut() {
            block.zeroize();
        }
    }
}
