//! What a launch cost.

/// Counts of one launch, summed over all CTAs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Warp instructions by class, see [`Counters::CLASSES`].
    pub warp_instructions: [u64; 8],
    /// Lanes active, summed over warp instructions.
    pub active_lanes: u64,
    /// Shared-memory wavefronts used.
    pub shared_wavefronts: u64,
    /// Wavefronts a conflict-free layout of the same accesses would use.
    pub shared_ideal: u64,
    /// Global 32-byte sectors touched, per warp instruction, loads.
    pub global_load_sectors: u64,
    /// Global sectors, stores and atomics.
    pub global_store_sectors: u64,
    /// Sectors that the bytes asked for would fill when packed.
    pub global_ideal: u64,
    /// Distinct global bytes read in the launch (an infinite cache: the DRAM minimum of this kernel's access pattern).
    pub unique_load_bytes: u64,
    /// Distinct global bytes written.
    pub unique_store_bytes: u64,
    /// mma instructions.
    pub mma: u64,
    /// Floating-point operations inside them.
    pub mma_flops: u64,
    /// Issue-slot cycles per SM sub-partition (est.), with mma at their tensor-core rate on sm_80.
    pub issue_cycles: f64,
    /// The part of `issue_cycles` that is mma (est.).
    pub mma_cycles: f64,
}

impl Counters {
    /// Names of the classes in `warp_instructions`.
    pub const CLASSES: [&'static str; 8] =
        ["alu", "fma", "sfu", "mma", "shared", "global", "control", "other"];
}
