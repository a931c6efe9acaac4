//! Deterministic work split over our own pool: never the global one, and no result depends on the thread count.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

static THREADS: AtomicUsize = AtomicUsize::new(0);
static POOL: OnceLock<rayon::ThreadPool> = OnceLock::new();

/// Ask for `n` threads (0: one per core). Only the first use of the pool takes it into account; returns whether it will.
pub fn set_threads(n: usize) -> bool {
    THREADS.store(n, Ordering::Relaxed);
    POOL.get().is_none()
}

/// Threads in the pool.
pub fn threads() -> usize {
    pool().current_num_threads()
}

fn pool() -> &'static rayon::ThreadPool {
    POOL.get_or_init(|| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(THREADS.load(Ordering::Relaxed))
            .thread_name(|i| format!("dsla-{i}"))
            .build()
            .expect("the operating system starts no threads")
    })
}

/// Run `f(0..n)`, each index once, on the pool. Each index must write only its own outputs.
pub fn for_each(n: usize, f: impl Fn(usize) + Sync) {
    if n <= 1 || pool().current_num_threads() == 1 {
        (0..n).for_each(f);
        return;
    }
    let (next, f) = (&AtomicUsize::new(0), &f);
    pool().scope(|s| {
        for _ in 0..pool().current_num_threads().min(n) {
            s.spawn(move |_| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        break;
                    }
                    f(i);
                }
            });
        }
    });
}

/// Split `data` into pieces of `chunk` elements and run `f(index, piece)` on each.
pub fn for_each_chunk<T: Send>(data: &mut [T], chunk: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let chunk = chunk.max(1);
    let len = data.len();
    let base = SendPtr(data.as_mut_ptr());
    for_each(len.div_ceil(chunk), |i| {
        let (a, b) = (i * chunk, ((i + 1) * chunk).min(len));
        // SAFETY: pieces [a, b) are disjoint for different i, inside `data`, which outlives the call.
        let piece = unsafe { std::slice::from_raw_parts_mut(base.get().add(a), b - a) };
        f(i, piece);
    });
}

/// A pointer that may cross threads; whoever dereferences it owes the proof that accesses are disjoint.
#[derive(Clone, Copy)]
pub(crate) struct SendPtr<T>(pub *mut T);

// SAFETY: only a carrier; see the type's contract.
unsafe impl<T> Send for SendPtr<T> {}
// SAFETY: only a carrier; see the type's contract.
unsafe impl<T> Sync for SendPtr<T> {}

impl<T> SendPtr<T> {
    /// The pointer (a method, so that closures capture the carrier and not its field).
    pub fn get(&self) -> *mut T {
        self.0
    }
}
