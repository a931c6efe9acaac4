//! Launches of the PTX kernels.

use super::OP;
use crate::cuda::Source;
use crate::{Error, Result, View, ViewMut};

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[];

fn absent<T>() -> Result<T> {
    Err(Error::Argument { op: OP, arg: "device", got: "cuda".into(), want: "cpu".into() })
}

pub fn cast(_x: View, _y: &mut ViewMut) -> Result<()> {
    absent()
}

pub fn columns(_x: View, _from: usize, _n: usize, _y: &mut ViewMut, _to: usize) -> Result<()> {
    absent()
}

pub fn gather(_x: View, _rows: View, _y: &mut ViewMut) -> Result<()> {
    absent()
}

pub fn scatter(_x: View, _rows: View, _y: &mut ViewMut) -> Result<()> {
    absent()
}
