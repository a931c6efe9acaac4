//! Host memory that is used again: what an op lets go of, the next one takes. A step of a model asks for the same sizes over
//! and over, and fresh pages from the system cost more than what is written into them.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Bytes that a thread keeps for later at most; a prefill chunk of a small model needs some 30 MB.
const KEEP: usize = 128 << 20;

/// Elements of a tensor, or the scratch memory of an op. On drop the memory stays with the thread for the next of its size.
#[derive(Debug)]
pub(crate) struct Host<T: Kept> {
    data: Vec<T>,
    /// Where the elements begin, on a line of the cache: a vector that lies across two costs twice.
    start: usize,
    /// The capacity it was made with, all of it initialised; 0 for memory that came from elsewhere.
    class: usize,
}

/// A type whose memory is kept.
pub(crate) trait Kept: Copy + Default + 'static {
    fn pool() -> &'static std::thread::LocalKey<RefCell<Pool<Self>>>;
}

/// What a thread keeps of one type: free memory by size class.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    free: Vec<(usize, Vec<Vec<T>>)>,
    bytes: usize,
}

macro_rules! kept {
    ($($type:ty: $name:ident),*) => { $(
        thread_local! {
            static $name: RefCell<Pool<$type>> = const { RefCell::new(Pool { free: vec![], bytes: 0 }) };
        }
        impl Kept for $type {
            fn pool() -> &'static std::thread::LocalKey<RefCell<Pool<$type>>> {
                &$name
            }
        }
    )* };
}
kept!(f32: F32, f64: F64, u32: U32, half::bf16: BF16, half::f16: F16);

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Sizes that share memory: a quarter of a power of two apart.
fn class(len: usize) -> usize {
    let step = (len.max(64).next_power_of_two() / 8).max(16);
    len.max(64).next_multiple_of(step)
}

impl<T: Kept> Host<T> {
    /// `len` elements with whatever they last held: to be written before anyone reads them.
    pub fn scratch(len: usize) -> Host<T> {
        let class = class(len) + LINE / size_of::<T>();
        let kept = T::pool().try_with(|pool| {
            let pool = &mut *pool.borrow_mut();
            let data = pool.free.iter_mut().find(|(c, _)| *c == class)?.1.pop()?;
            pool.bytes -= class * size_of::<T>();
            Some(data)
        });
        let mut data = match kept {
            Ok(Some(data)) => data,
            _ => vec![T::default(); class],
        };
        debug_assert_eq!(data.capacity(), class);
        let start = data.as_ptr().align_offset(LINE).min(LINE / size_of::<T>());
        // SAFETY: all `class` elements were initialised when the memory was made, and plain values stay so.
        unsafe { data.set_len(start + len) };
        Host { data, start, class }
    }

    /// `len` times `x`.
    pub fn filled(x: T, len: usize) -> Host<T> {
        let mut data = Host::scratch(len);
        data.fill(x);
        data
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Host<T> {
        Host::filled(T::default(), len)
    }

    /// Append; memory that grows is no longer the pool's.
    pub fn extend(&mut self, more: impl Iterator<Item = T>) {
        self.data.extend(more);
    }

    /// Drop the first n elements.
    pub fn drop_front(&mut self, n: usize) {
        self.data.drain(self.start..self.start + n);
    }
}

impl<T: Kept> From<Vec<T>> for Host<T> {
    fn from(data: Vec<T>) -> Host<T> {
        Host { data, start: 0, class: 0 }
    }
}

impl<T: Kept> Clone for Host<T> {
    fn clone(&self) -> Host<T> {
        let mut data = Host::scratch(self.len());
        data.copy_from_slice(self);
        data
    }
}

impl<T: Kept> Drop for Host<T> {
    fn drop(&mut self) {
        let (data, class) = (std::mem::take(&mut self.data), self.class);
        if class == 0 || data.capacity() != class {
            return;
        }
        // (No pool at the end of a thread: then the memory is freed.)
        let _ = T::pool().try_with(|pool| {
            let pool = &mut *pool.borrow_mut();
            let bytes = class * size_of::<T>();
            if pool.bytes + bytes > KEEP {
                return;
            }
            pool.bytes += bytes;
            match pool.free.iter_mut().find(|(c, _)| *c == class) {
                Some((_, free)) => free.push(data),
                None => pool.free.push((class, vec![data])),
            }
        });
    }
}

impl<T: Kept> Deref for Host<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..]
    }
}

impl<T: Kept> DerefMut for Host<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_by_size() {
        let a = Host::<f32>::filled(3.0, 1000);
        let at = a.as_ptr();
        drop(a);
        let b = Host::<f32>::scratch(1010);
        assert_eq!(b.as_ptr(), at, "1000 and 1010 share a class");
        assert!(b[..1000].iter().all(|x| *x == 3.0));
        let c = Host::<f32>::scratch(1000);
        assert_ne!(c.as_ptr(), at, "taken");
        assert!(Host::<f32>::zeros(1000).iter().all(|x| *x == 0.0));
    }

    #[test]
    fn memory_from_elsewhere_and_memory_that_grew_is_freed() {
        let kept = || <u32 as Kept>::pool().with(|pool| pool.borrow().bytes);
        let mut grown = Host::<u32>::scratch(64);
        let before = kept();
        grown.extend(0..1000);
        drop(grown);
        drop(Host::from(vec![1u32; 64]));
        assert_eq!(kept(), before);
        drop(Host::<u32>::scratch(64));
        assert_eq!(kept(), before + 256 + 64);
        let mut front = Host::from(vec![1u32, 2, 3]);
        front.drop_front(2);
        assert_eq!(&*front, [3]);
    }

    #[test]
    fn classes_waste_at_most_a_quarter() {
        for len in [0, 1, 63, 64, 65, 100, 1000, 4097, 1 << 20, (1 << 20) + 1] {
            assert!(
                class(len) >= len && (len < 64 || class(len) * 4 <= len * 5 + 64),
                "{len}: {}",
                class(len)
            );
        }
    }
}
