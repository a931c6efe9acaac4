//! The experiment: a small Llama that has learned a recall task is converted into several forms, and every form is asked
//! at every distance, whole and with one of its states silenced.

pub mod page;

use crate::align::Layers;
use crate::chain::{self, Sample};
use crate::optimizer::{self, Moments};
use crate::pretrain::Pretraining;
use crate::pretrain::tasks::{Ask, Example, bin};
use crate::schedule::adamw;
use crate::transposed::Transposed;
use crate::{Result, calibrate};
use dsla_core::attention::DslaAttention;
use dsla_core::{FeatureMap, Form, Gamma};
use dsla_model::{Adapter, Model, Plan, Step, Want};

/// A form under test.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// What sets it apart.
    pub name: &'static str,
    /// The form.
    pub form: Form,
}

/// The forms to compare at a window: two states, two of half the size (together as large as one), and one alone.
pub fn variants(window: usize) -> Vec<Variant> {
    let base = Form { window, sinks: 0, peak_slope: window > 0, ..Form::native() };
    vec![
        Variant { name: "two states, F = 2 D", form: base },
        Variant { name: "two states, F = D", form: Form { feature_map: FeatureMap::Softmax, ..base } },
        Variant { name: "history alone, F = 2 D", form: Form { gamma: Gamma::History, ..base } },
        Variant { name: "recency alone, F = 2 D", form: Form { gamma: Gamma::Recency, ..base } },
    ]
}

/// How long a conversion trains.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Conversion {
    /// Steps of alignment.
    pub align_steps: u64,
    /// Its peak learning rate.
    pub align_lr: f64,
    /// Steps of the chain, on the answers' logits, all layers converted.
    pub chain_steps: u64,
    /// Its peak learning rate.
    pub chain_lr: f64,
}

/// Convert every layer of `model` on the task it has learned: calibrate, align, chain. Data are fresh at every step, of
/// the longest length. `on` sees (steps done, steps, loss of the stage).
///
/// Errors: a form that cannot be; what the model or a kernel refuses.
pub fn convert(
    model: &Model,
    task: &Pretraining,
    form: &Form,
    settings: &Conversion,
    mut on: impl FnMut(u64, u64, f64),
) -> Result<Adapter> {
    let length = task.longest();
    let mut adapter = Adapter::init(model, form)?;
    // Seeds of data apart from those that the model was trained on and is tested on.
    let batch = |step: u64| task.batch(task.seed ^ 0xC0_0000, step, length);
    if let Some(first) = batch(u64::MAX >> 24)?.first() {
        calibrate::calibrate(model, &first.tokens, &mut adapter.layers, |_| {})?;
    }
    let steps = settings.align_steps + settings.chain_steps;
    let (align, weights) = (Layers::of(model, &adapter)?, Transposed::of(model)?);
    let mut moments = Moments::of(&adapter.layers)?;
    for step in 0..steps {
        let aligning = step < settings.align_steps;
        if step == settings.align_steps {
            moments = Moments::of(&adapter.layers)?;
        }
        let examples = batch(step)?;
        let tokens: Vec<&[u32]> = examples.iter().map(|e| e.tokens.as_slice()).collect();
        let (loss, mut grads): (f64, Vec<_>) = if aligning {
            let found = align.gradients(model, &adapter, &tokens)?;
            let loss = found.iter().flatten().map(|f| f.0).sum::<f64>() / found.len() as f64;
            (loss, found.into_iter().map(|f| f.map(|f| f.1)).collect())
        } else {
            let at: Vec<Vec<usize>> =
                examples.iter().map(|e| e.queries.iter().map(|q| q.at).collect()).collect();
            let samples: Vec<Sample> =
                tokens.iter().zip(&at).map(|(tokens, at)| Sample { tokens, counted: Some(at) }).collect();
            let layers: Vec<Option<&DslaAttention>> = adapter.layers.iter().map(Option::as_ref).collect();
            let (loss, grads) = chain::gradients(model, &weights, &layers, &samples, 0.0, false)?;
            (loss.kl, grads)
        };
        let (peak, at) = match aligning {
            true => (settings.align_lr, step),
            false => (settings.chain_lr, step - settings.align_steps),
        };
        let of = if aligning { settings.align_steps } else { settings.chain_steps };
        let options = adamw(peak, 0.05, 0.0, at, of);
        optimizer::step_layers(&mut adapter.layers, &mut grads, &mut moments, 1.0, &options)?;
        on(step + 1, steps, loss);
    }
    Ok(adapter)
}

/// One of the two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// State 0.
    History,
    /// State 1.
    Recency,
}

