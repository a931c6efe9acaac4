//! Greedy ranking: at every step the layer whose conversion adds least divergence, re-measured after each one; layers that
//! lose what stood far back in the text come last.

use crate::Result;
use crate::compare::prefixes;
use dsla_model::eval::{Setup, Task, divergence, recall};
use dsla_model::{Model, Plan, PrefixQuality};

/// Candidates measured anew per step. Divergence of a candidate given the others already converted changes slowly,
/// so those that were worst last time are not asked again (lazy greedy).
const WIDTH: usize = 6;

/// Tokens of a passkey text.
const LENGTH: usize = 1024;

/// What an order is made from.
pub struct Ranking<'a> {
    /// Layers to order, with parameters in the model's adapter.
    pub candidates: &'a [usize],
    /// Layers that come first, as they are.
    pub keep: &'a [usize],
    /// Text to measure divergence on.
    pub windows: &'a [&'a [u32]],
    /// Passkey texts: a layer whose conversion loses more than one of them, of those that the teacher answers, goes to
    /// the end. 0: by divergence alone. A teacher that answers half or fewer measures nothing: by divergence alone, too; so do
    /// a model without a tokenizer and one of fewer than 2,048 positions.
    pub recall: usize,
}

/// Order layers by greedy KL, those that retrieval hangs on last. Returns the order and the divergence after
/// each layer that is not kept. `progress(done, of)` counts steps.
///
/// Why recall: divergence on text hardly sees retrieval (a handful of places in a thousand need it), and the few layers
/// that do it can have small divergences.
pub fn greedy(
    model: &Model,
    ranking: &Ranking,
    mut progress: impl FnMut(usize, usize),
) -> Result<(Vec<usize>, Vec<f64>)> {
    let n = model.config().num_layers;
    let recalled = Recalled::new(model, ranking.recall)?;
    let cost = |sets: &[Vec<usize>]| {
        let plans: Vec<Plan> = sets.iter().map(|set| Plan::of_layers(n, set)).collect();
        Ok(divergence(model, &plans, ranking.windows, |_, _| {})?.iter().map(|d| d.kl).collect())
    };
    let keeps = |set: &[usize]| recalled.keeps(model, Plan::of_layers(n, set));
    order(ranking.candidates, ranking.keep, cost, keeps, &mut progress)
}

/// The walk itself. `cost` measures sets of layers; `keeps` says whether retrieval survives a set.
fn order(
    candidates: &[usize],
    keep: &[usize],
    mut cost: impl FnMut(&[Vec<usize>]) -> Result<Vec<f64>>,
    mut keeps: impl FnMut(&[usize]) -> Result<bool>,
    progress: &mut impl FnMut(usize, usize),
) -> Result<(Vec<usize>, Vec<f64>)> {
    let with = |order: &[usize], l: usize| [order, &[l]].concat();
    let (mut order, mut scores) = (keep.to_vec(), vec![]);
    let mut base = if keep.is_empty() { 0.0 } else { cost(&[keep.to_vec()])?[0] };
    let mut left: Vec<(usize, f64)> =
        candidates.iter().filter(|l| !keep.contains(l)).map(|&l| (l, 0.0)).collect();
    let of = keep.len() + left.len();
    let (mut held, mut fresh, mut retrieval) = (vec![], true, true);
    while !left.is_empty() || !held.is_empty() {
        if left.is_empty() {
            // What is left are the layers that retrieval hangs on.
            left.append(&mut held);
            (fresh, retrieval) = (true, false);
        }
        let width = if fresh { left.len() } else { WIDTH.min(left.len()) };
        fresh = false;
        let sets: Vec<Vec<usize>> = left[..width].iter().map(|(l, _)| with(&order, *l)).collect();
        let found = cost(&sets)?;
        for (entry, kl) in left.iter_mut().zip(found) {
            entry.1 = kl - base;
        }
        // Stable: equal scores keep the earlier layer first.
        left.sort_by(|a, b| a.1.total_cmp(&b.1));
        for _ in 0..width {
            let (best, added) = left.remove(0);
            if retrieval && !keeps(&with(&order, best))? {
                held.push((best, added));
                continue;
            }
            order.push(best);
            base += added;
            scores.push(base);
            break;
        }
        progress(order.len(), of);
    }
    Ok((order, scores))
}

/// What the teacher finds again.
struct Recalled {
    setup: Setup,
    /// Answers that a hybrid has to find; None: not asked.
    want: Option<f64>,
}

impl Recalled {
    fn new(model: &Model, count: usize) -> Result<Recalled> {
        let mut found = Recalled { setup: Setup { length: LENGTH, count, seed: 0 }, want: None };
        if count > 0 && model.tokenizer().is_ok() && model.table().positions() >= 2 * LENGTH {
            let teacher = found.accuracy(model, Plan::teacher(model.config().num_layers))?;
            found.want = (teacher > 0.5).then_some(teacher - 1.5 / count as f64);
        }
        Ok(found)
    }

    fn accuracy(&self, model: &Model, plan: Plan) -> Result<f64> {
        Ok(recall(model, Task::Passkey, &[plan], &self.setup, |_, _| {})?[0].accuracy)
    }

    fn keeps(&self, model: &Model, plan: Plan) -> Result<bool> {
        let Some(want) = self.want else { return Ok(true) };
        Ok(self.accuracy(model, plan)? >= want)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Costs that add up: layer l costs l + 1, and layer 2 nothing.
    fn cost(sets: &[Vec<usize>]) -> Result<Vec<f64>> {
        let one = |l: &usize| if *l == 2 { 0.0 } else { *l as f64 + 1.0 };
        Ok(sets.iter().map(|set| set.iter().map(one).sum()).collect())
    }

    #[test]
    fn the_cheapest_goes_first_and_what_retrieval_hangs_on_last() {
        let all: Vec<usize> = (0..8).collect();
        let mut steps = vec![];
        let (found, scores) =
            order(&all, &[], cost, |_| Ok(true), &mut |done, of| steps.push((done, of))).unwrap();
        assert_eq!(found, [2, 0, 1, 3, 4, 5, 6, 7]);
        assert_eq!(scores[..4], [0.0, 1.0, 3.0, 7.0]);
        assert_eq!(steps.last(), Some(&(8, 8)));
        // Without 2 and 1 nothing is found again, though they are cheap.
        let keeps = |set: &[usize]| Ok(!set.contains(&2) && !set.contains(&1));
        let (found, scores) = order(&all, &[], cost, keeps, &mut |_, _| {}).unwrap();
        assert_eq!(found, [0, 3, 4, 5, 6, 7, 2, 1]);
        assert_eq!(scores.len(), 8);
        assert!(scores.windows(2).all(|w| w[0] <= w[1]), "divergence adds up: {scores:?}");
    }

    #[test]
    fn what_is_kept_stays_first() {
        let all: Vec<usize> = (0..5).collect();
        let (found, scores) = order(&all, &[4, 3], cost, |_| Ok(true), &mut |_, _| {}).unwrap();
        assert_eq!(found, [4, 3, 2, 0, 1]);
        assert_eq!(scores, [9.0, 10.0, 12.0]);
        let (found, _) = order(&all, &[4], cost, |_| Ok(false), &mut |_, _| {}).unwrap();
        assert_eq!(found, [4, 2, 0, 1, 3], "where nothing keeps it, divergence alone");
    }
}
