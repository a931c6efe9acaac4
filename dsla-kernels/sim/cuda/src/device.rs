//! The device that is played: an A100 in its limits.

use std::ffi::CStr;

/// Its name.
pub const NAME: &CStr = c"ptxsim (no hardware)";
/// Static and dynamic shared memory of a block without opting in.
pub const SHARED: u32 = 48 << 10;
/// The most with opting in.
pub const SHARED_OPT_IN: u32 = 163 << 10;
/// Shared memory of a multiprocessor.
pub const SHARED_SM: u32 = 164 << 10;
/// What the system takes of it for each block.
pub const SHARED_RESERVED: u32 = 1 << 10;
/// Threads of a block.
pub const THREADS: u32 = 1024;
/// Threads of a block in each dimension.
pub const BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks of a grid in each dimension.
pub const GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Threads of a multiprocessor.
pub const THREADS_SM: u32 = 2048;
/// Blocks of a multiprocessor.
pub const BLOCKS_SM: u32 = 32;
/// Lanes of a warp.
pub const WARP: u32 = 32;
/// Compute capability, ten times.
pub const CAPABILITY: u32 = 80;

/// CUdevice_attribute. What is not listed is a feature that is not there.
pub fn attribute(number: u32) -> Option<i32> {
    Some(match number {
        1 => THREADS as i32,
        2..=4 => BLOCK[number as usize - 2] as i32,
        5..=7 => GRID[number as usize - 5] as i32,
        8 => SHARED as i32,
        // Constant memory, largest pitch, registers of a block.
        9 => 64 << 10,
        10 => WARP as i32,
        11 => i32::MAX,
        12 => 64 << 10,
        // Clock in kHz, texture alignment.
        13 => 1_410_000,
        14 => 512,
        16 => 108,
        // Host memory can be mapped, kernels overlap.
        19 | 31 => 1,
        // Memory clock in kHz, bus width in bits, bytes of L2.
        36 => 1_215_000,
        37 => 5120,
        38 => 40 << 20,
        39 => THREADS_SM as i32,
        // Copy engines, one address space.
        40 => 3,
        41 => 1,
        75 => (CAPABILITY / 10) as i32,
        76 => (CAPABILITY % 10) as i32,
        78..=80 => 1,
        81 => SHARED_SM as i32,
        82 => 64 << 10,
        97 => SHARED_OPT_IN as i32,
        106 => BLOCKS_SM as i32,
        111 => SHARED_RESERVED as i32,
        // Memory pools, and so stream-ordered allocation.
        115 => 1,
        15 | 17..=119 => 0,
        _ => return None,
    })
}
