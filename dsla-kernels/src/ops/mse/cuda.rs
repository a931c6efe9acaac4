//! Launches of the PTX kernels.

use crate::cuda::Source;

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[];
