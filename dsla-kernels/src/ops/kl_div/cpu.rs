//! Rows in parallel, sums in fixed lanes.
//!
//! With d = ln p - ln q, the sum of p d cancels where the student is close to the teacher: terms of size d add up to
//! something of size d^2. As sum(q - p) = 0 the divergence is also the sum of p d + q - p = p (d - 1 + e^-d), whose
//! terms are all of size d^2 and none negative. Small d take the series of that bracket.

use crate::ops::cross_entropy::rows::{self, BLOCK, LANES, total_of};
use crate::{multiversion, par, simd, simd::madd};

pub fn forward(teacher: &[f32], student: &[f32], kl: &mut [f32], v: usize) {
    let n = rows::per_piece(v);
    par::for_each_chunk(kl, n, |i, kl| {
        let (a, b) = (i * n * v, (i * n + kl.len()) * v);
        forward_rows(&teacher[a..b], &student[a..b], kl, v);
    });
}

multiversion! {
    fn forward_rows<const FMA: bool>(teacher: &[f32], student: &[f32], kl: &mut [f32], v: usize) {
        for ((t, s), kl) in teacher.chunks_exact(v).zip(student.chunks_exact(v)).zip(kl) {
            let pair = Pair::new::<FMA>(t, s);
            let mut total = 0.0f64;
            for (t, s) in t.chunks(BLOCK).zip(s.chunks(BLOCK)) {
                let mut lanes = [0.0f32; LANES];
                let (tc, sc) = (t.chunks_exact(LANES), s.chunks_exact(LANES));
                let tail: f32 = tc.remainder().iter().zip(sc.remainder()).map(|(&t, &s)| pair.term::<FMA>(t, s)).sum();
                for (t, s) in tc.zip(sc) {
                    for l in 0..LANES {
                        lanes[l] += pair.term::<FMA>(t[l], s[l]);
                    }
                }
                total += total_of(&lanes) + tail as f64;
            }
            *kl = total as f32;
        }
    }
}

/// What the terms of one row share.
struct Pair {
    max_t: f32,
    max_s: f32,
    inv_t: f32,
    inv_s: f32,
    /// ln of the teacher's normaliser less the student's.
    shift: f32,
}

impl Pair {
    #[inline(always)]
    fn new<const FMA: bool>(t: &[f32], s: &[f32]) -> Pair {
        let (max_t, max_s) = (rows::max(t), rows::max(s));
        let (zt, zs) = (rows::sum_exp::<FMA>(t, max_t), rows::sum_exp::<FMA>(s, max_s));
        let shift = (max_t as f64 - max_s as f64) + (zt.ln() - zs.ln());
        let (inv_t, inv_s) = ((1.0 / zt) as f32, (1.0 / zs) as f32);
        Pair { max_t, max_s, inv_t, inv_s, shift: shift as f32 }
    }

    #[inline(always)]
    fn term<const FMA: bool>(&self, t: f32, s: f32) -> f32 {
        let p = simd::exp_fall::<FMA>(t - self.max_t) * self.inv_t;
        let q = simd::exp_fall::<FMA>(s - self.max_s) * self.inv_s;
        let d = (t - s) - self.shift;
        let mut series = -1.0 / 5040.0;
        for c in [1.0 / 720.0, -1.0 / 120.0, 1.0 / 24.0, -1.0 / 6.0, 0.5] {
            series = madd::<FMA>(series, d, c);
        }
        let near = p * d * d * series;
        // Rounding may take a tiny far term below zero; the exact one never is.
        let far = madd::<FMA>(p, d, q - p);
        let far = if far < 0.0 { 0.0 } else { far };
        let term = if d.abs() < 0.25 { near } else { far };
        // Here d may be infinite or NaN (a masked token): p d is 0 by definition.
        if p == 0.0 { q } else { term }
    }
}

pub fn backward(teacher: &[f32], student: &[f32], dkl: &[f32], dstudent: &mut [f32], v: usize) {
    let n = rows::per_piece(v);
    par::for_each_chunk(dstudent, n * v, |i, d| {
        let (a, b) = (i * n, i * n + d.len() / v);
        backward_rows(&teacher[a * v..b * v], &student[a * v..b * v], &dkl[a..b], d, v);
    });
}

multiversion! {
    fn backward_rows<const FMA: bool>(teacher: &[f32], student: &[f32], dkl: &[f32], dstudent: &mut [f32], v: usize) {
        let rows = teacher.chunks_exact(v).zip(student.chunks_exact(v)).zip(dkl).zip(dstudent.chunks_exact_mut(v));
        for (((t, s), &dkl), ds) in rows {
            let max_t = rows::max(t);
            let inv_t = (1.0 / rows::sum_exp::<FMA>(t, max_t)) as f32;
            let inv_s = (1.0 / rows::exp_into::<FMA>(s, rows::max(s), ds)) as f32;
            for (d, &t) in ds.iter_mut().zip(t) {
                *d = dkl * (*d * inv_s - simd::exp_fall::<FMA>(t - max_t) * inv_t);
            }
        }
    }
}

pub fn agree(a: &[f32], b: &[f32], v: usize) -> usize {
    let n = rows::per_piece(v);
    let mut same = vec![false; a.len() / v];
    par::for_each_chunk(&mut same, n, |i, same| {
        for (r, same) in same.iter_mut().enumerate() {
            let at = (i * n + r) * v;
            *same = rows::argmax(&a[at..at + v]) == rows::argmax(&b[at..at + v]);
        }
    });
    same.into_iter().filter(|&s| s).count()
}
