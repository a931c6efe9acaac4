//! Deterministic work split over our own team of threads: never a global pool, and no result depends on the thread count.
//!
//! A decode step is hundreds of operations of some ten microseconds each, less than it takes to wake a sleeping thread. So
//! the team stays awake for a moment after every operation and looks for the next one; then its threads go back to the
//! pool, which sleeps. The caller works too, and waits only for threads that took part.

use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, TryLockError};
use std::time::{Duration, Instant};

static THREADS: AtomicUsize = AtomicUsize::new(0);
static TEAM: OnceLock<Team> = OnceLock::new();

/// How long a thread looks for work before it sleeps: longer than what lies between two operations of a step.
const AWAKE: Duration = Duration::from_micros(200);

/// Ask for `n` threads (0: one per core). Only the first use of the team takes it into account; returns whether it will.
pub fn set_threads(n: usize) -> bool {
    THREADS.store(n, Ordering::Relaxed);
    TEAM.get().is_none()
}

/// Threads in the team, the caller's among them.
pub fn threads() -> usize {
    team().threads
}

fn team() -> &'static Team {
    TEAM.get_or_init(|| {
        let threads = match THREADS.load(Ordering::Relaxed) {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let pool = (threads > 1).then(|| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads - 1)
                .thread_name(|i| format!("dsla-{i}"))
                .build()
                .expect("the operating system starts no threads")
        });
        Team {
            threads,
            pool,
            turn: Mutex::new(()),
            epoch: AtomicUsize::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            inside: AtomicUsize::new(0),
            awake: AtomicUsize::new(0),
        }
    })
}

struct Team {
    threads: usize,
    pool: Option<rayon::ThreadPool>,
    /// Held by the caller whose job is on.
    turn: Mutex<()>,
    /// Odd while a job is open to join.
    epoch: AtomicUsize,
    job: AtomicPtr<Job>,
    /// Threads that may be reading `job`.
    inside: AtomicUsize,
    /// Pool threads in [`Team::serve`].
    awake: AtomicUsize,
}

/// Shares of a job at most: with more threads than this some begin with the same one.
const SHARES: usize = 16;

/// What is being done, on the stack of the caller. A thread begins with its share of the indices, the same part of every job:
/// ops whose tasks are in the order of rows then find what the last one wrote in their own cache. Who is done helps the others.
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    len: usize,
    shares: usize,
    /// The next index of each share.
    next: [AtomicUsize; SHARES],
    panicked: AtomicUsize,
}

impl Job {
    fn new(work: *const (dyn Fn(usize) + Sync), len: usize, threads: usize) -> Job {
        let shares = threads.min(SHARES);
        let next = std::array::from_fn(|i| AtomicUsize::new(i * len / shares));
        Job { work, len, shares, next, panicked: AtomicUsize::new(0) }
    }

    /// Take indices until there are none, as thread `me` of the team.
    fn work(&self, me: usize) {
        // SAFETY: the caller of `Team::run` keeps the closure until nobody is inside.
        let work = unsafe { &*self.work };
        for share in (me..me + self.shares).map(|i| i % self.shares) {
            let end = (share + 1) * self.len / self.shares;
            loop {
                let i = self.next[share].fetch_add(1, Ordering::Relaxed);
                if i >= end {
                    break;
                }
                work(i);
            }
        }
    }
}

thread_local! {
    /// Whether this thread is in a job: what it calls then runs on it alone.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

impl Team {
    fn run(&'static self, len: usize, work: &(dyn Fn(usize) + Sync)) {
        let alone = || (0..len).for_each(work);
        let (Some(pool), false) = (&self.pool, len <= 1 || BUSY.get()) else { return alone() };
        // Another caller's job is on: both go on side by side.
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            // A task of an earlier job panicked: nothing of it is left.
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return alone(),
        };
        // SAFETY: only the lifetime changes; nobody is inside any more when this function is left.
        let work = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(
                work,
            )
        };
        let job = Job::new(work, len, self.threads);
        self.job.store(&raw const job as *mut Job, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for _ in self.awake.load(Ordering::SeqCst)..self.threads - 1 {
            self.awake.fetch_add(1, Ordering::SeqCst);
            pool.spawn(move || self.serve());
        }
        let done = self.enter(&job, 0);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0u32;
        while self.inside.load(Ordering::SeqCst) > 0 {
            std::hint::spin_loop();
            spins += 1;
            // A machine with fewer cores than threads: let the one we wait for run.
            if spins.is_multiple_of(1 << 14) {
                std::thread::yield_now();
            }
        }
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
        assert!(job.panicked.load(Ordering::Relaxed) == 0, "a task panicked on another thread");
    }

    fn enter(&self, job: &Job, me: usize) -> std::thread::Result<()> {
        BUSY.set(true);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job.work(me)));
        BUSY.set(false);
        done
    }

    /// A pool thread's watch: join every job, leave when none has come for a while.
    fn serve(&self) {
        let (mut seen, mut since, mut spins) = (0, Instant::now(), 0u32);
        let me = rayon::current_thread_index().map_or(0, |i| i + 1);
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch % 2 == 1 && epoch != seen {
                seen = epoch;
                self.inside.fetch_add(1, Ordering::SeqCst);
                // The caller closes the job and then looks who is inside; we say that we are, and then look whether it is closed.
                if self.epoch.load(Ordering::SeqCst) == epoch {
                    // SAFETY: the job is open and we are counted: its owner waits for us.
                    let job = unsafe { &*self.job.load(Ordering::Relaxed) };
                    if self.enter(job, me).is_err() {
                        job.panicked.store(1, Ordering::Relaxed);
                    }
                }
                self.inside.fetch_sub(1, Ordering::SeqCst);
                since = Instant::now();
            }
            std::hint::spin_loop();
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(64) && since.elapsed() > AWAKE {
                self.awake.fetch_sub(1, Ordering::SeqCst);
                return;
            }
        }
    }
}

/// Run `f(0..n)`, each index once, on the team. Each index must write only its own outputs. Called from within itself, or
/// while another thread has the team, it runs on the caller alone.
pub fn for_each(n: usize, f: impl Fn(usize) + Sync) {
    team().run(n, &f);
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

    /// `len` elements from `at` on.
    ///
    /// # Safety
    /// They are there, and the caller's alone for as long.
    pub unsafe fn slice<'a>(&self, at: usize, len: usize) -> &'a mut [T] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn sum(n: usize) -> usize {
        let total = AtomicUsize::new(0);
        for_each(n, |i| {
            total.fetch_add(i + 1, Ordering::Relaxed);
        });
        total.into_inner()
    }

    #[test]
    fn every_index_once_also_from_within_and_from_many_threads() {
        for n in [0, 1, 2, 7, 1000] {
            assert_eq!(sum(n), n * (n + 1) / 2);
        }
        let nested = AtomicUsize::new(0);
        for_each(20, |i| {
            nested.fetch_add(sum(i), Ordering::Relaxed);
        });
        assert_eq!(nested.into_inner(), (0..20).map(|i| i * (i + 1) / 2).sum());
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..2000).for_each(|_| assert_eq!(sum(50), 1275)));
            }
        });
        // Asleep in between.
        std::thread::sleep(4 * AWAKE);
        assert_eq!(sum(100), 5050);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        for at in [0, 3, 63] {
            let done = catch_unwind(AssertUnwindSafe(|| {
                for_each(64, |i| {
                    std::thread::sleep(Duration::from_micros(20));
                    assert_ne!(i, at, "planted");
                });
            }));
            assert!(done.is_err(), "{at}");
            assert_eq!(sum(64), 2080);
        }
    }
}
