//! Linear layers: y = x W^T (+ bias), with W packed once at load.
//!
//! A bf16 weight makes a bf16 product: x is rounded to bf16, products are summed in f32; so with f16. An x that is in
//! the weight's dtype already is the same function with half the bytes to read: what layers on a GPU hand each other.
//! A quantised weight makes an int8 product: x is quantised per row and block of 32, see [`quant`].

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;
mod pack;
pub mod quant;

pub use pack::Packed;
pub use quant::Quant;

use crate::view::PlaceMut;
use crate::{DType, Device, Error, Result, Slice, SliceMut, Tensor, View, ViewMut};
use pack::Panels;

const OP: &str = "linear";

/// What happens to the old content of y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// y = x W^T + bias
    Store,
    /// y += x W^T + bias: the residual connection.
    Add,
}

/// y = x W^T + bias. x: [M, K] f32 or the weight's dtype; w: [N, K] packed; bias: [N] f32; y: [M, N] f32.
///
/// On a GPU the sums of a row are the same in every batch of up to 16 rows (f32: 8), and the same in every larger batch.
///
/// Errors: a shape, dtype or device that does not fit; no memory on the device.
pub fn forward(x: View, w: &Packed, bias: Option<View>, into: Into, y: ViewMut) -> Result<()> {
    forward_sized(x, w, bias, into, y, Size::Auto)
}

/// Which of the kernels' tiles: tests force what shapes would choose, so that they can be small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Auto,
    Small,
    Large,
}

fn forward_sized(x: View, w: &Packed, bias: Option<View>, into: Into, mut y: ViewMut, size: Size) -> Result<()> {
    let [m, k] = x.dims(OP, "x")?;
    if k != w.k() {
        return Err(Error::Shape { op: OP, arg: "x", got: x.shape(), want: format!("[M, {}]", w.k()) });
    }
    if let Panels::Cuda(w) = &w.data {
        let check = |x: View, arg, want: &[usize]| x.expect_on(OP, arg, w.device(), DType::F32, want);
        x.expect_on(OP, "x", w.device(), either(x.dtype(), w.dtype()), &[m, k])?;
        bias.map_or(Ok(()), |b| check(b, "bias", &[w.n()]))?;
        check(y.as_view(), "y", &[m, w.n()])?;
        return cuda::forward(x, cuda::Product { w, bias, into, swiglu: false, size }, &mut y);
    }
    let rounded = x.dtype() != DType::F32 && x.dtype() == w.dtype() && x.device() == Device::Cpu;
    if rounded && !cpu::reads_bf16(w) {
        let x = x.to_tensor()?.to_dtype(DType::F32)?;
        return forward_sized(x.view(), w, bias, into, y, size);
    }
    let xs = input(&x, rounded, [m, k])?;
    let bias = bias.map(|b| b.expect_f32(OP, "bias", &[w.n()])).transpose()?;
    let ys = y.expect_f32(OP, "y", &[m, w.n()])?;
    cpu::forward(xs, m, w, bias, into, ys);
    Ok(())
}

/// [`forward`] to y, a matrix [M, N_i] f32 for each block of columns side by side: queries, keys and values of one product.
///
/// Errors: as [`forward`]; blocks that are not N columns in all.
pub fn forward_parts<const P: usize>(x: View, w: &Packed, bias: Option<View>, y: [ViewMut; P]) -> Result<()> {
    let [m, k] = x.dims(OP, "x")?;
    let mut widths = [0; P];
    for (width, y) in widths.iter_mut().zip(&y) {
        *width = y.as_view().dims::<2>(OP, "y")?[1];
    }
    if widths.iter().sum::<usize>() != w.n() {
        let got = format!("{widths:?} columns");
        return Err(Error::Argument { op: OP, arg: "y", got, want: format!("{} in all", w.n()) });
    }
    let as_it_is = x.dtype() == DType::F32 || (x.dtype() == w.dtype() && cpu::reads_bf16(w));
    if x.device() != Device::Cpu || k != w.k() || !as_it_is || !cpu::takes_parts(w, &widths) {
        let mut all = Tensor::empty_on(x.device(), [m, w.n()], DType::F32)?;
        forward(x, w, bias, Into::Store, all.view_mut())?;
        let mut from = 0;
        for (y, width) in y.into_iter().zip(widths) {
            super::copy::columns(all.view(), from, width, y, 0)?;
            from += width;
        }
        return Ok(());
    }
    let xs = input(&x, x.dtype() != DType::F32, [m, k])?;
    let bias = bias.map(|b| b.expect_f32(OP, "bias", &[w.n()])).transpose()?;
    let mut parts = [const { None }; P];
    for ((part, y), width) in parts.iter_mut().zip(y).zip(widths) {
        *part = Some(y.expect_f32(OP, "y", &[m, width])?);
    }
    cpu::forward_parts(xs, m, w, bias, parts.map(Option::unwrap_or_default));
    Ok(())
}

