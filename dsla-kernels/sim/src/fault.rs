//! What can go wrong in a kernel, and where.

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The text is not PTX that this simulator knows.
    Load,
    /// A launch with impossible sizes, an unknown kernel or parameters that do not fit.
    Launch,
    /// An access outside every live allocation, shared window or parameter block; use after free.
    OutOfBounds,
    /// An address that is not a multiple of the access size.
    Misaligned,
    /// A register, shared or global byte that was never written.
    Uninitialised,
    /// Two threads touch a shared byte between barriers, one of them writing.
    SharedRace,
    /// Two CTAs touch a global byte in one launch, one of them writing, not both atomically.
    GlobalRace,
    /// A barrier or warp-wide instruction that not all threads that must reach it reach.
    DivergentBarrier,
    /// No warp can go on.
    Deadlock,
    /// Shared memory that a cp.async still writes is touched before its wait.
    AsyncPending,
    /// The instruction budget is spent.
    Budget,
    /// `trap`.
    Trap,
}

/// One fault: what, where, got, want.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind:?}: {kernel}:{line}: {detail}")]
pub struct Fault {
    /// Which check caught it.
    pub kind: FaultKind,
    /// The kernel, or empty at load.
    pub kernel: String,
    /// Line in the PTX text, 1-based; 0: none.
    pub line: usize,
    /// Block and thread, address, got and want, in words.
    pub detail: String,
}

impl Fault {
    /// A load error.
    pub fn load(line: usize, detail: impl Into<String>) -> Fault {
        Fault { kind: FaultKind::Load, kernel: String::new(), line, detail: detail.into() }
    }
}
