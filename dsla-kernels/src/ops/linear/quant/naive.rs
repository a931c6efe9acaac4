//! The specification.

use super::{BLOCK, Quant};
use crate::f16;
use crate::real::Real;

/// A weight's values [N, K] after quantisation, as the definition of its format says: the nearest multiple of an f16
/// scale, which puts the block's extreme value (Q8_0: 127, Q4_0: -8) or its range (Q4_1: 0 to 15) at the end of the scale.
pub fn rounded(w: &[f32], quant: Quant) -> Vec<f64> {
    let mut out = vec![];
    for w in w.chunks(BLOCK) {
        let (least, most) = w.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, m), &v| (l.min(v), m.max(v)));
        let extreme = if most >= -least { most } else { least };
        let (d, min, range) = match quant {
            Quant::Q8_0 => (extreme.abs() / 127.0, 0.0, -127.0..=127.0),
            Quant::Q4_0 => (extreme / -8.0, 0.0, -8.0..=7.0),
            Quant::Q4_1 => ((most - least) / 15.0, least, 0.0..=15.0),
        };
        let half = |v: f32| f64::from(f16::from_f32(v).to_f32());
        for &v in w {
            let steps = if d == 0.0 { 0.0 } else { (f64::from(v) - f64::from(min)) / f64::from(d) };
            out.push(half(d) * steps.round().clamp(*range.start(), *range.end()) + half(min));
        }
    }
    out
}

/// What x [M, K] becomes: int8 with a scale per block of 32.
pub fn activations(x: &[f32]) -> Vec<f32> {
    let mut out = vec![];
    for x in x.chunks(BLOCK) {
        let d = x.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
        out.extend(x.iter().map(|v| if d == 0.0 { 0.0 } else { d * (v / d).round() }));
    }
    out
}

/// x: [M, K], w: values as [`rounded`] gives them -> y: [M, N].
pub fn forward<R: Real>(x: &[R], w: &[f64], bias: Option<&[R]>, k: usize) -> Vec<R> {
    let w: Vec<R> = w.iter().map(|&w| R::of(w)).collect();
    crate::ops::linear::naive::forward(x, &w, bias, k)
}
