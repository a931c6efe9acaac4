//! What the data sheets say of three GPUs, for estimates.

/// One GPU.
pub struct Gpu {
    /// Its name.
    pub name: &'static str,
    /// Streaming multiprocessors.
    pub sms: f64,
    /// Boost clock, Hz.
    pub clock: f64,
    /// Memory bandwidth, bytes per second.
    pub bandwidth: f64,
    /// Dense bf16 tensor-core peak with f32 sums, flops per second.
    pub tensor: f64,
}

/// NVIDIA's data sheets: A100 SXM 40 GB, H100 SXM, GeForce RTX 4090 (Ada whitepaper, f32 accumulation).
pub const GPUS: [Gpu; 3] = [
    Gpu { name: "A100", sms: 108.0, clock: 1.41e9, bandwidth: 1.555e12, tensor: 312e12 },
    Gpu { name: "H100", sms: 132.0, clock: 1.98e9, bandwidth: 3.35e12, tensor: 989e12 },
    Gpu { name: "RTX 4090", sms: 128.0, clock: 2.52e9, bandwidth: 1.008e12, tensor: 165e12 },
];

/// Limits of one multiprocessor: (threads, shared memory in bytes, blocks), sm_80 and sm_90 (CUDA C++ Programming Guide,
/// table of compute capabilities).
pub const SM_80: [u32; 3] = [2048, 164 * 1024, 32];
/// See [`SM_80`].
pub const SM_90: [u32; 3] = [2048, 228 * 1024, 32];

/// Share of the multiprocessor's threads that are resident: registers come in units of 256 per warp, every block takes
/// 1 KB of shared memory more than it asks for.
pub fn occupancy([threads, shared, blocks]: [u32; 3], registers: u32, block: u32, smem: u32) -> f64 {
    let warps = block.div_ceil(32).max(1);
    let per_warp = (registers.max(1) * 32).next_multiple_of(256);
    let by_registers = 65536 / per_warp / warps;
    let by_shared = shared / (smem + 1024);
    let by_threads = threads / (32 * warps);
    let resident = by_registers.min(by_shared).min(by_threads).min(blocks);
    f64::from(resident * warps * 32) / f64::from(threads)
}
