//! Row by row; memory is the limit.

use crate::vec::{narrow, widen};
use crate::{Slice, SliceMut, View, ViewMut, bf16, f16, par};

pub fn cast(x: View, y: ViewMut) {
    match (x.slice(), y.into_host()) {
        (Slice::U32(x), SliceMut::U32(y)) => y.copy_from_slice(x),
        (Slice::F32(x), SliceMut::F32(y)) => y.copy_from_slice(x),
        (Slice::BF16(x), SliceMut::BF16(y)) => y.copy_from_slice(x),
        (Slice::F16(x), SliceMut::F16(y)) => y.copy_from_slice(x),
        (Slice::F32(x), SliceMut::BF16(y)) => par::for_each_chunk(y, RUN, |i, y| narrow(&x[i * RUN..][..y.len()], y)),
        (Slice::BF16(x), SliceMut::F32(y)) => par::for_each_chunk(y, RUN, |i, y| widen(&x[i * RUN..][..y.len()], y)),
        (Slice::F32(x), SliceMut::F16(y)) => each(x, y, f16::from_f32),
        (Slice::BF16(x), SliceMut::F16(y)) => each(x, y, |x| f16::from_f32(x.to_f32())),
        (Slice::F16(x), SliceMut::F32(y)) => each(x, y, f16::to_f32),
        (Slice::F16(x), SliceMut::BF16(y)) => each(x, y, |x| bf16::from_f32(x.to_f32())),
        _ => unreachable!("u32 only from and to u32"),
    }
}

fn each<A: Copy, B>(x: &[A], y: &mut [B], f: impl Fn(A) -> B) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x));
}

/// Elements per task: less is not worth another core.
const RUN: usize = 1 << 14;

/// Run `$f` on the element slices of a view and a mutable view of the same dtype.
macro_rules! same {
    ($x:expr, $y:expr, |$a:ident, $b:ident| $f:expr) => {
        match ($x.slice(), $y.into_host()) {
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
    let rows = (RUN / ys).max(1);
    same!(x, y, |x, y| par::for_each_chunk(y, rows * ys, |i, y| {
        for (x, y) in x[i * rows * xs..].chunks_exact(xs).zip(y.chunks_exact_mut(ys)) {
            y[to..to + n].copy_from_slice(&x[from..from + n]);
        }
    }))
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
