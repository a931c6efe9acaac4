//! Small vector helpers that attention kernels share; each is compiled for every level.

use crate::multiversion;
use crate::simd::lanes::{lanes, tree};
use crate::simd::{exp_fall, exp2_fall, madd};
use crate::{DType, Slice, View, bf16};

multiversion! {
    /// y += a x.
    pub(crate) fn axpy<const FMA: bool>(a: f32, x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = madd::<FMA>(a, x, *y);
        }
    }
}

multiversion! {
    /// y = a x.
    pub(crate) fn scaled<const FMA: bool>(x: &[f32], a: f32, y: &mut [f32]) {
        let _ = FMA;
        y.iter_mut().zip(x).for_each(|(y, x)| *y = a * x);
    }
}

/// Sum of x y in sixteen lanes, whatever the machine's width: for use inside `multiversion!` bodies; [`dot`] elsewhere.
#[inline(always)]
pub(crate) fn dot_lanes<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (ac, bc) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = ac.remainder().iter().zip(bc.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in ac.zip(bc) {
        for l in 0..16 {
            lanes[l] = madd::<FMA>(x[l], y[l], lanes[l]);
        }
    }
    tree(lanes) + tail
}

multiversion! {
    /// Sum of x y in sixteen lanes.
    pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
        dot_lanes::<FMA>(a, b)
    }
}

multiversion! {
    /// Largest element (-inf for none).
    pub(crate) fn max<const FMA: bool>(x: &[f32]) -> f32 {
        let _ = FMA;
        let mut lanes = [f32::NEG_INFINITY; 16];
        let chunks = x.chunks_exact(16);
        let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
        for c in chunks {
            for l in 0..16 {
                lanes[l] = if c[l] > lanes[l] { c[l] } else { lanes[l] };
            }
        }
        let mut half = 8;
        while half > 0 {
            (0..half).for_each(|l| lanes[l] = if lanes[l + half] > lanes[l] { lanes[l + half] } else { lanes[l] });
            half /= 2;
        }
        if tail > lanes[0] { tail } else { lanes[0] }
    }
}

multiversion! {
    /// x <- e^(x - m) for m no less than any x; returns the sum.
    pub(crate) fn exp_sub_sum<const FMA: bool>(x: &mut [f32], m: f32) -> f32 {
        let mut lanes = [0.0f32; 16];
        let mut chunks = x.chunks_exact_mut(16);
        for c in &mut chunks {
            for l in 0..16 {
                c[l] = exp_fall::<FMA>(c[l] - m);
                lanes[l] += c[l];
            }
        }
        let mut tail = 0.0;
        for v in chunks.into_remainder() {
            *v = exp_fall::<FMA>(*v - m);
            tail += *v;
        }
        tree(lanes) + tail
    }
}

/// A row of a softmax whose weights are rounded to bf16 and read by products in pairs. A weight is 2^(scale (x - peak)).
#[derive(Clone, Copy)]
pub(crate) struct SoftRow {
    /// What scores are measured against, best the largest of them.
    pub peak: f32,
    /// The sum of the weights before rounding, lane by lane.
    sums: [f32; 16],
}

impl SoftRow {
    pub const NONE: SoftRow = SoftRow { peak: f32::NEG_INFINITY, sums: [0.0; 16] };

    /// Raise the peak to that of scores x. Returns by what all that was weighted so far is to be multiplied, if it is.
    pub fn raise(&mut self, x: &[f32], scale: f32) -> Option<f32> {
        let top = max(x);
        if top <= self.peak || top == f32::NEG_INFINITY {
            return None;
        }
        let fade = exp2_fall::<false>((self.peak - top) * scale);
        self.peak = top;
        self.sums.iter_mut().for_each(|s| *s *= fade);
        Some(fade)
    }

    /// The weights of scores x against the peak: whole vectors of 16; none where no score was more than -inf.
    pub fn weigh(&mut self, x: &[f32], scale: f32, out: &mut [bf16]) {
        SoftRow::weigh_all(std::slice::from_mut(self), x, scale, out, x.len(), x.len())
    }

    /// [`SoftRow::weigh`] for the first `cols` scores of each row, rows `ld` apart.
    pub fn weigh_all(rows: &mut [SoftRow], x: &[f32], scale: f32, out: &mut [bf16], ld: usize, cols: usize) {
        let fits = cols <= ld && cols.is_multiple_of(16) && rows.len() * ld <= x.len().min(out.len());
        assert!(fits, "weigh: {cols} of {} scores for {} in {} rows", x.len(), out.len(), rows.len());
        // SAFETY: both hold whole vectors of every row.
        unsafe { weigh(rows, x.as_ptr(), scale, out.as_mut_ptr() as *mut u16, ld, cols) }
    }

    /// The sum of the weights.
    pub fn sum(&self) -> f32 {
        tree(self.sums)
    }
}

