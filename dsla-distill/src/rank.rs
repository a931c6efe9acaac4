//! Greedy ranking: at every step the layer whose conversion adds least divergence, re-measured after each one.

use crate::Result;
use crate::compare::prefixes;
use dsla_model::eval::divergence;
use dsla_model::{Model, Plan, PrefixQuality};

/// Candidates measured anew per step. Divergence of a candidate given the others already converted changes slowly,
/// so those that were worst last time are not asked again (lazy greedy).
const WIDTH: usize = 6;

/// Order `candidates` (layers with parameters in the model's adapter) by greedy KL on `windows`. Returns the order and
/// the divergence each step had after it. `progress(done, of)` counts steps.
pub fn greedy(
    model: &Model,
    candidates: &[usize],
    windows: &[&[u32]],
    mut progress: impl FnMut(usize, usize),
) -> Result<(Vec<usize>, Vec<f64>)> {
    let n = model.config().num_layers;
    let mut left: Vec<(usize, f64)> = candidates.iter().map(|&l| (l, 0.0)).collect();
    let (mut order, mut scores) = (vec![], vec![]);
    while !left.is_empty() {
        let width = if order.is_empty() { left.len() } else { WIDTH.min(left.len()) };
        let plans: Vec<Plan> = left[..width]
            .iter()
            .map(|(l, _)| {
                let mut converted = order.clone();
                converted.push(*l);
                Plan::of_layers(n, &converted)
            })
            .collect();
        let kl: Vec<f64> = divergence(model, &plans, windows, |_, _| {})?.iter().map(|d| d.kl).collect();
        let base = scores.last().copied().unwrap_or(0.0);
        for (entry, kl) in left.iter_mut().zip(&kl) {
            entry.1 = kl - base;
        }
        // Stable: equal scores keep the earlier layer first.
        left.sort_by(|a, b| a.1.total_cmp(&b.1));
        let (best, added) = left.remove(0);
        order.push(best);
        scores.push(base + added);
        progress(order.len(), candidates.len());
    }
    Ok((order, scores))
}

/// Measure every prefix of the model's order, the empty one included.
pub fn quality(
    model: &Model,
    order: &[usize],
    windows: &[&[u32]],
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<PrefixQuality>> {
    let all: Vec<usize> = (0..=order.len()).collect();
    prefixes(model, order, &all, windows, &mut progress)
}
