//! What the teacher's attention looks like: where its mass lies and how spread it is.

use crate::align::Inputs;
use dsla_kernels::par;

/// Distance bins: bin b holds distances in [2^(b-1), 2^b), bin 0 the token itself.
pub const BINS: usize = 16;

/// The bin of a distance.
pub fn bin(distance: usize) -> usize {
    ((usize::BITS - distance.leading_zeros()) as usize).min(BINS - 1)
}

/// Measurements of one layer, per query head.
#[derive(Clone, Debug, Default)]
pub struct LayerProbe {
    /// Mean entropy of the attention rows, nats.
    pub entropy: Vec<f64>,
    /// Attention mass by distance, summing to about 1 per head.
    pub mass: Vec<[f64; BINS]>,
}

/// Unnormalised attention weights e^(s - peak) of query `t` of head `h`, over keys 0..=t; the peak is over the keys that `near` picks.
pub fn row(x: &Inputs, h: usize, t: usize, near: impl Fn(usize) -> bool, out: &mut Vec<f32>) {
    let (heads, d) = (x.q.dims()[1], x.q.dims()[2]);
    let g = x.plain.k.dims()[1];
    let k = x.k.view();
    let q = &x.q.f32()[(t * heads + h) * d..][..d];
    let kv = h * g / heads;
    out.clear();
    for j in 0..=t {
        let at = (j * g + kv) * d;
        let s: f32 = match k.slice() {
            dsla_kernels::Slice::F32(k) => q.iter().zip(&k[at..at + d]).map(|(a, b)| a * b).sum(),
            dsla_kernels::Slice::BF16(k) => q.iter().zip(&k[at..at + d]).map(|(a, b)| a * b.to_f32()).sum(),
            dsla_kernels::Slice::F16(k) => q.iter().zip(&k[at..at + d]).map(|(a, b)| a * b.to_f32()).sum(),
            dsla_kernels::Slice::U32(_) => 0.0,
        };
        out.push(s / (d as f32).sqrt());
    }
    let peak =
        out.iter().enumerate().filter(|(j, _)| near(*j)).fold(f32::NEG_INFINITY, |m, (_, &s)| m.max(s));
    out.iter_mut().for_each(|s| *s = (*s - peak).min(80.0).exp());
}

/// Probe one sequence; the mass on its first `sinks` tokens is left out of the histogram. Every 7th query, so that all distances are seen and the cost stays small.
pub fn probe(x: &Inputs, sinks: usize) -> LayerProbe {
    let (t, heads) = (x.q.dims()[0], x.q.dims()[1]);
    let mut per: Vec<(f64, [f64; BINS])> = vec![(0.0, [0.0; BINS]); heads];
    par::for_each_chunk(&mut per, 1, |h, out| {
        let (mut entropy, mut mass, mut rows) = (0.0f64, [0.0f64; BINS], 0.0f64);
        let mut a = vec![];
        for query in (t.min(64) - 1..t).step_by(7) {
            row(x, h, query, |_| true, &mut a);
            let sum: f64 = a.iter().map(|&v| v as f64).sum();
            for (j, &v) in a.iter().enumerate() {
                let p = v as f64 / sum;
                if p > 0.0 {
                    entropy -= p * p.ln();
                }
                if j < sinks {
                    continue;
                }
                mass[bin(query - j)] += p;
            }
            rows += 1.0;
        }
        mass.iter_mut().for_each(|m| *m /= rows);
        out[0] = (entropy / rows, mass);
    });
    LayerProbe { entropy: per.iter().map(|p| p.0).collect(), mass: per.iter().map(|p| p.1).collect() }
}