/// The adapter with one state silenced in every layer: its share of numerator and normaliser is 0, everything else has
/// the weight it had (so the other state's, against a window, too).
pub fn silenced(adapter: &Adapter, state: State) -> Adapter {
    let mut adapter = adapter.clone();
    for layer in adapter.layers.iter_mut().flatten() {
        let heads = layer.heads.heads;
        let weights = layer.params.gamma_weights(heads);
        let (off, kept) = match state {
            State::History => (0, 1),
            State::Recency => (1, 0),
        };
        let cols = layer.params.gamma.len() / 2;
        for (i, g) in layer.params.gamma.f32_mut().iter_mut().enumerate() {
            // So far apart that the softmax is (1, 0) in f32.
            *g = if i / cols == off { -60.0 } else { 60.0 };
        }
        // The kept state's weight becomes 1; with a window the mix gives it back what it had.
        if let Some(mix) = &mut layer.params.mix {
            for (m, w) in mix.f32_mut().iter_mut().zip(&weights.f32()[kept * heads..]) {
                *m += w.max(1e-30).ln();
            }
        }
    }
    adapter
}

/// Answers to the questions of one kind at one distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RecallBin {
    /// What was asked.
    pub ask: Ask,
    /// n for distances in [2^n, 2^(n+1)).
    pub log2_distance: usize,
    /// Right answers.
    pub right: usize,
    /// Questions.
    pub of: usize,
}

/// Recall of a plan by question and distance: an answer is right if it is the arg max of the logits.
///
/// Errors: what the model refuses.
pub fn recall(model: &Model, plan: &Plan, examples: &[Example]) -> Result<Vec<RecallBin>> {
    let mut bins: Vec<RecallBin> = vec![];
    for e in examples {
        let mut seq = model.new_sequence(plan)?;
        let hidden = model.hidden(&mut [Step { seq: &mut seq, tokens: &e.tokens, logits: Want::All }])?;
        for q in &e.queries {
            let logits = model.logits(hidden.rows(q.at, q.at + 1))?.to_vec_f32();
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
            let (ask, log2_distance) = (q.ask, bin(q.distance));
            let at = bins.iter().position(|b| (b.ask, b.log2_distance) == (ask, log2_distance));
            let at = at.unwrap_or_else(|| {
                bins.push(RecallBin { ask, log2_distance, right: 0, of: 0 });
                bins.len() - 1
            });
            bins[at].right += usize::from(best as u32 == q.answer);
            bins[at].of += 1;
        }
    }
    bins.sort_by_key(|b| (b.ask as usize, b.log2_distance));
    Ok(bins)
}

/// Share of right answers over all bins, or over those of one question.
pub fn accuracy(bins: &[RecallBin], ask: Option<Ask>) -> f64 {
    let chosen = bins.iter().filter(|b| ask.is_none_or(|a| a == b.ask));
    let (right, of) = chosen.fold((0, 0), |(r, n), b| (r + b.right, n + b.of));
    right as f64 / (of as f64).max(1.0)
}

/// What one form made of a model.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// The form's name.
    pub form: &'static str,
    /// Its window.
    pub window: usize,
    /// Of the model.
    pub seed: u64,
    /// Bytes of states per layer that are read: S and z, f32.
    pub state_bytes: usize,
    /// Trained parameters per layer.
    pub parameters: usize,
    /// KL from the teacher at the answers, nats, last tenth of the chain.
    pub kl: f64,
    /// Geometric mean half-lives of the gates by layer, history and recency.
    pub half_lives: Vec<[f64; 2]>,
    /// Recall as trained.
    pub whole: Vec<RecallBin>,
    /// With the history state silenced; empty for forms of one state, as is the next.
    pub no_history: Vec<RecallBin>,
    /// With the recency state silenced.
    pub no_recency: Vec<RecallBin>,
}

/// Convert `model` into one form and ask it.
///
/// Errors: as [`convert`].
pub fn row(
    model: &Model,
    task: &Pretraining,
    variant: &Variant,
    settings: &Conversion,
    examples: &[Example],
    mut on: impl FnMut(u64, u64, f64),
) -> Result<Row> {
    let mut last = vec![];
    let adapter = convert(model, task, &variant.form, settings, |step, of, loss| {
        if step > settings.align_steps && (of - step) * 10 < settings.chain_steps.max(10) {
            last.push(loss);
        }
        on(step, of, loss);
    })?;
    let n = model.config().num_layers;
    let all = Plan::of_layers(n, &(0..n).collect::<Vec<_>>());
    let ask = |adapter: Adapter| recall(&model.clone().with_adapter_value(adapter)?, &all, examples);
    let both = !matches!(variant.form.gamma, Gamma::History | Gamma::Recency);
    let without = |state| if both { ask(silenced(&adapter, state)) } else { Ok(vec![]) };
    let text: Vec<u32> = examples.first().map(|e| e.tokens.clone()).unwrap_or_default();
    let layers = crate::states::layer_states(model, &adapter, &text, |_, _| {})?;
    let heads = model.heads();
    let one = 4 * heads.kv_heads * variant.form.features(heads.head_dim) * (heads.head_dim + 1);
    Ok(Row {
        form: variant.name,
        window: variant.form.window,
        seed: task.seed,
        state_bytes: if both { 2 * one } else { one },
        parameters: adapter.layers.iter().flatten().next().map_or(0, |l| l.params.count()),
        kl: last.iter().sum::<f64>() / last.len().max(1) as f64,
        half_lives: layers.iter().map(|l| l.mean_half_life).collect(),
        no_history: without(State::History)?,
        no_recency: without(State::Recency)?,
        whole: ask(adapter.clone())?,
    })
}
