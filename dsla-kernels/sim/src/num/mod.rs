//! The arithmetic of PTX as pure functions: bits in, bits out, no machine state.
//!
//! Everything here follows the text of the PTX ISA. Where it leaves a choice (NaN payloads, tensor-core rounding, errors of the
//! approximations) the choice is stated at the function.

mod approx;
mod arith;
mod cvt;
mod matrix;
mod mma;
mod round;

pub use approx::{Approx, approx, approx_half, div_approx};
pub use arith::{Fp, Half, HalfOp, fp32, fp64, half, half_x2, max_f32, max_f64, min_f32, min_f64};
pub use cvt::{cvt, pack2};
pub use matrix::{ldmatrix, ldmatrix_address_lane, ldmatrix_element, stmatrix};
pub use mma::{MmaKind, mma_f32};
pub use round::{Round, Ty};

/// The NaN that f32 operations return.
pub const NAN_F32: u32 = 0x7fff_ffff;
/// The NaN that f16 and bf16 operations return.
pub const NAN_16: u16 = 0x7fff;

/// A sequence of well-mixed 64-bit numbers from any seed (splitmix64's finaliser).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
