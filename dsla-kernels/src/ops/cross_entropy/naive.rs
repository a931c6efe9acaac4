//! The specification.

use crate::real::Real;

/// logits: [T, V], targets: [T] -> loss: [T].
pub fn forward<R: Real>(logits: &[R], targets: &[R], v: usize) -> Vec<R> {
    let mut loss = Vec::with_capacity(targets.len());
    for (row, target) in logits.chunks(v).zip(targets) {
        loss.push(log_sum_exp(row) - row[target.f64() as usize]);
    }
    loss
}

/// ln(sum of e^x), with the maximum taken out.
pub fn log_sum_exp<R: Real>(x: &[R]) -> R {
    let max = x.iter().fold(x[0], |m, &v| m.max(v));
    let mut sum = R::zero();
    for &v in x {
        sum += (v - max).exp();
    }
    sum.ln() + max
}
