//! Ablations of the layer's form: many students learn side by side behind one teacher pass, so that a table of twenty
//! forms costs little more than one alignment.

use crate::align::{Projection, layer_loss, teacher_pass};
use crate::chain::{self, Prefixes};
use crate::optimizer::{self, Moments};
use crate::schedule::adamw;
use crate::session::steps;
use crate::transposed::Transposed;
use crate::{Corpus, Result, Training, calibrate};
use dsla_core::attention::DslaAttention;
use dsla_core::{FeatureMap, Form, Gamma, Gate, GateInput, Normalizer};
use dsla_model::eval::divergence;
use dsla_model::{Adapter, Model, Plan};

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Variant {
    /// What the row is about: a question the table answers.
    pub group: &'static str,
    /// What is different.
    pub name: &'static str,
    /// The form.
    pub form: Form,
    /// Closed-form start.
    pub calibrated: bool,
    /// A chain behind the alignment.
    pub chained: Option<Prefixes>,
}

/// How long the variants of a table learn, and on what they are measured.
#[derive(Clone, Debug)]
pub struct Lesson {
    /// Alignment, of every variant.
    pub align: Training,
    /// The chain of those that have one.
    pub chain: Training,
    /// Of the data order.
    pub seed: u64,
    /// Held-out windows.
    pub windows: usize,
    /// Tokens of each.
    pub context: usize,
}

/// What came of one variant.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// The variant's group.
    pub group: &'static str,
    /// The variant.
    pub name: &'static str,
    /// Of the data order.
    pub seed: u64,
    /// Attention-output error over the teacher's spread, on held-out text, mean over layers.
    pub error: f64,
    /// KL from the teacher with all these layers converted, nats per token, on the same text.
    pub kl: f64,
    /// The same with the first half of them converted.
    pub kl_half: f64,
    /// Perplexity over the teacher's.
    pub ppl_ratio: f64,
    /// Bytes of a sequence's state per layer, without a state that is never read.
    pub state_bytes: usize,
    /// Trained parameters per layer.
    pub parameters: usize,
}

/// Every ablation, the shipped form first.
pub fn variants() -> Vec<Variant> {
    let native = Form::native();
    let bare = Form { window: 0, sinks: 0, peak_slope: false, ..native };
    let row = |group, name, form| Variant { group, name, form, calibrated: true, chained: None };
    let chained = |name, p| Variant { chained: Some(p), ..row("chain", name, native) };
    vec![
        row("native", "window 64, sinks 4, two states", native),
        row("gamma", "forced to 1: history alone", Form { gamma: Gamma::History, ..native }),
        row("gamma", "forced to 0: recency alone", Form { gamma: Gamma::Recency, ..native }),
        row("gamma", "one pair per layer", Form { gamma: Gamma::Layer, ..native }),
        row("states without window", "two of F = 2 D", bare),
        row("states without window", "two of F = D", Form { feature_map: FeatureMap::Softmax, ..bare }),
        row("states without window", "one of F = 2 D: history", Form { gamma: Gamma::History, ..bare }),
        row("states without window", "one of F = 2 D: recency", Form { gamma: Gamma::Recency, ..bare }),
        row("window", "0", bare),
        row("window", "16", Form { window: 16, ..native }),
        row("window", "128", Form { window: 128, ..native }),
        row("window", "192", Form { window: 192, ..native }),
        row("sinks", "none", Form { sinks: 0, ..native }),
        row("peak slope", "none", Form { peak_slope: false, ..native }),
        row("rope without window", "kept", bare),
        row("rope without window", "dropped", Form { rope: false, ..bare }),
        row("feature map", "softmax of one sign", Form { feature_map: FeatureMap::Softmax, ..native }),
        row(
            "feature map",
            "none, rms, no window",
            Form { feature_map: FeatureMap::None, normalizer: Normalizer::Rms, ..bare },
        ),
        row("gates", "vector", Form { gate: Gate::Vector, ..native }),
        row("gates", "from the hidden state", Form { gate_input: GateInput::Hidden, ..native }),
        Variant { calibrated: false, ..row("calibrate", "off", native) },
        row("form", "the paper's", Form::paper()),
        chained("random prefixes", Prefixes::Random),
        chained("frozen, layer by layer", Prefixes::Frozen),
    ]
}

/// A variant's layers while they learn.
struct Student {
    layers: Vec<Option<DslaAttention>>,
    moments: Vec<Option<Moments>>,
}

