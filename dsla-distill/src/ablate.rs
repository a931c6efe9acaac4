//! Ablations of the layer's form: many students learn side by side behind one teacher pass, so that a table of twenty
//! forms costs little more than one alignment.

use crate::align::{Projection, layer_loss, teacher_pass};
use crate::optimizer::{self, Moments};
use crate::session::steps;
use crate::{Corpus, Result, Training, calibrate, cosine};
use dsla_core::attention::DslaAttention;
use dsla_core::{FeatureMap, Form, Gamma, Gate, GateInput, Normalizer};
use dsla_kernels::ops::adamw::AdamW;
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
    let row = |group, name, form| Variant { group, name, form, calibrated: true };
    vec![
        row("native", "window 64, sinks 4, two states", native),
        row("gamma", "forced to 1: history alone", Form { gamma: Gamma::History, ..native }),
        row("gamma", "forced to 0: recency alone", Form { gamma: Gamma::Recency, ..native }),
        row("gamma", "one pair per layer", Form { gamma: Gamma::Layer, ..native }),
        row("states, no window", "two of F = 2 D", bare),
        row("states, no window", "two of F = D", Form { feature_map: FeatureMap::Softmax, ..bare }),
        row("states, no window", "one of F = 2 D: history", Form { gamma: Gamma::History, ..bare }),
        row("states, no window", "one of F = 2 D: recency", Form { gamma: Gamma::Recency, ..bare }),
        row("window", "0", bare),
        row("window", "16", Form { window: 16, ..native }),
        row("window", "128", Form { window: 128, ..native }),
        row("sinks", "none", Form { sinks: 0, ..native }),
        row("peak slope", "none", Form { peak_slope: false, ..native }),
        row("rope, no window", "kept", bare),
        row("rope, no window", "dropped", Form { rope: false, ..bare }),
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
    ]
}

/// A variant's layers while they learn.
struct Student {
    layers: Vec<Option<DslaAttention>>,
    moments: Vec<Option<Moments>>,
}

/// Align `layers` of every variant on the same batches and measure each on `windows` held-out windows of `context`
/// tokens. A variant whose loss is no number any more ends with errors that are none either: that is its result.
/// `progress` sees (steps done, steps, mean loss of the first variant).
///
/// Errors: a form that cannot be; what the model or a kernel refuses.
pub fn ablate(
    model: &Model,
    corpus: &Corpus,
    variants: &[Variant],
    layers: &[usize],
    settings: &Training,
    seed: u64,
    (context, windows): (usize, usize),
    mut progress: impl FnMut(u64, u64, f64),
) -> Result<Vec<Outcome>> {
    let Some(last) = layers.iter().copied().max() else { return Ok(vec![]) };
    let held_out = corpus.held_out(context, windows)?;
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
        let moments = adapter
            .layers
            .iter()
            .map(|l| l.as_ref().map(|l| Moments::new(&l.params)).transpose())
            .collect::<Result<_>>()?;
        students.push(Student { layers: adapter.layers, moments });
    }
    let projections: Vec<Option<Projection>> = (0..model.config().num_layers)
        .map(|l| layers.contains(&l).then(|| Projection::of(model, l)).transpose())
        .collect::<Result<_>>()?;
    let steps = steps(settings);
    for step in 0..steps {
        let batch = corpus.batch(seed, step, settings.batch_tokens, &settings.lengths)?;
        let options = AdamW {
            lr: cosine(settings.lr, 0.03, step as f64 / steps as f64),
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-10,
            weight_decay: 0.0,
            step: step + 1,
        };
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
        progress(step + 1, steps, first);
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
    let plan = [Plan::of_layers(model.config().num_layers, layers)];
    let mut outcomes = vec![];
    for ((v, s), error) in variants.iter().zip(students).zip(errors) {
        let mut adapter = Adapter::init(model, &v.form)?;
        let some = s.layers.iter().flatten().next();
        let (state_bytes, parameters) = some.map_or((0, 0), |l| (read_bytes(model, l), l.params.count()));
        (adapter.layers, adapter.order) = (s.layers, layers.to_vec());
        let d =
            divergence(&model.clone().with_adapter_value(adapter)?, &plan, &held_out, |_, _| {})?.remove(0);
        outcomes.push(Outcome {
            group: v.group,
            name: v.name,
            seed,
            error,
            kl: d.kl,
            ppl_ratio: d.ppl / d.teacher_ppl,
            state_bytes,
            parameters,
        });
    }
    Ok(outcomes)
}

fn read_bytes(model: &Model, layer: &DslaAttention) -> usize {
    let n = layer.heads;
    let one = 4 * n.kv_heads * layer.form.features(n.head_dim) * (n.head_dim + 1);
    let unread = if matches!(layer.form.gamma, Gamma::History | Gamma::Recency) { one } else { 0 };
    layer.state_bytes(model.dtype()) - unread
}
