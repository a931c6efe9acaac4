//! The map where the machine multiplies bf16, to features of bf16.

use crate::bf16;
use crate::gemm::{PairProducts, Pairs};
use crate::host::Host;
use crate::pair_panels::interleave_narrow;
use crate::par::{self, SendPtr};
use crate::simd::exp2_fall;
use crate::simd::lanes::{Lanes, lanes, tree};
use crate::vec::{head_rows, narrow, narrow_factors};
use crate::{DType, Slice, View};

/// Tokens per task, of all heads: their rows stay in the cache from one head to the next.
const BLOCK: usize = 64;

/// D is a multiple of 32.
pub fn forward(u: View, w: &[f32], y: &mut [bf16], [t, h, d]: [usize; 3]) {
    if d == 0 {
        return;
    }
    let mut pairs = Host::<bf16>::scratch(h * d * d);
    for (line, w) in pairs.chunks_exact_mut(2 * d).zip(w.chunks_exact(2 * d)) {
        let (a, b) = w.split_at(d);
        // SAFETY: d of either, whole vectors, and a line of as many pairs.
        unsafe { interleave_narrow(a.as_ptr(), b.as_ptr(), d, line.as_mut_ptr() as *mut u16) }
    }
    let out = SendPtr(y.as_mut_ptr());
    par::for_each(t.div_ceil(BLOCK), |task| {
        let t0 = task * BLOCK;
        let m = BLOCK.min(t - t0);
        let (from, size) = (t0 * h * d, m * h * d);
        let mut narrowed = Host::<bf16>::scratch(if u.dtype() == DType::BF16 { 0 } else { size });
        let x = match u.slice() {
            Slice::BF16(u) => &u[from..from + size],
            Slice::F32(u) => {
                narrow_factors(&u[from..from + size], &mut narrowed);
                &narrowed
            }
            _ => {
                let mut row = Host::<f32>::scratch(d);
                for (r, x) in narrowed.chunks_exact_mut(d).enumerate() {
                    head_rows(&u, r % h, t0 + r / h, 1, &mut row);
                    narrow(&row, x);
                }
                &narrowed
            }
        };
        let (mut z, mut by) = (Host::<f32>::scratch(m * d), PairProducts::new());
        for head in 0..h {
            let (a, b) = (x[head * d..].as_ptr() as *const u16, pairs[head * d * d..].as_ptr() as *const u16);
            let c = z.as_mut_ptr();
            let p = Pairs { k: d / 2, a, lda: h * d, b, ldb: 2 * d, panel: 32, c, ldc: d, add: false, next: 0 };
            // SAFETY: m rows of d in x, h heads apart, and in z; as many lines as two inputs each have, all whole panels.
            unsafe { by.product(p, m, d) }
            // SAFETY: these tokens' rows belong to this task alone.
            unsafe {
                let y = out.get().add((t0 * h + head) * 2 * d);
                both_signs(z.as_ptr(), m, d, y as *mut u16, h * 2 * d)
            }
        }
    });
}

/// Powers of two up to which exponentials are summed as they are: f32 has room for their sums and inverses.
const SPREAD: f32 = 50.0;
/// Vectors of a row whose weights are kept at most; those of a longer row are computed twice.
const KEPT: usize = 8;

lanes! {
    /// y = [softmax(z), softmax(-z)], rounded, for m rows of d; rows of y are `ld` apart.
    unsafe fn both_signs<V>(z: *const f32, m: usize, d: usize, y: *mut u16, ld: usize) {
        // SAFETY: the caller's: whole vectors.
        unsafe {
            let all = ends(z, m * d);
            let small = (if all.0 > -all.1 { all.0 } else { -all.1 }) * SCALE <= SPREAD;
            for r in 0..m {
                let (z, y) = (z.add(r * d), y.add(r * ld));
                let ends = if small { (0.0, 0.0) } else { ends(z, d) };
                let (mut sums, mut kept) = ([V::splat(0.0); 2], [[V::splat(0.0); 2]; KEPT]);
                for i in 0..d / 16 {
                    let w = weights::<V>(z.add(16 * i), ends);
                    sums = [sums[0].add(w[0]), sums[1].add(w[1])];
                    if i < KEPT {
                        kept[i] = w;
                    }
                }
                let factors = [inverse(sums[0]), inverse(sums[1])];
                for i in 0..d / 16 {
                    let w = if i < KEPT { kept[i] } else { weights::<V>(z.add(16 * i), ends) };
                    V::splat(0.0).fma(w[0], factors[0]).store_bf16(y.add(16 * i));
                    V::splat(0.0).fma(w[1], factors[1]).store_bf16(y.add(d + 16 * i));
                }
            }
        }
    }
}

/// The largest and the least of n numbers, whole vectors.
#[inline(always)]
unsafe fn ends(z: *const f32, n: usize) -> (f32, f32) {
    // (The negative of the least is the largest of the negatives.)
    let mut most = [[f32::NEG_INFINITY; 16]; 2];
    for at in (0..n).step_by(16) {
        // SAFETY: the caller's.
        let z = unsafe { &*(z.add(at) as *const [f32; 16]) };
        for l in 0..16 {
            most[0][l] = if z[l] > most[0][l] { z[l] } else { most[0][l] };
            most[1][l] = if -z[l] > most[1][l] { -z[l] } else { most[1][l] };
        }
    }
    for lanes in &mut most {
        for half in [8, 4, 2, 1] {
            for l in 0..half {
                lanes[l] = if lanes[l + half] > lanes[l] { lanes[l + half] } else { lanes[l] };
            }
        }
    }
    (most[0][0], -most[1][0])
}

const SCALE: f32 = std::f32::consts::LOG2_E;

/// One over the sum of a vector, in all lanes.
#[inline(always)]
unsafe fn inverse<V: Lanes>(sum: V) -> V {
    let mut lanes = [0.0f32; 16];
    // SAFETY: the caller's.
    unsafe {
        sum.store(lanes.as_mut_ptr());
        V::splat(1.0 / tree(lanes))
    }
}

/// Sixteen weights of either half of a row, against where it ends (most, least) or, where those are close, their middle: then the
/// exponentials of -z are the inverses of those of z.
#[inline(always)]
unsafe fn weights<V: Lanes>(z: *const f32, (most, least): (f32, f32)) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let z = V::load(z);
        let middle = 0.5 * (most + least);
        if (most - middle) * SCALE <= SPREAD {
            let plus = exp2(V::splat(-middle * SCALE).fma(z, V::splat(SCALE)));
            return [plus, plus.rough_inverse()];
        }
        let plus = exp2(V::splat(-most * SCALE).fma(z, V::splat(SCALE)));
        [plus, exp2(V::splat(least * SCALE).fma(z, V::splat(-SCALE)))]
    }
}

#[inline(always)]
unsafe fn exp2<V: Lanes>(x: V) -> V {
    let mut e = [0.0f32; 16];
    // SAFETY: the caller's.
    unsafe {
        x.store(e.as_mut_ptr());
        for e in &mut e {
            *e = exp2_fall::<true>(*e);
        }
        V::load(e.as_ptr())
    }
}
