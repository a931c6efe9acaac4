//! What a launch cost.

use crate::exec::Env;
use crate::op::{Func, Kind, Pipe};
use std::collections::HashMap;

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
    /// Warp instructions by line of the PTX text.
    pub lines: HashMap<usize, u64>,
}

impl Counters {
    /// Names of the classes in `warp_instructions`.
    pub const CLASSES: [&'static str; 8] =
        ["alu", "fma", "sfu", "mma", "shared", "global", "control", "other"];
}

/// Cycles a warp instruction keeps its unit busy, per SM sub-partition of sm_80: 16 lanes of f32 and of int32, 8 of f64, 4 of
/// special functions, 256 f16 multiply-adds per cycle in the tensor core (half of that for tf32).
fn busy(kind: &Kind, pipe: Pipe) -> f64 {
    match (pipe, kind) {
        (Pipe::Int | Pipe::Fp32, _) => 2.0,
        (Pipe::Fp64, _) => 4.0,
        (Pipe::Sfu, _) => 8.0,
        (Pipe::Tensor, Kind::Mma { kind, .. }) => {
            use crate::num::MmaKind::{M16N8K4Tf32, M16N8K8Tf32};
            let rate = if matches!(kind, M16N8K4Tf32 | M16N8K8Tf32) { 128.0 } else { 256.0 };
            kind.flops() as f64 / 2.0 / rate
        }
        _ => 0.0,
    }
}

/// Sum up: counts per instruction give classes, lines and pipe cycles. Units work side by side, so the busiest one decides.
/// The load-store unit serves four sub-partitions with one wavefront per cycle: four cycles of one sub-partition.
pub(crate) fn finish(env: Env) -> Counters {
    let func: &Func = env.func;
    let mut c = env.counters;
    let mut pipes = [0.0; 7];
    let mut issue = 0;
    for (op, n) in func.ops.iter().zip(&env.counts) {
        if *n == 0 {
            continue;
        }
        issue += n;
        c.warp_instructions[op.class as usize] += n;
        *c.lines.entry(op.line as usize).or_insert(0) += n;
        pipes[op.pipe as usize] += busy(&op.kind, op.pipe) * *n as f64;
    }
    (c.unique_load_bytes, c.unique_store_bytes) = env.track.unique();
    let memory = 4.0 * env.wavefronts as f64;
    c.issue_cycles = pipes.iter().fold(memory.max(issue as f64), |m, p| m.max(*p));
    c.mma_cycles = pipes[Pipe::Tensor as usize];
    c
}
