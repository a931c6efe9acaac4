//! One sequence on the calling thread: the batch is the parallel dimension. Weights in vectors; a filter never sorts
//! more than it must (a selection, then a sort of the few that stay).

use super::{Params, uniform};
use crate::ops::cross_entropy::rows;
use crate::{multiversion, simd};
use std::cmp::Ordering;

/// First guess at how many tokens top-p keeps; it grows eightfold until they hold enough.
const HEAD: usize = 128;

/// None when the logits cannot be sampled from.
pub fn forward(x: &[f32], params: &Params, index: u64) -> Option<u32> {
    let max = finite_max(x)?;
    if params.temperature == 0.0 {
        return Some(rows::argmax(x) as u32);
    }
    let mut w = vec![0.0; x.len()];
    weights(x, max, params.temperature, params.min_p, &mut w);
    let u = uniform(params.seed, index);
    if (params.top_k == 0 || params.top_k >= x.len()) && params.top_p >= 1.0 {
        return draw(0..x.len() as u32, &w, u);
    }
    let mut ids: Vec<u32> = (0..x.len() as u32).filter(|&i| w[i as usize] > 0.0).collect();
    if params.top_k > 0 {
        select(&mut ids, x, params.top_k);
        ids.truncate(params.top_k);
    }
    if params.top_p < 1.0 {
        let keep = top_p(&mut ids, x, &w, params.top_p);
        ids.truncate(keep);
    }
    // By id: the same walk as without filters.
    ids.sort_unstable();
    draw(ids.into_iter(), &w, u)
}

/// None when a logit is NaN or plus infinity, or none is finite.
fn finite_max(x: &[f32]) -> Option<f32> {
    let max = row_max(x);
    (below_infinity(x) && max > f32::NEG_INFINITY).then_some(max)
}

multiversion! {
    fn row_max<const FMA: bool>(x: &[f32]) -> f32 {
        rows::max(x)
    }
}

multiversion! {
    /// Written so that NaN fails; without an early exit, so that it vectorises.
    fn below_infinity<const FMA: bool>(x: &[f32]) -> bool {
        x.iter().fold(true, |ok, &v| ok & (v < f32::INFINITY))
    }
}

multiversion! {
    /// e^((x - max) / temperature), 0 below `min_p`. A division: the inverse of a tiny temperature overflows, and
    /// 0 * inf would make the likeliest token NaN.
    fn weights<const FMA: bool>(x: &[f32], max: f32, temperature: f32, min_p: f32, w: &mut [f32]) {
        for (w, &x) in w.iter_mut().zip(x) {
            let e = simd::exp::<FMA>((x - max) / temperature);
            *w = if e < min_p { 0.0 } else { e };
        }
    }
}

/// Likeliest first, the lowest id first among equals: a total order, so a selection finds what a full sort would.
fn likelier(x: &[f32]) -> impl Fn(&u32, &u32) -> Ordering {
    |&a, &b| {
        let by_logit = x[b as usize].partial_cmp(&x[a as usize]).unwrap_or(Ordering::Equal);
        by_logit.then(a.cmp(&b))
    }
}

/// Brings the `n` likeliest to the front, in any order.
fn select(ids: &mut [u32], x: &[f32], n: usize) {
    if 0 < n && n < ids.len() {
        ids.select_nth_unstable_by(n - 1, likelier(x));
    }
}

/// How many of `ids`, likeliest first (as it leaves them), hold the share `p` of their weight.
fn top_p(ids: &mut [u32], x: &[f32], w: &[f32], p: f32) -> usize {
    let want = p as f64 * ids.iter().map(|&i| w[i as usize] as f64).sum::<f64>();
    let mut n = HEAD;
    loop {
        n = n.min(ids.len());
        select(ids, x, n);
        ids[..n].sort_unstable_by(likelier(x));
        let mut held = 0.0;
        for (at, &i) in ids[..n].iter().enumerate() {
            held += w[i as usize] as f64;
            if held >= want {
                return at + 1;
            }
        }
        if n == ids.len() {
            return n;
        }
        n *= 8;
    }
}

/// The first id whose cumulative weight exceeds the share `u` of the whole.
fn draw(ids: impl Iterator<Item = u32> + Clone, w: &[f32], u: f64) -> Option<u32> {
    let target = u * ids.clone().map(|i| w[i as usize] as f64).sum::<f64>();
    let (mut held, mut last) = (0.0, None);
    for i in ids.filter(|&i| w[i as usize] > 0.0) {
        held += w[i as usize] as f64;
        last = Some(i);
        if held > target {
            break;
        }
    }
    last
}

/// None when the logits cannot be sampled from.
pub fn top_logprobs(x: &[f32], id: u32, n: usize) -> Option<(f32, Vec<(u32, f32)>)> {
    let max = finite_max(x)?;
    let ln = sum_exp(x, max).ln();
    let logprob = |i: u32| (x[i as usize] as f64 - max as f64 - ln) as f32;
    let mut ids: Vec<u32> = (0..x.len() as u32).collect();
    select(&mut ids, x, n);
    ids.truncate(n);
    ids.sort_unstable_by(likelier(x));
    Some((logprob(id), ids.into_iter().map(|i| (i, logprob(i))).collect()))
}

multiversion! {
    fn sum_exp<const FMA: bool>(x: &[f32], max: f32) -> f64 {
        rows::sum_exp::<FMA>(x, max)
    }
}
