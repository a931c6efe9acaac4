//! The specification: sort everything, filter in order, walk the cumulative distribution.

use super::{Params, uniform};
use crate::real::Real;
use std::cmp::Ordering;

/// logits: [V] -> token id.
pub fn forward<R: Real>(logits: &[R], params: &Params, index: u64) -> usize {
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    // A stable sort: the lowest id stays first among equals.
    ids.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap_or(Ordering::Equal));
    let best = ids[0];
    if params.temperature == 0.0 {
        return best;
    }
    let temperature = R::of(params.temperature as f64);
    // Relative to the likeliest token's.
    let weight = |i: usize| ((logits[i] - logits[best]) / temperature).exp();
    let mass = |ids: &[usize]| {
        let mut sum = R::zero();
        for &i in ids {
            sum += weight(i);
        }
        sum
    };
    ids.retain(|&i| weight(i) >= R::of(params.min_p as f64));
    if params.top_k > 0 {
        ids.truncate(params.top_k);
    }
    if params.top_p < 1.0 {
        let want = R::of(params.top_p as f64) * mass(&ids);
        let mut held = R::zero();
        let mut keep = 0;
        while keep < ids.len() && held < want {
            held += weight(ids[keep]);
            keep += 1;
        }
        ids.truncate(keep);
    }
    ids.sort();
    let target = R::of(uniform(params.seed, index)) * mass(&ids);
    let mut held = R::zero();
    for &i in &ids {
        held += weight(i);
        if held > target {
            return i;
        }
    }
    best
}
