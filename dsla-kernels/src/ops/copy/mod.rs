//! Copies that change dtype, place or order; no arithmetic.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;

use crate::{DType, Device, Error, Result, Tensor, View, ViewMut};

const OP: &str = "copy";

/// y = x in y's dtype, rounding to nearest even. The same shape; floats of any dtype, or u32 to u32.
///
/// Errors: a shape, dtype or device that does not fit.
pub fn cast(x: View, mut y: ViewMut) -> Result<()> {
    x.expect_shape(OP, "x", y.shape().dims())?;
    if (x.dtype() == DType::U32) != (y.dtype() == DType::U32) {
        return Err(Error::DType { op: OP, arg: "x", got: x.dtype(), want: y.dtype().name() });
    }
    same_device(&x, &y)?;
    match x.device() {
        Device::Cpu => cpu::cast(x, y),
        Device::Cuda(_) => return cuda::cast(x, &mut y),
    }
    Ok(())
}

/// `y[t, to..to + n] = x[t, from..from + n]`: a block of columns. x: [T, X], y: [T, Y] of one dtype; the other columns
/// of y keep what they hold.
///
/// Errors: columns outside x or y; a shape, dtype or device that does not fit.
pub fn columns(x: View, from: usize, n: usize, mut y: ViewMut, to: usize) -> Result<()> {
    let ([t, xs], [ty, ys]) = (x.dims(OP, "x")?, y.as_view().dims(OP, "y")?);
    if t != ty {
        return Err(Error::Shape { op: OP, arg: "y", got: y.shape(), want: format!("{t} rows") });
    }
    for (arg, first, all) in [("from", from, xs), ("to", to, ys)] {
        if first + n > all {
            let got = format!("columns {first}..{}", first + n);
            return Err(Error::Argument { op: OP, arg, got, want: format!("at most {all}") });
        }
    }
    same_dtype(&x, &y)?;
    match x.device() {
        Device::Cpu => cpu::columns(x, from, n, y, to),
        Device::Cuda(_) => return cuda::columns(x, from, n, &mut y, to),
    }
    Ok(())
}

/// `y[i] = x[rows[i]]`: whole rows, states of a batch for example. x: [N, R], rows: [T] u32 on the same device (below
/// N: on the host refused here, on a device not checked: such rows come out as NaN), y: [T, R] of x's dtype.
///
/// Errors: a row of N or more; a shape, dtype or device that does not fit.
pub fn gather(x: View, rows: View, mut y: ViewMut) -> Result<()> {
    let ([n, r], [t]) = (x.dims(OP, "x")?, rows.dims(OP, "rows")?);
    y.as_view().expect_shape(OP, "y", &[t, r])?;
    same_dtype(&x, &y)?;
    match x.device() {
        Device::Cpu => {
            let rows = rows.expect_u32(OP, "rows", &[t])?;
            super::embedding::check_below(OP, "rows", rows, n)?;
            cpu::gather(x, rows, y);
        }
        Device::Cuda(_) => return cuda::gather(x, rows, &mut y, [n, r, t]),
    }
    Ok(())
}

/// `y[rows[i]] = x[i]`: the inverse of [`gather`]. rows: [T] u32, no row twice (the last of equal ones wins on the
/// host; on a device any may). Rows of y that are not named keep what they hold.
///
/// Errors: as [`gather`]; on a device, rows of N or more are left out.
pub fn scatter(x: View, rows: View, mut y: ViewMut) -> Result<()> {
    let ([t, r], [n, _]) = (x.dims(OP, "x")?, y.as_view().dims(OP, "y")?);
    y.as_view().expect_shape(OP, "y", &[n, r])?;
    same_dtype(&x, &y)?;
    match x.device() {
        Device::Cpu => {
            let rows = rows.expect_u32(OP, "rows", &[t])?;
            super::embedding::check_below(OP, "rows", rows, n)?;
            cpu::scatter(x, rows, y);
        }
        Device::Cuda(_) => return cuda::scatter(x, rows, &mut y, [n, r, t]),
    }
    Ok(())
}

/// On the host, where ops compute in f32: run `f` for an f32 tensor of y's shape and round that to y.
pub(crate) fn through_f32(y: ViewMut, f: impl FnOnce(ViewMut) -> Result<()>) -> Result<()> {
    if y.device() != Device::Cpu {
        return Err(Error::Device { op: OP, arg: "y", got: y.device(), want: Device::Cpu });
    }
    let mut wide = Tensor::empty(y.shape(), DType::F32);
    f(wide.view_mut())?;
    cast(wide.view(), y)
}

fn same_device(x: &View, y: &ViewMut) -> Result<()> {
    match (x.device(), y.device()) {
        (want, got) if want != got => Err(Error::Device { op: OP, arg: "y", got, want }),
        _ => Ok(()),
    }
}

fn same_dtype(x: &View, y: &ViewMut) -> Result<()> {
    if x.dtype() != y.dtype() {
        return Err(Error::DType { op: OP, arg: "y", got: y.dtype(), want: x.dtype().name() });
    }
    same_device(x, y)
}
