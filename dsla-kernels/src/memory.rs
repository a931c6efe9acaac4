//! Where elements on the host are: whole lines of the cache and, of what is large, huge pages of a system that has them. A step
//! of a model reads all its weights and caches once. With pages of 4 KB a core looks up an address for every 64 lines it
//! reads, which a guest of a virtual machine pays twice for (`ops/linear/NOTES.md` has what it costs).

use bytemuck::Zeroable;
use memmap2::MmapMut;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a line of the cache.
const LINE: usize = 64;
/// Bytes from which on memory is taken from mapped blocks.
const LARGE: usize = 32 << 10;
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;
/// Bytes of a block that several share; what is over a quarter of it has one of its own.
const BLOCK: usize = 32 << 20;

/// `len` elements, all of them initialised; begins on a line of the cache.
#[derive(Debug)]
pub(crate) struct Memory<T> {
    at: NonNull<T>,
    len: usize,
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    /// Nobody's: no elements.
    Nobody,
    Allocator(Layout),
    /// A place of so many bytes in a block.
    Blocks(usize),
    /// A vector of this capacity (which may begin anywhere).
    Vector(usize),
}

// SAFETY: it owns its elements, as a vector does.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Memory<T> {}

impl<T: Zeroable + Copy> Memory<T> {
    /// `len` elements with whatever was there: zero, or what someone let go of.
    pub fn scratch(len: usize) -> Memory<T> {
        Memory::new(len).0
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Memory<T> {
        let (memory, zero) = Memory::new(len);
        if !zero {
            // SAFETY: `len` elements are there, and zero bytes are one of T.
            unsafe { memory.at.write_bytes(0, len) }
        }
        memory
    }

    /// And whether it is zero.
    fn new(len: usize) -> (Memory<T>, bool) {
        const { assert!(align_of::<T>() <= LINE) }
        // (An allocator refuses what no address space holds.)
        let bytes = len.saturating_mul(size_of::<T>());
        let layout =
            Layout::from_size_align(bytes, LINE).unwrap_or_else(|_| handle_alloc_error(Layout::new::<T>()));
        let (at, owner, zero) = match bytes {
            0 => return (Memory { at: NonNull::dangling(), len, owner: Owner::Nobody }, true),
            LARGE.. => {
                let bytes = bytes.next_multiple_of(LINE);
                let Some((at, zero)) = blocks().take(bytes) else { handle_alloc_error(layout) };
                (at, Owner::Blocks(bytes), zero)
            }
            _ => {
                // SAFETY: not of size zero.
                let at = unsafe { alloc_zeroed(layout) };
                (
                    NonNull::new(at).unwrap_or_else(|| handle_alloc_error(layout)),
                    Owner::Allocator(layout),
                    true,
                )
            }
        };
        (Memory { at: at.cast(), len, owner }, zero)
    }
}

impl<T> Memory<T> {
    /// Whether it was a vector.
    pub fn is_from_elsewhere(&self) -> bool {
        matches!(self.owner, Owner::Vector(_))
    }
}

impl<T> From<Vec<T>> for Memory<T> {
    fn from(data: Vec<T>) -> Memory<T> {
        let mut data = std::mem::ManuallyDrop::new(data);
        // SAFETY: a vector's pointer is never null.
        let at = unsafe { NonNull::new_unchecked(data.as_mut_ptr()) };
        Memory { at, len: data.len(), owner: Owner::Vector(data.capacity()) }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        match self.owner {
            Owner::Nobody => {}
            // SAFETY: allocated so by `new`.
            Owner::Allocator(layout) => unsafe { dealloc(self.at.as_ptr().cast(), layout) },
            Owner::Blocks(bytes) => blocks().give(self.at.cast(), bytes),
            Owner::Vector(capacity) => {
                // SAFETY: the parts of the vector it was made from.
                drop(unsafe { Vec::from_raw_parts(self.at.as_ptr(), self.len, capacity) })
            }
        }
    }
}

impl<T> Deref for Memory<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements are there, and are ours.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

/// Mapped memory of the process, given out in places of whole lines. A place that is let go of serves the next of its size, and
/// a block that nobody has a place in goes back to the system.
struct Blocks {
    /// By address.
    all: BTreeMap<usize, Block>,
    /// The block that new places are cut from.
    open: usize,
    /// Free places by size.
    free: BTreeMap<usize, Vec<usize>>,
}

struct Block {
    _map: MmapMut,
    bytes: usize,
    /// Bytes given out so far.
    used: usize,
    /// Places in use.
    live: usize,
}

static BLOCKS: Mutex<Blocks> = Mutex::new(Blocks { all: BTreeMap::new(), open: 0, free: BTreeMap::new() });

fn blocks() -> MutexGuard<'static, Blocks> {
    // (Nothing in here panics half-way.)
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Blocks {
    /// A place, and whether it is zero; None when the system has no memory left.
    fn take(&mut self, bytes: usize) -> Option<(NonNull<u8>, bool)> {
        if let Some(at) = self.free.get_mut(&bytes).and_then(Vec::pop) {
            self.block(at).live += 1;
            return NonNull::new(at as *mut u8).map(|at| (at, false));
        }
        let shared = bytes <= BLOCK / 4;
        if !shared || self.all.get(&self.open).is_none_or(|b| b.used + bytes > b.bytes) {
            let (at, block) = Block::map(if shared { BLOCK } else { bytes })?;
            self.all.insert(at, block);
            if !shared {
                return NonNull::new(self.cut(at, bytes) as *mut u8).map(|at| (at, true));
            }
            self.open = at;
        }
        NonNull::new(self.cut(self.open, bytes) as *mut u8).map(|at| (at, true))
    }

    /// The next place of a block.
    fn cut(&mut self, block: usize, bytes: usize) -> usize {
        let b = self.block(block);
        b.live += 1;
        b.used += bytes;
        block + b.used - bytes
    }

    /// That an address lies in.
    fn block(&mut self, at: usize) -> &mut Block {
        self.all
            .range_mut(..=at)
            .next_back()
            .map(|(_, b)| b)
            .unwrap_or_else(|| unreachable!("a place lies in a block"))
    }

    fn give(&mut self, at: NonNull<u8>, bytes: usize) {
        let at = at.as_ptr() as usize;
        let b = self.block(at);
        b.live -= 1;
        if b.live > 0 {
            self.free.entry(bytes).or_default().push(at);
            return;
        }
        if let Some((start, block)) = self.all.range(..=at).next_back().map(|(s, b)| (*s, s + b.bytes)) {
            self.free.retain(|_, places| {
                places.retain(|at| !(start..block).contains(at));
                !places.is_empty()
            });
            self.all.remove(&start);
        }
    }
}

impl Block {
    /// Zeros at an address that a huge page may have; nothing is there before it is written.
    fn map(bytes: usize) -> Option<(usize, Block)> {
        let map = MmapMut::map_anon(bytes.checked_add(HUGE)?).ok()?;
        // (A system without huge pages says so, and has small ones.)
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let at = (map.as_ptr() as usize).next_multiple_of(HUGE);
        Some((at, Block { _map: map, bytes, used: 0, live: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_and_aligned_whatever_its_size() {
        for len in [0, 1, 1000, LARGE - 1, LARGE, LARGE + 1, BLOCK / 4, BLOCK / 4 + 1, 2 * BLOCK] {
            let mut m = Memory::<u8>::zeros(len);
            assert_eq!(m.len(), len);
            assert!(len == 0 || m.as_ptr().addr().is_multiple_of(LINE));
            assert!(m.iter().all(|x| *x == 0), "{len}");
            m.fill(255);
            drop(m);
            assert!(Memory::<u8>::zeros(len).iter().all(|x| *x == 0), "{len} again");
        }
    }

    #[test]
    fn places_do_not_overlap_and_are_used_again() {
        let mut blocks = Blocks { all: BTreeMap::new(), open: 0, free: BTreeMap::new() };
        let mut places: Vec<(usize, usize)> = vec![];
        for i in 0..2000usize {
            let bytes = LARGE + i * 7919 % 97 * 4096;
            let (at, _) = blocks.take(bytes).unwrap();
            places.push((at.as_ptr() as usize, bytes));
            if i % 3 == 0 {
                let (at, bytes) = places.swap_remove(i * 31 % places.len());
                blocks.give(NonNull::new(at as *mut u8).unwrap(), bytes);
            }
        }
        places.sort_unstable();
        assert!(places.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0), "places overlap");
        let inside = |p: &(usize, usize)| {
            let (start, b) = blocks.all.range(..=p.0).next_back().unwrap();
            p.0 + p.1 <= start + b.bytes
        };
        assert!(places.iter().all(inside), "a place leaves its block");
        for (at, bytes) in places.drain(..) {
            blocks.give(NonNull::new(at as *mut u8).unwrap(), bytes);
        }
        assert!(blocks.all.is_empty() && blocks.free.is_empty(), "an unused block stays");
    }

    #[test]
    fn a_vector_is_freed_as_one() {
        let mut m = Memory::from(Vec::<u32>::with_capacity(10));
        assert!(m.is_empty());
        m = Memory::from(vec![1, 2, 3]);
        m[1] = 5;
        assert_eq!(&*m, [1, 5, 3]);
    }
}