lanes! {
    /// out <- 2^(scale (x - peak)), rounded; to a row's sums before that. What is beyond 2^100 becomes that.
    unsafe fn weigh<V>(rows: &mut [SoftRow], x: *const f32, scale: f32, out: *mut u16, ld: usize, cols: usize) {
        for (r, row) in rows.iter_mut().enumerate() {
            // SAFETY: the caller's: whole vectors of every row.
            unsafe {
                let (x, out) = (x.add(r * ld), out.add(r * ld));
                if row.peak == f32::NEG_INFINITY {
                    out.write_bytes(0, cols);
                    continue;
                }
                let (scale, shift) = (V::splat(scale), V::splat(-row.peak * scale));
                let mut all = V::load(row.sums.as_ptr());
                for at in (0..cols).step_by(16) {
                    let mut e = [0.0f32; 16];
                    shift.fma(V::load(x.add(at)), scale).store(e.as_mut_ptr());
                    e.iter_mut().for_each(|e| *e = exp2_fall::<true>(if *e > 100.0 { 100.0 } else { *e }));
                    let e = V::load(e.as_ptr());
                    all = all.add(e);
                    e.store_bf16(out.add(at));
                }
                all.store(row.sums.as_mut_ptr());
            }
        }
    }
}

multiversion! {
    /// bf16 to f32: exact, and vectorised where `bf16::to_f32` (which quiets NaN) is not.
    pub(crate) fn widen<const FMA: bool>(x: &[bf16], out: &mut [f32]) {
        let _ = FMA;
        for (o, b) in out.iter_mut().zip(x) {
            *o = f32::from_bits((b.to_bits() as u32) << 16);
        }
    }
}

multiversion! {
    /// f32 to the nearest bf16, ties to even; NaN stays NaN. As `bf16::from_f32`, but it vectorises.
    pub(crate) fn narrow<const FMA: bool>(x: &[f32], out: &mut [bf16]) {
        let _ = FMA;
        out.iter_mut().zip(x).for_each(|(o, &v)| *o = nearest_bf16(v));
    }
}

/// [`narrow`] of what is multiplied next, in one instruction where there is one: it takes numbers too small for a full mantissa
/// for zero, as the products do.
pub(crate) fn narrow_factors(x: &[f32], out: &mut [bf16]) {
    assert_eq!(x.len(), out.len());
    let whole = x.len() / 16 * 16;
    // SAFETY: whole vectors of both.
    unsafe { store_factors(x.as_ptr(), whole, out.as_mut_ptr() as *mut u16) }
    narrow(&x[whole..], &mut out[whole..]);
}

lanes! {
    /// n numbers, whole vectors.
    unsafe fn store_factors<V>(x: *const f32, n: usize, out: *mut u16) {
        for at in (0..n).step_by(16) {
            // SAFETY: the caller's.
            unsafe { V::load(x.add(at)).store_bf16(out.add(at)) }
        }
    }
}

/// For use inside `multiversion!` bodies; [`narrow`] elsewhere.
#[inline(always)]
pub(crate) fn nearest_bf16(v: f32) -> bf16 {
    let b = v.to_bits();
    let r = (b.wrapping_add(0x7fff + ((b >> 16) & 1)) >> 16) as u16;
    bf16::from_bits(if v.is_nan() { (b >> 16) as u16 | 0x40 } else { r })
}

/// dst [n rows, cols] <- transposed: src row r starts at `src[r * ld]`, dst is [cols][ldd] with column r.
pub(crate) fn transpose(src: &[f32], ld: usize, n: usize, cols: usize, dst: &mut [f32], ldd: usize) {
    for r0 in (0..n).step_by(16) {
        for c0 in (0..cols).step_by(16) {
            for r in r0..(r0 + 16).min(n) {
                for c in c0..(c0 + 16).min(cols) {
                    dst[c * ldd + r] = src[r * ld + c];
                }
            }
        }
    }
}

/// Copy rows `start..start + n` of one head of x [T, G, D] (any float) into dst [n, D] as f32.
pub(crate) fn head_rows(x: &View, g: usize, start: usize, n: usize, dst: &mut [f32]) {
    let (groups, d) = (x.shape().dims()[1], x.shape().dims()[2]);
    for r in 0..n {
        let at = ((start + r) * groups + g) * d;
        let out = &mut dst[r * d..(r + 1) * d];
        match x.slice() {
            Slice::F32(v) => out.copy_from_slice(&v[at..at + d]),
            Slice::BF16(v) => widen(&v[at..at + d], out),
            Slice::F16(v) => out.iter_mut().zip(&v[at..at + d]).for_each(|(o, x)| *o = x.to_f32()),
            Slice::U32(_) => unreachable!("dtypes were checked"),
        }
    }
}

/// Checks for f32, bf16 or f16.
pub(crate) fn expect_float(x: &View, op: &'static str, arg: &'static str) -> crate::Result<()> {
    match x.dtype() {
        DType::F32 | DType::BF16 | DType::F16 => Ok(()),
        got => Err(crate::Error::DType { op, arg, got, want: "f32, bf16 or f16" }),
    }
}
