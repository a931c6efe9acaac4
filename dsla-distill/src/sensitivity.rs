//! Which layer to convert first: measured and unmeasured orders.

use crate::align::teacher_pass;
use crate::probe::probe;
use crate::{Error, Result, rank};
use dsla_kernels::case::Rng;
use dsla_model::eval::{Setup, Task, divergence, recall};
use dsla_model::{Model, Plan};

/// How layers are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Greedy divergence, re-measured after each conversion.
    Greedy,
    /// Divergence of converting the one layer.
    Kl,
    /// The paper's: mean attention entropy, lowest first.
    Entropy,
    /// Highest first.
    EntropyDesc,
    /// Drop in passkey recall of converting the one layer, ties by its divergence.
    Recall,
    /// Last layer first (what upstream's code falls back to).
    Depth,
    /// Evenly spread over the depth.
    Uniform,
    /// By seed 0.
    Random,
    /// The order that the adapter brings.
    Adapter,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Metric; 9] = [
        Metric::Greedy,
        Metric::Kl,
        Metric::Entropy,
        Metric::EntropyDesc,
        Metric::Recall,
        Metric::Depth,
        Metric::Uniform,
        Metric::Random,
        Metric::Adapter,
    ];

    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Greedy => "greedy",
            Metric::Kl => "kl",
            Metric::Entropy => "entropy",
            Metric::EntropyDesc => "entropy_desc",
            Metric::Recall => "recall",
            Metric::Depth => "depth",
            Metric::Uniform => "uniform",
            Metric::Random => "random",
            Metric::Adapter => "adapter",
        }
    }
}

impl std::str::FromStr for Metric {
    type Err = Error;

    fn from_str(s: &str) -> Result<Metric> {
        Metric::ALL.into_iter().find(|m| m.name() == s).ok_or_else(|| Error::Argument {
            arg: "metric",
            got: s.into(),
            want: format!("one of {}", Metric::ALL.map(Metric::name).join(", ")),
        })
    }
}

/// Scores and the order they give.
#[derive(Clone, Debug)]
pub struct Sensitivity {
    /// Layers, first to convert first.
    pub order: Vec<usize>,
    /// Score per layer, by layer number (greedy: divergence after its conversion); empty where nothing is measured.
    pub scores: Vec<f64>,
}

/// Score all layers on `windows` of text. Greedy, kl and recall need a model with an adapter.
pub fn sensitivity(
    model: &Model,
    metric: Metric,
    windows: &[&[u32]],
    mut progress: impl FnMut(usize, usize),
) -> Result<Sensitivity> {
    let n = model.config().num_layers;
    let without_adapter = || Error::Argument {
        arg: "metric",
        got: format!("{} without an adapter", metric.name()),
        want: "an adapter to measure".into(),
    };
    if matches!(metric, Metric::Greedy | Metric::Kl | Metric::Recall) && model.adapter().is_none() {
        return Err(without_adapter());
    }
    let all: Vec<usize> = (0..n).collect();
    let single = |l: usize| Plan::of_layers(n, &[l]);
    let ascending = |scores: &[f64]| {
        let mut order = all.clone();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        order
    };
    Ok(match metric {
        Metric::Greedy => {
            let ranking = rank::Ranking { candidates: &all, keep: &[], windows, recall: 0 };
            let (order, after) = rank::greedy(model, &ranking, progress)?;
            let mut scores = vec![0.0; n];
            order.iter().zip(after).for_each(|(&l, kl)| scores[l] = kl);
            Sensitivity { order, scores }
        }
        Metric::Kl => {
            let plans: Vec<Plan> = all.iter().map(|&l| single(l)).collect();
            let scores: Vec<f64> =
                divergence(model, &plans, windows, progress)?.iter().map(|d| d.kl).collect();
            Sensitivity { order: ascending(&scores), scores }
        }
        Metric::Recall => {
            let mut plans: Vec<Plan> = all.iter().map(|&l| single(l)).collect();
            let kl: Vec<f64> = divergence(model, &plans, windows, |_, _| {})?.iter().map(|d| d.kl).collect();
            plans.push(Plan::teacher(n));
            let setup = Setup { length: 512.min(model.table().positions() - 16), count: 10, seed: 0 };
            let found = recall(model, Task::Passkey, &plans, &setup, progress)?;
            let scores: Vec<f64> = (0..n).map(|l| found[n].accuracy - found[l].accuracy).collect();
            let ties: Vec<f64> = scores.iter().zip(&kl).map(|(s, k)| s + 1e-6 * k).collect();
            Sensitivity { order: ascending(&ties), scores }
        }
        Metric::Entropy | Metric::EntropyDesc => {
            let mut scores = vec![0.0; n];
            for (i, w) in windows.iter().enumerate() {
                teacher_pass(model, &[w], n - 1, |l, inputs| {
                    for x in &inputs {
                        let p = probe(&x.to_host()?, 0);
                        scores[l] += p.entropy.iter().sum::<f64>() / (p.entropy.len() * windows.len()) as f64;
                    }
                    Ok(())
                })?;
                progress(i + 1, windows.len());
            }
            let mut order = ascending(&scores);
            if metric == Metric::EntropyDesc {
                order.reverse();
            }
            Sensitivity { order, scores }
        }
        Metric::Depth => Sensitivity { order: all.into_iter().rev().collect(), scores: vec![] },
        Metric::Uniform => {
            // Bit-reversed numbers: every prefix is spread over the depth.
            let bits = usize::BITS - n.saturating_sub(1).leading_zeros();
            let mut order: Vec<usize> = (0..1usize << bits)
                .map(|i| if bits == 0 { 0 } else { i.reverse_bits() >> (usize::BITS - bits) })
                .collect();
            order.retain(|&l| l < n);
            Sensitivity { order, scores: vec![] }
        }
        Metric::Adapter => {
            let order = model.adapter().ok_or_else(without_adapter)?.order.clone();
            Sensitivity { order, scores: vec![] }
        }
        Metric::Random => {
            let (mut order, mut rng) = (all, Rng::new(0));
            for i in (1..n).rev() {
                order.swap(i, (rng.bits() % (i as u64 + 1)) as usize);
            }
            Sensitivity { order, scores: vec![] }
        }
    })
}