/// Align `layers` of every variant on the same batches, chain those that have a chain in the order of `layers`, and
/// measure each on held-out windows. A variant whose loss is no number any more ends with errors that are none either: that is its result.
/// `progress` sees (steps done, steps, mean loss of the first variant, or KL where a variant is chained).
///
/// Errors: a form that cannot be; what the model or a kernel refuses.
pub fn ablate(
    model: &Model,
    corpus: &Corpus,
    variants: &[Variant],
    layers: &[usize],
    lesson: &Lesson,
    mut progress: impl FnMut(u64, u64, f64),
) -> Result<Vec<Outcome>> {
    let Some(last) = layers.iter().copied().max() else { return Ok(vec![]) };
    // What stands in several groups learns once.
    let mut distinct: Vec<Variant> = vec![];
    let mut which = vec![];
    for v in variants {
        let same = |d: &Variant| (d.form, d.calibrated, d.chained) == (v.form, v.calibrated, v.chained);
        which.push(distinct.iter().position(same).unwrap_or(distinct.len()));
        if which.last() == Some(&distinct.len()) {
            distinct.push(v.clone());
        }
    }
    let (rows, variants) = (variants, &distinct[..]);
    let (settings, seed) = (&lesson.align, lesson.seed);
    let held_out = corpus.held_out(lesson.context, lesson.windows)?;
    let longest = settings.lengths.iter().copied().max().unwrap_or(0);
    let start = corpus.batch(seed ^ 1, u64::MAX, 1, &[longest.min(1024)])?;
    let mut students = vec![];
    for v in variants {
        let mut adapter = Adapter::init(model, &v.form)?;
        let chosen = |(l, layer): (usize, &mut Option<DslaAttention>)| {
            if !layers.contains(&l) {
                *layer = None;
            }
        };
        adapter.layers.iter_mut().enumerate().for_each(chosen);
        if v.calibrated {
            calibrate::calibrate(model, start[0], &mut adapter.layers, |_| {})?;
        }
        let moments = Moments::of(&adapter.layers)?;
        students.push(Student { layers: adapter.layers, moments });
    }
    let projections: Vec<Option<Projection>> = (0..model.config().num_layers)
        .map(|l| layers.contains(&l).then(|| Projection::of(model, l)).transpose())
        .collect::<Result<_>>()?;
    let align_steps = steps(settings);
    let chains = variants.iter().filter(|v| v.chained.is_some()).count() as u64;
    let all_steps = align_steps + chains * steps(&lesson.chain);
    for step in 0..align_steps {
        let batch = corpus.batch(seed, step, settings.batch_tokens, &settings.lengths)?;
        let options = adamw(settings.lr, 0.03, 0.0, step, align_steps);
        let mut first = 0.0;
        teacher_pass(model, &batch, last, |l, inputs| {
            let Some(projection) = &projections[l] else { return Ok(()) };
            for (i, s) in students.iter_mut().enumerate() {
                let (Some(layer), Some(moments)) = (&mut s.layers[l], &mut s.moments[l]) else { continue };
                let mut grads = layer.params.zeros_like()?;
                let loss = layer_loss(layer, projection, inputs.clone(), &mut grads)?;
                // A form that explodes is a result, too: it stays where it is.
                if loss.is_finite() {
                    optimizer::step(&mut layer.params, &mut grads, moments, 1.0, &options)?;
                }
                if i == 0 {
                    first += loss / layers.len() as f64;
                }
            }
            Ok(())
        })?;
        progress(step + 1, all_steps, first);
    }
    let mut done = align_steps;
    for (v, s) in variants.iter().zip(&mut students) {
        let Some(prefixes) = v.chained else { continue };
        chain(model, corpus, layers, &mut s.layers, prefixes, lesson, |kl| {
            done += 1;
            progress(done, all_steps, kl);
        })?;
    }
    let mut errors = vec![0.0; variants.len()];
    for w in &held_out {
        teacher_pass(model, &[w], last, |l, inputs| {
            let Some(projection) = &projections[l] else { return Ok(()) };
            for (s, error) in students.iter().zip(&mut errors) {
                let Some(layer) = &s.layers[l] else { continue };
                let mut unused = layer.params.zeros_like()?;
                *error += layer_loss(layer, projection, inputs.clone(), &mut unused)?
                    / (layers.len() * held_out.len()) as f64;
            }
            Ok(())
        })?;
    }
    let plans = [layers.len(), layers.len().div_ceil(2)]
        .map(|n| Plan::of_layers(model.config().num_layers, &layers[..n]));
    let mut outcomes = vec![];
    for ((v, s), error) in variants.iter().zip(students).zip(errors) {
        let mut adapter = Adapter::init(model, &v.form)?;
        let some = s.layers.iter().flatten().next();
        let (state_bytes, parameters) = some.map_or((0, 0), |l| (read_bytes(model, l), l.params.count()));
        (adapter.layers, adapter.order) = (s.layers, layers.to_vec());
        let hybrid = model.clone().with_adapter_value(adapter)?;
        let found = divergence(&hybrid, &plans, &held_out, |_, _| {})?;
        let (d, half) = (&found[0], &found[1]);
        outcomes.push(Outcome {
            group: v.group,
            name: v.name,
            seed,
            error,
            kl: d.kl,
            kl_half: half.kl,
            ppl_ratio: d.ppl / d.teacher_ppl,
            state_bytes,
            parameters,
        });
    }
    let named = |(v, i): (&Variant, usize)| Outcome { group: v.group, name: v.name, ..outcomes[i].clone() };
    Ok(rows.iter().zip(which).map(named).collect())
}

/// A chain over aligned layers, in the order of `order`. `on` sees the KL of every step.
fn chain(
    model: &Model,
    corpus: &Corpus,
    order: &[usize],
    layers: &mut [Option<DslaAttention>],
    prefixes: Prefixes,
    lesson: &Lesson,
    mut on: impl FnMut(f64),
) -> Result<()> {
    let (settings, steps) = (&lesson.chain, steps(&lesson.chain));
    let weights = Transposed::of(model)?;
    let mut moments = Moments::of(layers)?;
    for step in 0..steps {
        let batch = corpus.batch(lesson.seed ^ 2, step, settings.batch_tokens, &settings.lengths)?;
        let draw = chain::draw(prefixes, lesson.seed, step, steps, order.len());
        let (loss, mut grads) = chain::step(model, &weights, layers, order, draw, &batch, (0.1, false))?;
        let options = adamw(settings.lr, 0.03, 0.0, step, steps);
        optimizer::step_layers(layers, &mut grads, &mut moments, 1.0, &options)?;
        on(loss.kl);
    }
    Ok(())
}

fn read_bytes(model: &Model, layer: &DslaAttention) -> usize {
    let n = layer.heads;
    let one = 4 * n.kv_heads * layer.form.features(n.head_dim) * (n.head_dim + 1);
    let unread = if matches!(layer.form.gamma, Gamma::History | Gamma::Recency) { one } else { 0 };
    layer.state_bytes(model.dtype()) - unread
}
