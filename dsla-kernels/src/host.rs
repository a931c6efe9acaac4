//! Host memory that is used again: what an op lets go of, the next one takes. A step of a model asks for the same sizes over
//! and over, and fresh pages from the system cost more than what is written into them.

use crate::memory::Memory;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Bytes that a thread keeps for later at most; a prefill chunk of a small model needs some 30 MB.
const KEEP: usize = 128 << 20;

/// Elements of a tensor, or the scratch memory of an op. On drop the memory stays with the thread for the next of its size.
#[derive(Debug)]
pub(crate) struct Host<T: Kept> {
    /// As many as its size class has, or just those that came from elsewhere.
    data: Memory<T>,
    /// Where the elements begin: those before were dropped.
    start: usize,
    len: usize,
}

/// A type whose memory is kept.
pub(crate) trait Kept: bytemuck::Zeroable + Copy + Default + 'static {
    fn pool() -> &'static std::thread::LocalKey<RefCell<Pool<Self>>>;
}

/// What a thread keeps of one type: free memory by size class.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    free: Vec<(usize, Vec<Memory<T>>)>,
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

/// Sizes that share memory: a quarter of a power of two apart.
fn class(len: usize) -> usize {
    let step = (len.max(64).next_power_of_two() / 8).max(16);
    len.max(64).next_multiple_of(step)
}

impl<T: Kept> Host<T> {
    /// `len` elements with whatever they last held: to be written before anyone reads them.
    pub fn scratch(len: usize) -> Host<T> {
        let class = class(len);
        let kept = T::pool().try_with(|pool| {
            let pool = &mut *pool.borrow_mut();
            let data = pool.free.iter_mut().find(|(c, _)| *c == class)?.1.pop()?;
            pool.bytes -= class * size_of::<T>();
            Some(data)
        });
        let data = match kept {
            Ok(Some(data)) => data,
            _ => Memory::scratch(class),
        };
        Host { data, start: 0, len }
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

    /// Append what `more` gives.
    pub fn extend(&mut self, more: impl ExactSizeIterator<Item = T>) {
        self.grow(more.len()).iter_mut().zip(more).for_each(|(o, x)| *o = x);
    }

    /// Append n elements, to be written before anyone reads them.
    pub fn grow(&mut self, n: usize) -> &mut [T] {
        let (old, len) = (self.len, self.len + n);
        if self.start + len > self.data.len() {
            // A window that moves on by a token is moved back once in as many tokens as it has.
            let mut grown = Host::scratch(len.max(2 * old));
            grown[..old].copy_from_slice(self);
            *self = grown;
        }
        self.len = len;
        &mut self[old..]
    }

    /// Drop the first n elements.
    pub fn drop_front(&mut self, n: usize) {
        assert!(n <= self.len, "{n} of {} elements", self.len);
        (self.start, self.len) = (self.start + n, self.len - n);
    }
}

impl<T: Kept> From<Vec<T>> for Host<T> {
    fn from(data: Vec<T>) -> Host<T> {
        let data = Memory::from(data);
        Host { start: 0, len: data.len(), data }
    }
}

impl<T: Kept> From<&[T]> for Host<T> {
    fn from(x: &[T]) -> Host<T> {
        let mut data = Host::scratch(x.len());
        data.copy_from_slice(x);
        data
    }
}

impl<T: Kept> Clone for Host<T> {
    fn clone(&self) -> Host<T> {
        (&**self).into()
    }
}

impl<T: Kept> Drop for Host<T> {
    fn drop(&mut self) {
        if self.data.is_from_elsewhere() {
            return;
        }
        let data = std::mem::replace(&mut self.data, Memory::from(vec![]));
        // (No pool at the end of a thread: then the memory is freed.)
        let _ = T::pool().try_with(|pool| {
            let pool = &mut *pool.borrow_mut();
            let (class, bytes) = (data.len(), data.len() * size_of::<T>());
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
        &self.data[self.start..self.start + self.len]
    }
}

impl<T: Kept> DerefMut for Host<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
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
    fn memory_grows_and_memory_from_elsewhere_is_freed() {
        let kept = || <u32 as Kept>::pool().with(|pool| pool.borrow().bytes);
        let mut grown = Host::<u32>::scratch(64);
        grown.copy_from_slice(&[7; 64]);
        grown.extend(0..1000);
        assert_eq!(grown[..64], [7; 64]);
        assert!(grown[64..].iter().copied().eq(0..1000));
        let before = kept();
        drop(Host::from(vec![1u32; 64]));
        assert_eq!(kept(), before);
        drop(grown);
        assert_eq!(kept(), before + 4 * class(1064));
        let mut front = Host::from(vec![1u32, 2, 3]);
        front.drop_front(2);
        assert_eq!(&*front, [3]);
        for i in 4..1000 {
            front.extend([i].into_iter());
            front.drop_front(1);
            assert_eq!(&*front, [i]);
        }
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
