//! Typed errors: which op, which argument, what came, what was wanted.

use crate::{DType, Shape};

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
    /// A device that is not there.
    #[error("device {0}: no driver answers (this build runs on the cpu only)")]
    NoDriver(String),
}

/// The result of a kernel call.
pub type Result<T> = std::result::Result<T, Error>;
