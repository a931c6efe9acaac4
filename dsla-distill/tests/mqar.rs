//! The recall experiment and the measurements of states, on models so small that seconds suffice.

use dsla_core::{DType, Device, Form};
use dsla_distill::mqar::{Conversion, State, accuracy, convert, recall, row, silenced, variants};
use dsla_distill::pretrain::tasks::{Task, Vocabulary};
use dsla_distill::pretrain::{BaseWeights, Pretraining, Sizes};
use dsla_distill::states::{layer_states, norms};
use dsla_kernels::case::Rng;
use dsla_model::{Adapter, Model, Plan};
use std::path::Path;

const VOCAB: Vocabulary = Vocabulary { keys: 4, values: 4, fused: true };

/// A model as it starts, and its task. One head: shares of a single row can then be compared.
fn start(dir: &Path) -> (Model, Pretraining) {
    let sizes = Sizes {
        layers: 2,
        hidden: 16,
        intermediate: 16,
        heads: 1,
        kv_heads: 1,
        head_dim: 16,
        vocab: VOCAB.size(),
        positions: 64,
        rope_theta: 10_000.0,
    };
    BaseWeights::random(&sizes, 1).save(&sizes, dir).unwrap();
    let task = Pretraining {
        task: Task::Forgetting,
        vocab: VOCAB,
        pairs: 4,
        lengths: vec![32, 64],
        batch_tokens: 128,
        steps: 1,
        lr: 1e-2,
        seed: 2,
    };
    (Model::load(dir, &Device::Cpu, DType::F32).unwrap(), task)
}

#[test]
fn every_form_is_converted_and_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (model, task) = start(dir.path());
    let settings = Conversion { align_steps: 4, align_lr: 1e-2, chain_steps: 12, chain_lr: 1e-2 };
    let examples = task.batch(77, 0, 64).unwrap();
    let questions: usize = examples.iter().map(|e| e.queries.len()).sum();
    for (i, variant) in variants(8).into_iter().chain(variants(0)).enumerate() {
        let mut steps = vec![];
        let row = row(&model, &task, &variant, &settings, &examples, |step, of, loss| {
            steps.push((step, of));
            assert!(loss.is_finite());
        })
        .unwrap();
        assert_eq!(steps, (1..=16).map(|s| (s, 16)).collect::<Vec<_>>());
        assert_eq!(row.whole.iter().map(|b| b.of).sum::<usize>(), questions);
        assert_eq!(row.half_lives.len(), 2);
        assert!(row.kl > 0.0);
        assert_eq!(row.no_history.is_empty(), i % 4 > 1, "forms of one state have nothing to silence");
    }
    let sizes: Vec<usize> = variants(0)
        .iter()
        .map(|v| row(&model, &task, v, &settings, &examples, |_, _, _| {}).unwrap().state_bytes)
        .collect();
    assert!(sizes[0] == 2 * sizes[1] && sizes[1] == sizes[2] && sizes[2] == sizes[3], "{sizes:?}");
    let bins = recall(&model, &Plan::teacher(2), &examples).unwrap();
    assert!((0.0..=1.0).contains(&accuracy(&bins, None)));
    let again =
        |seed| convert(&model, &task, &variants(8)[0].form, &settings, |_, _, _| {}).map(|a| (seed, a));
    let (a, b) = (again(0).unwrap().1, again(0).unwrap().1);
    for (a, b) in a.layers.iter().flatten().zip(b.layers.iter().flatten()) {
        for ((name, a), (_, b)) in a.params.tensors().into_iter().zip(b.params.tensors()) {
            assert!(a.f32() == b.f32(), "{name}: the same run gave other bits");
        }
    }
}

/// Parameters away from their start, so that both states have weight and the mix is not 0.
fn moved(model: &Model, form: &Form) -> Adapter {
    let mut adapter = Adapter::init(model, form).unwrap();
    let mut rng = Rng::new(5);
    for layer in adapter.layers.iter_mut().flatten() {
        for (_, t) in layer.params.tensors_mut() {
            t.f32_mut().iter_mut().for_each(|v| *v += 0.3 * rng.normal() as f32);
        }
    }
    adapter
}

#[test]
fn a_silenced_state_is_gone_and_the_rest_is_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (model, task) = start(dir.path());
    // One row: of so short a text only the last query is measured.
    let text = &task.batch(3, 0, 32).unwrap()[0].tokens;
    let adapter = moved(&model, &Form { window: 8, sinks: 0, ..Form::native() });
    let share = |adapter: &Adapter, part: usize| {
        layer_states(&model, adapter, text, |_, _| {}).unwrap()[1].mass[part].iter().sum::<f64>()
    };
    const WINDOW: usize = 3;
    for (state, gone, kept) in [(State::History, 1, 2), (State::Recency, 2, 1)] {
        let quiet = silenced(&adapter, state);
        assert!(share(&adapter, gone) > 0.01 && share(&quiet, gone) == 0.0);
        let ratio = |a: &Adapter| share(a, kept) / share(a, WINDOW);
        assert!((ratio(&quiet) / ratio(&adapter) - 1.0).abs() < 1e-4, "{state:?}");
    }
}

#[test]
fn norms_are_taken_at_powers_of_two() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = start(dir.path());
    let model = model.with_positions(1100).unwrap();
    let text: Vec<u32> = (0..1100).map(|i| i * 7 % 11).collect();
    assert!(norms(&model, &text, |_, _| {}).unwrap_err().to_string().contains("no adapter"));
    let adapter = moved(&model, &Form { window: 8, sinks: 0, ..Form::native() });
    let points = norms(&model.with_adapter_value(adapter).unwrap(), &text, |_, _| {}).unwrap();
    assert_eq!(points.iter().map(|p| p.tokens).collect::<Vec<_>>(), [512, 1024, 1100]);
    assert!(
        points.iter().all(|p| p.s.iter().chain(&p.z).all(|v| v.len() == 2 && v.iter().all(|n| *n > 0.0)))
    );
}

#[test]
fn what_does_not_fit_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = start(dir.path());
    let paper = Adapter::init(&model, &Form::paper()).unwrap();
    let native = Adapter::init(&model, &Form::native()).unwrap();
    for (adapter, text, word) in [
        (&paper, vec![1; 32], "scalar gates"),
        (&native, vec![1; 8], "8 tokens"),
        (&native, vec![1; 99], "99 tokens"),
    ] {
        let e = layer_states(&model, adapter, &text, |_, _| {}).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains(word) && !e.contains('\n'), "{e}");
    }
}
