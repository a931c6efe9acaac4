//! The specification: the recurrence itself, token by token.

use super::{Dims, Normalizer};
use crate::real::Real;

/// Inputs as flat slices, in the shapes of [`super::Args`].
pub struct Inputs<'a, R> {
    /// Rotated queries.
    pub q: &'a [R],
    /// Ring and new keys.
    pub k: &'a [R],
    /// Ring and new values.
    pub v: &'a [R],
    /// Keys of the first positions.
    pub sink_k: &'a [R],
    /// Their values.
    pub sink_v: &'a [R],
    /// Query features.
    pub phi_q: &'a [R],
    /// Features of leaving keys.
    pub phi_k: &'a [R],
    /// Their log decays.
    pub log_decay: &'a [R],
    /// State weights.
    pub gamma: &'a [R],
    /// State log weight.
    pub mix: &'a [R],
    /// Peak slope.
    pub slope: &'a [R],
    /// Initial S.
    pub s: &'a [R],
    /// Initial z.
    pub z: &'a [R],
}

/// -> (out [T, H, D], final S, final z).
pub fn forward<R: Real>(x: &Inputs<R>, n: Dims, normalizer: Normalizer) -> [Vec<R>; 3] {
    let Dims { t, r, l, h, g, d, f, e, w, .. } = n;
    let (mut s, mut z) = (x.s.to_vec(), x.z.to_vec());
    let mut out = Vec::with_capacity(t * h * d);
    for time in 0..t {
        if let Some(i) = time.checked_sub(w - r).filter(|&i| i < l) {
            for state in 0..2 {
                for kv in 0..g {
                    for a in 0..f {
                        let gate = ((i * 2 + state) * g + kv) * e + if e == 1 { 0 } else { a };
                        let decay = x.log_decay[gate].exp();
                        let key = x.phi_k[(i * g + kv) * f + a].model();
                        let at = (state * g + kv) * f + a;
                        z[at] = decay * z[at] + key;
                        for b in 0..d {
                            s[at * d + b] = decay * s[at * d + b] + key * x.v[(i * g + kv) * d + b].model();
                        }
                    }
                }
            }
        }
        for head in 0..h {
            let kv = head * g / h;
            let (mut num, mut den) = (vec![R::zero(); d], R::zero());
            let mut weight = R::one();
            if w > 0 {
                let last = time + r;
                let first = (last + 1).saturating_sub(w);
                // The window's keys, then the sinks that lie before it.
                let keys: Vec<(&[R], &[R])> = (first..=last)
                    .map(|j| (j, x.k, x.v))
                    .chain((0..n.sinks(time)).map(|j| (j, x.sink_k, x.sink_v)))
                    .map(|(j, k, v)| (&k[(j * g + kv) * d..][..d], &v[(j * g + kv) * d..][..d]))
                    .collect();
                let score = |k: &[R]| {
                    let mut sum = R::zero();
                    for b in 0..d {
                        sum += x.q[(time * h + head) * d + b].model() * k[b].model();
                    }
                    sum / R::of(d as f64).sqrt()
                };
                let peak = keys.iter().map(|(k, _)| score(k)).reduce(R::max).expect("a token sees itself");
                for (k, v) in &keys {
                    let a = (score(k) - peak).exp();
                    den += a;
                    for b in 0..d {
                        num[b] += a.model() * v[b].model();
                    }
                }
                let log = x.mix[head] - x.slope[head] * peak;
                weight = R::of(log.f64().clamp(-super::cpu::LOG_WEIGHT, super::cpu::LOG_WEIGHT)).exp();
                if log.f64().abs() < super::cpu::LOG_WEIGHT {
                    weight = log.exp();
                }
            }
            for state in 0..2 {
                for a in 0..f {
                    let at = (state * g + kv) * f + a;
                    let read = weight * x.gamma[state * h + head] * x.phi_q[(time * h + head) * f + a].model();
                    den += read * z[at];
                    for b in 0..d {
                        num[b] += read * s[at * d + b].model();
                    }
                }
            }
            let scale = match normalizer {
                Normalizer::None => R::one(),
                Normalizer::Sum => R::one() / (den + R::of(super::cpu::EPS as f64)),
                Normalizer::Rms => {
                    let mut sum = R::zero();
                    for &v in &num {
                        sum += v * v;
                    }
                    R::one() / (sum / R::of(d as f64) + R::of(super::cpu::EPS as f64)).sqrt()
                }
            };
            out.extend(num.iter().map(|&v| v * scale));
        }
    }
    // Tokens that leave without a query of this call to read them (there are none while t > 0 covers l).
    [out, s, z]
}
