//! Learning-rate schedules.

use dsla_kernels::ops::adamw::AdamW;

/// AdamW as every stage here runs it, at step `step` (from 0) of `steps` on the cosine below `peak`.
pub(crate) fn adamw(peak: f64, warmup: f64, weight_decay: f64, step: u64, steps: u64) -> AdamW {
    let lr = cosine(peak, warmup, step as f64 / steps as f64);
    AdamW { lr, beta1: 0.9, beta2: 0.98, eps: 1e-10, weight_decay, step: step + 1 }
}

/// Linear warm-up over the first `warmup` share of the steps, then a cosine down to a hundredth of `peak`.
/// `progress` runs from 0 to 1.
pub fn cosine(peak: f64, warmup: f64, progress: f64) -> f64 {
    if progress < warmup {
        return peak * (progress / warmup).max(0.01);
    }
    let p = ((progress - warmup) / (1.0 - warmup)).min(1.0);
    peak * (0.01 + 0.99 * 0.5 * (1.0 + (std::f64::consts::PI * p).cos()))
}

#[cfg(test)]
mod tests {
    use super::cosine;

    #[test]
    fn rises_then_falls() {
        let lr: Vec<f64> = (0..=100).map(|i| cosine(1.0, 0.1, i as f64 / 100.0)).collect();
        assert!(lr[..=10].windows(2).all(|w| w[0] <= w[1]));
        assert!(lr[10..].windows(2).all(|w| w[0] >= w[1]));
        assert!((lr[10] - 1.0).abs() < 1e-9 && (lr[100] - 0.01).abs() < 1e-9);
    }
}
