//! Typed errors: which op, which argument, what came, what was wanted.

use crate::{DType, Device, Shape};

/// What a kernel call can refuse. Every variant prints as one line.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor of the wrong shape.
    #[error("{op}: {arg}: got shape {got}, want {want}")]
    Shape {
        /// The op that was called.
        op: &'static str,
        /// The argument at fault.
        arg: &'static str,
        /// The shape that came.
        got: Shape,
        /// The shape that was wanted, in words.
        want: String,
    },
    /// A tensor of the wrong element type.
    #[error("{op}: {arg}: got dtype {got}, want {want}")]
    DType {
        /// The op that was called.
        op: &'static str,
        /// The argument at fault.
        arg: &'static str,
        /// The dtype that came.
        got: DType,
        /// The dtype that was wanted.
        want: &'static str,
    },
    /// A plain argument out of range.
    #[error("{op}: {arg}: got {got}, want {want}")]
    Argument {
        /// The op that was called.
        op: &'static str,
        /// The argument at fault.
        arg: &'static str,
        /// What came.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// A tensor on another device than the op's first argument.
    #[error("{op}: {arg}: got device {got}, want {want}")]
    Device {
        /// The op that was called.
        op: &'static str,
        /// The argument at fault.
        arg: &'static str,
        /// The device that came.
        got: Device,
        /// The device that was wanted.
        want: Device,
    },
    /// A view whose address does not suit the kernel's vector accesses.
    #[error("{op}: {arg}: got address {got:#x}, want a multiple of {want}")]
    Misaligned {
        /// The op that was called.
        op: &'static str,
        /// The argument at fault.
        arg: &'static str,
        /// The address that came.
        got: u64,
        /// Bytes.
        want: u64,
    },
    /// A device that is not there.
    #[error("device {device}: no driver answers: {detail}")]
    NoDriver {
        /// The device asked for.
        device: String,
        /// What is missing.
        detail: String,
    },
    /// No memory left on a device.
    #[error("device {device}: out of memory: got a request for {want} bytes, {free} are free")]
    OutOfMemory {
        /// The device.
        device: Device,
        /// Bytes asked for.
        want: usize,
        /// Bytes free.
        free: usize,
    },
    /// The driver refused a call or a kernel failed.
    #[error("device {device}: {what}: {detail}")]
    Driver {
        /// The device.
        device: Device,
        /// Which call or kernel.
        what: String,
        /// The driver's own words.
        detail: String,
    },
}

/// The result of a kernel call.
pub type Result<T> = std::result::Result<T, Error>;