/// x on the host, in the weight's dtype or f32.
fn input<'a>(x: &View<'a>, rounded: bool, shape: [usize; 2]) -> Result<cpu::Input<'a>> {
    if rounded
        && x.device() == Device::Cpu
        && let Slice::BF16(x) = x.slice()
    {
        return Ok(cpu::Input::BF16(x));
    }
    Ok(cpu::Input::F32(x.expect_f32(OP, "x", &shape)?))
}

/// Of f32 and the weight's dtype the one that an activation is in; f32 where it is in neither.
fn either(got: DType, weight: DType) -> DType {
    if got == weight { weight } else { DType::F32 }
}

/// y = silu(x G^T) * (x U^T), the first half of a Llama MLP in one pass. x: [M, K] f32 or the weight's dtype; w:
/// [2F, K] packed, the rows of G and then those of U; y: [M, F] f32 or the weight's dtype, written.
///
/// Errors: as [`forward`]; a weight with an odd number of rows.
pub fn forward_swiglu(x: View, w: &Packed, y: ViewMut) -> Result<()> {
    forward_swiglu_sized(x, w, y, Size::Auto)
}

fn forward_swiglu_sized(x: View, w: &Packed, mut y: ViewMut, size: Size) -> Result<()> {
    let [m, k] = x.dims(OP, "x")?;
    if k != w.k() {
        return Err(Error::Shape { op: OP, arg: "x", got: x.shape(), want: format!("[M, {}]", w.k()) });
    }
    if !w.n().is_multiple_of(2) {
        return Err(Error::Shape { op: OP, arg: "w", got: [w.n(), k].into(), want: "[2F, K]".into() });
    }
    if let Panels::Cuda(w) = &w.data {
        x.expect_on(OP, "x", w.device(), either(x.dtype(), w.dtype()), &[m, k])?;
        y.as_view().expect_on(OP, "y", w.device(), either(y.dtype(), w.dtype()), &[m, w.n() / 2])?;
        let p = cuda::Product { w, bias: None, into: Into::Store, swiglu: true, size };
        return cuda::forward(x, p, &mut y);
    }
    if either(y.dtype(), w.dtype()) != y.dtype() {
        return Err(Error::DType { op: OP, arg: "y", got: y.dtype(), want: "f32 or the weight's" });
    }
    let f = w.n() / 2;
    if y.dtype() == DType::BF16 && cpu::reads_bf16(w) && f.is_multiple_of(16) {
        y.as_view().expect_on(OP, "y", Device::Cpu, DType::BF16, &[m, f])?;
        let xs = input(&x, x.dtype() == w.dtype(), [m, k])?;
        if let PlaceMut::Host(SliceMut::BF16(ys)) = &mut y.place {
            cpu::forward_swiglu(xs, m, w, ys);
        }
        return Ok(());
    }
    let mut both = Tensor::empty([m, w.n()], DType::F32);
    forward(x, w, None, Into::Store, both.view_mut())?;
    super::swiglu::forward(both.view(), y)
}

/// dW += dy^T x for a trainable weight. x: [M, K]; dy: [M, N]; dw: [N, K], all f32.
/// (dx = dy W is [`forward`] with the transposed weight packed.)
///
/// Errors: a shape, dtype or device that does not fit; no memory on the device.
pub fn backward_weight(x: View, dy: View, dw: ViewMut) -> Result<()> {
    backward_weight_sized(x, dy, dw, Size::Auto)
}

fn backward_weight_sized(x: View, dy: View, mut dw: ViewMut, size: Size) -> Result<()> {
    let ([m, k], [_, n]) = (x.dims(OP, "x")?, dy.dims(OP, "dy")?);
    if x.device() != Device::Cpu {
        return cuda::backward_weight(x, dy, &mut dw, [m, n, k], size);
    }
    let (xs, dys) = (x.expect_f32(OP, "x", &[m, k])?, dy.expect_f32(OP, "dy", &[m, n])?);
    let dws = dw.expect_f32(OP, "dw", &[n, k])?;
    cpu::backward_weight(xs, dys, m, n, k, dws);
    Ok(())
}
