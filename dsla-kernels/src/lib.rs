//! Hand-written kernels for dual-state linear attention: one folder per op, with its specification (`naive.rs`),
//! its fast CPU path (`cpu.rs`) and its cases (`cases.rs`) side by side. The PTX path of an op joins its folder.
#![warn(missing_docs)]

pub mod case;
mod device;
mod dtype;
mod error;
pub(crate) mod gemm;
pub mod ops;
pub mod par;
pub mod real;
pub mod simd;
mod tensor;
pub(crate) mod vec;

pub use device::Device;
pub use dtype::DType;
pub use error::{Error, Result};
pub use half::bf16;
pub use tensor::{Shape, Slice, SliceMut, Tensor, View, ViewMut, poison_empty};
