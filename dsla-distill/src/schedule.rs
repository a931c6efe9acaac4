//! Learning-rate schedules.

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
