//! Row by row; memory is the limit.

use crate::{Slice, SliceMut, View, ViewMut, bf16, f16};
use crate::view::PlaceMut;

/// The host elements: the caller has matched on the device.
fn host<'a>(y: ViewMut<'a>) -> SliceMut<'a> {
    match y.place {
        PlaceMut::Host(s) => s,
        PlaceMut::Cuda(_) => unreachable!("dispatch on the device comes first"),
    }
}

pub fn cast(x: View, y: ViewMut) {
    match (x.slice(), host(y)) {
        (Slice::U32(x), SliceMut::U32(y)) => y.copy_from_slice(x),
        (Slice::F32(x), SliceMut::F32(y)) => y.copy_from_slice(x),
        (Slice::BF16(x), SliceMut::BF16(y)) => y.copy_from_slice(x),
        (Slice::F16(x), SliceMut::F16(y)) => y.copy_from_slice(x),
        (x, y) => {
            let at: Box<dyn Fn(usize) -> f32> = match x {
                Slice::F32(x) => Box::new(|i| x[i]),
                Slice::BF16(x) => Box::new(|i| x[i].to_f32()),
                Slice::F16(x) => Box::new(|i| x[i].to_f32()),
                Slice::U32(_) => unreachable!("u32 only to u32"),
            };
            match y {
                SliceMut::F32(y) => y.iter_mut().enumerate().for_each(|(i, y)| *y = at(i)),
                SliceMut::BF16(y) => y.iter_mut().enumerate().for_each(|(i, y)| *y = bf16::from_f32(at(i))),
                SliceMut::F16(y) => y.iter_mut().enumerate().for_each(|(i, y)| *y = f16::from_f32(at(i))),
                SliceMut::U32(_) => unreachable!("u32 only from u32"),
            }
        }
    }
}

/// Run `$f` on the element slices of a view and a mutable view of the same dtype.
macro_rules! same {
    ($x:expr, $y:expr, |$a:ident, $b:ident| $f:expr) => {
        match ($x.slice(), host($y)) {
            (Slice::F32($a), SliceMut::F32($b)) => $f,
            (Slice::BF16($a), SliceMut::BF16($b)) => $f,
            (Slice::F16($a), SliceMut::F16($b)) => $f,
            (Slice::U32($a), SliceMut::U32($b)) => $f,
            _ => unreachable!("the dtypes are equal"),
        }
    };
}

pub fn columns(x: View, from: usize, n: usize, y: ViewMut, to: usize) {
    let (xs, ys) = (x.shape().dims()[1].max(1), y.shape().dims()[1].max(1));
    same!(x, y, |x, y| for (x, y) in x.chunks_exact(xs).zip(y.chunks_exact_mut(ys)) {
        y[to..to + n].copy_from_slice(&x[from..from + n]);
    })
}

pub fn gather(x: View, rows: &[u32], y: ViewMut) {
    let r = x.shape().dims()[1].max(1);
    same!(x, y, |x, y| for (y, &i) in y.chunks_exact_mut(r).zip(rows) {
        y.copy_from_slice(&x[i as usize * r..][..r]);
    })
}

pub fn scatter(x: View, rows: &[u32], y: ViewMut) {
    let r = x.shape().dims()[1].max(1);
    same!(x, y, |x, y| for (x, &i) in x.chunks_exact(r).zip(rows) {
        y[i as usize * r..][..r].copy_from_slice(x);
    })
}
