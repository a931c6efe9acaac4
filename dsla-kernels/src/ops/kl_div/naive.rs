//! The specification.

use crate::ops::cross_entropy::naive::log_sum_exp;
use crate::real::Real;

/// teacher, student: [T, V] -> kl: [T].
pub fn forward<R: Real>(teacher: &[R], student: &[R], v: usize) -> Vec<R> {
    let mut out = Vec::with_capacity(teacher.len() / v);
    for (t, s) in teacher.chunks(v).zip(student.chunks(v)) {
        let (zt, zs) = (log_sum_exp(t), log_sum_exp(s));
        let mut kl = R::zero();
        for (&t, &s) in t.iter().zip(s) {
            let p = (t - zt).exp();
            // 0 ln 0 = 0, where the logarithms themselves are infinite.
            if p > R::zero() {
                kl += p * ((t - zt) - (s - zs));
            }
        }
        out.push(kl);
    }
    out
}

/// a, b: [T, V] -> rows whose largest element stands at the same index, the lowest of equals.
pub fn agree<R: Real>(a: &[R], b: &[R], v: usize) -> usize {
    let best = |x: &[R]| (0..v).fold(0, |best, i| if x[i] > x[best] { i } else { best });
    a.chunks(v).zip(b.chunks(v)).filter(|(a, b)| best(a) == best(b)).count()
}
