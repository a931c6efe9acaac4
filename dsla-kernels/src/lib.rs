//! Hand-written kernels for dual-state linear attention: one folder per op, with its specification (`naive.rs`),
//! its fast CPU path (`cpu.rs`), its hand-written PTX (`*.ptx`, launched by `cuda.rs`) and its cases (`cases.rs`)
//! side by side.
#![warn(missing_docs)]

#[cfg(target_arch = "x86_64")]
mod amx;
pub(crate) mod cache;
pub mod case;
pub mod cuda;
mod device;
mod dtype;
mod error;
pub(crate) mod gemm;
pub(crate) mod host;
pub mod limits;
mod memory;
pub mod ops;
mod pair_panels;
mod panels;
pub mod par;
pub mod real;
mod shape;
pub mod simd;
#[cfg(target_arch = "x86_64")]
mod strip;
mod tensor;
pub(crate) mod vec;
mod view;

pub use device::Device;
pub use dtype::DType;
pub use error::{Error, Result};
pub use half::{bf16, f16};
pub use shape::Shape;
pub use tensor::{Tensor, poison_empty};
pub use view::{Slice, SliceMut, View, ViewMut};
