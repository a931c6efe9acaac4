//! Launches of the PTX kernels.

use super::OP;
use crate::cuda::tiles::{Tiles, axis, rows, vector};
use crate::cuda::{Launch, Source, launch};
use crate::{DType, Result, View, ViewMut};

const FLOATS: &[&str] = &["f32", "bf16", "f16"];

static CAST: Source = Source {
    skip: |v| v[0] == v[1],
    ..Source::new("copy_cast", rows!("copy.ptx"), &[("FROM", FLOATS), ("TO", FLOATS), ("V", &["1", "4"])])
};
static ROWS: Source = Source::new("copy_rows", rows!("rows.ptx"), &[("W", &["2", "4", "8", "16"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&CAST, &ROWS];

pub fn cast(x: View, y: &mut ViewMut) -> Result<()> {
    let (shape, n) = (x.shape(), x.shape().len());
    if x.dtype() == y.dtype() {
        // One row of n columns.
        let x = x.reshape([1, n]);
        return shift(x, 0, n, y, &[1, n], 0);
    }
    let (from, to) = (x.dtype(), y.dtype());
    let v = vector(n, &[x], &[y]);
    launch(OP, x.device(), &CAST, &[from.name(), to.name(), axis(v)], "copy_cast")?
        .input_aligned("x", x, from, shape.dims(), (v * from.size()) as u64)
        .output_aligned("y", y, to, shape.dims(), (v * to.size()) as u64)
        .run_tiles(Tiles::new(1, n / v))
}

pub fn columns(x: View, from: usize, n: usize, y: &mut ViewMut, to: usize) -> Result<()> {
    let shape = y.shape();
    shift(x, from, n, y, shape.dims(), to)
}

/// [`columns`] into y seen as `[rows, row]`.
fn shift(x: View, from: usize, n: usize, y: &mut ViewMut, y_shape: &[usize], to: usize) -> Result<()> {
    let (xs, ys) = (x.shape().dims()[1], y_shape[1]);
    let (w, launch) = begin(x, y, &[from, n, to, xs, ys], "copy_columns")?;
    let es = x.dtype().size();
    let unit = |elements: usize| elements * es / w;
    launch
        .input_aligned("x", x, x.dtype(), x.shape().dims(), es as u64)
        .input_aligned("y", y.as_view().reshape(y_shape), x.dtype(), y_shape, es as u64)
        .u32("x_row", unit(xs))
        .u32("y_row", unit(ys))
        .u32("from", unit(from))
        .u32("to", unit(to))
        .run_tiles(Tiles::new(y_shape[0], unit(n)))
}

pub fn gather(x: View, rows: View, y: &mut ViewMut, [n, r, t]: [usize; 3]) -> Result<()> {
    let (w, launch) = begin(x, y, &[r], "copy_gather")?;
    let es = x.dtype().size();
    launch
        .input_aligned("x", x, x.dtype(), &[n, r], es as u64)
        .input_aligned("index", rows, DType::U32, &[t], 4)
        .output_aligned("y", y, x.dtype(), &[t, r], es as u64)
        .u32("limit", n)
        .run_tiles(Tiles::new(t, r * es / w))
}

pub fn scatter(x: View, rows: View, y: &mut ViewMut, [n, r, t]: [usize; 3]) -> Result<()> {
    let (w, launch) = begin(x, y, &[r], "copy_scatter")?;
    let es = x.dtype().size();
    launch
        .input_aligned("x", x, x.dtype(), &[t, r], es as u64)
        .input_aligned("index", rows, DType::U32, &[t], 4)
        .output_aligned("y", y, x.dtype(), &[n, r], es as u64)
        .u32("limit", n)
        .run_tiles(Tiles::new(t, r * es / w))
}

/// The widest access that divides both addresses and all these numbers of elements, in bytes, and its launch.
fn begin(x: View, y: &ViewMut, elements: &[usize], entry: &'static str) -> Result<(usize, Launch)> {
    let es = x.dtype().size() as u64;
    let all = elements.iter().fold(x.address() | y.as_view().address(), |a, &n| a | (n as u64 * es));
    // The lowest set bit divides everything; nothing set is nothing to copy.
    let w = 1 << all.trailing_zeros().min(4);
    let axis = match w {
        16 => "16",
        8 => "8",
        4 => "4",
        _ => "2",
    };
    Ok((w, launch(OP, x.device(), &ROWS, &[axis], entry)?))
}
