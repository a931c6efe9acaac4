//! The specification: the recurrence itself, token by token.

use super::{BatchDims, Dims, Normalizer, Place};
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
                        // What multiplies bf16 rounds features again, as they weigh at the end of their chunk.
                        let faded = decay * key;
                        let key = if faded.f64() == 0.0 { key } else { key + (faded.model() - faded) / decay };
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

/// Inputs of a batch, in the shapes of [`super::BatchArgs`] and [`super::Pool`].
pub struct BatchInputs<'a, R> {
    /// Rotated queries.
    pub q: &'a [R],
    /// The tokens' keys.
    pub k: &'a [R],
    /// The tokens' values.
    pub v: &'a [R],
    /// Pools of sinks.
    pub sinks: [&'a [R]; 2],
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
    /// Pools: S, z, keys and values of the rings.
    pub pools: [&'a [R]; 4],
}

/// [`forward`] with one token for each sequence -> (out [B, H, D], then the pools).
pub fn decode_batch<R: Real>(x: &BatchInputs<R>, n: BatchDims, places: &[Place], normalizer: Normalizer) -> Vec<Vec<R>> {
    let Dims { h, g, d, f, e, w, n: sinks, .. } = n.one;
    let (states, sums, row) = (2 * g * f * d, 2 * g * f, g * d);
    let mut pools = x.pools.map(<[R]>::to_vec);
    let mut out = Vec::with_capacity(n.b * h * d);
    for (i, place) in places.iter().enumerate() {
        let one = place.dims(n.one);
        let (rows, new) = place.rows(w);
        let rows: Vec<usize> = rows.map(|r| (place.slot * w + r) * row).collect();
        let [k, v] = [(2, x.k), (3, x.v)].map(|(ring, token)| {
            let mut keys: Vec<R> = rows.iter().flat_map(|&at| pools[ring][at..at + row].to_vec()).collect();
            keys.extend(&token[i * row..(i + 1) * row]);
            keys
        });
        let [sink_k, sink_v] = x.sinks.map(|p| &p[place.slot * sinks * row..(place.slot + 1) * sinks * row]);
        let [s, z] = [(0, states), (1, sums)].map(|(p, len)| pools[p][place.slot * len..(place.slot + 1) * len].to_vec());
        let call = Inputs {
            q: &x.q[i * h * d..(i + 1) * h * d],
            k: &k,
            v: &v,
            sink_k,
            sink_v,
            phi_q: &x.phi_q[i * h * f..(i + 1) * h * f],
            phi_k: &x.phi_k[i * g * f..(i + 1) * g * f],
            log_decay: &x.log_decay[i * 2 * g * e..(i + 1) * 2 * g * e],
            gamma: x.gamma,
            mix: x.mix,
            slope: x.slope,
            s: &s,
            z: &z,
        };
        let [o, s, z] = forward(&call, one, normalizer);
        out.extend(o);
        pools[0][place.slot * states..(place.slot + 1) * states].copy_from_slice(&s);
        pools[1][place.slot * sums..(place.slot + 1) * sums].copy_from_slice(&z);
        if let Some(new) = new {
            let at = (place.slot * w + new) * row;
            pools[2][at..at + row].copy_from_slice(&x.k[i * row..(i + 1) * row]);
            pools[3][at..at + row].copy_from_slice(&x.v[i * row..(i + 1) * row]);
        }
    }
    std::iter::once(out).chain(pools).collect()
}
