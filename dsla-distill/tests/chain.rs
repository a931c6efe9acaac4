//! The chain on a small model: its gradients are those of its loss, and it lowers the divergence of every prefix.

use dsla_core::kernels::case::Rng;
use dsla_core::{DType, Device, Form, Gate, GateInput, Projections};
use dsla_distill::{Config, Corpus, Event, Prefixes, Stage, Training, chain_gradients, distill};
use dsla_model::eval::divergence;
use dsla_model::{Adapter, Model, Plan};
use std::path::Path;

fn model() -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/tests/fixtures/tiny_llama3");
    Model::load(dir, &Device::Cpu, DType::F32).unwrap()
}

fn small() -> Form {
    Form { window: 8, sinks: 2, ..Form::native() }
}

/// An adapter away from its start: every parameter moved, so that every gradient is there.
fn moved(model: &Model, form: &Form) -> Adapter {
    let mut adapter = Adapter::init(model, form).unwrap();
    let mut rng = Rng::new(5);
    for layer in adapter.layers.iter_mut().flatten() {
        for (_, t) in layer.params.tensors_mut() {
            t.f32_mut().iter_mut().for_each(|v| *v += 0.1 * rng.normal() as f32);
        }
    }
    adapter
}

fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| (rng.bits() % 50) as u32).collect()
}

#[test]
fn gradients_match_finite_differences() {
    let model = model();
    let (a, b) = (tokens(37, 1), tokens(21, 2));
    let batch: [&[u32]; 2] = [&a, &b];
    let forms = [
        small(),
        Form { projections: Projections::Lora { rank: 3 }, ..small() },
        Form { projections: Projections::Full, gate: Gate::Vector, ..small() },
        Form { gate_input: GateInput::Hidden, ..small() },
    ];
    for form in forms {
        let adapter = moved(&model, &form);
        let weight = 0.3;
        let (_, _, grads) = chain_gradients(&model, &adapter, &batch, weight, false).unwrap();
        let (_, _, again) = chain_gradients(&model, &adapter, &batch, weight, true).unwrap();
        for (g, again) in grads.iter().flatten().zip(again.iter().flatten()) {
            for ((name, g), (_, again)) in g.tensors().into_iter().zip(again.tensors()) {
                assert!(g.f32() == again.f32(), "{name}: recomputed gradients differ");
            }
        }
        let mut rng = Rng::new(3);
        for l in 0..grads.len() {
            let found: Vec<(&str, Vec<f32>)> =
                grads[l].as_ref().unwrap().tensors().iter().map(|(n, t)| (*n, t.f32().to_vec())).collect();
            for (i, (name, grad)) in found.iter().enumerate() {
                let dir: Vec<f32> = grad.iter().map(|_| rng.normal() as f32).collect();
                let norm = dir.iter().map(|d| d * d).sum::<f32>().sqrt();
                let h = 0.002 / norm;
                let at = |s: f32| {
                    let mut there = adapter.clone();
                    let params = &mut there.layers[l].as_mut().unwrap().params;
                    let mut all = params.tensors_mut();
                    all[i].1.f32_mut().iter_mut().zip(&dir).for_each(|(p, d)| *p += s * d);
                    let (kl, aligned, _) = chain_gradients(&model, &there, &batch, weight, false).unwrap();
                    kl + weight * aligned
                };
                let want = (at(h) - at(-h)) / (2.0 * h as f64);
                let got: f64 = grad.iter().zip(&dir).map(|(g, d)| *g as f64 * *d as f64).sum();
                let scale = grad.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
                assert!(scale > 0.0, "{form:?} layer {l} {name}: no gradient at all");
                // The loss is a mean of f32 divergences; their rounding, over the step, is an error of its own.
                let rounding = 6e-4f64.max(5e-5 * norm as f64);
                assert!(
                    (got - want).abs() <= 0.02 * scale.max(want.abs()) + rounding,
                    "{form:?} layer {l} {name}: got {got}, want {want}, norm {scale}"
                );
            }
        }
    }
}

fn corpus() -> Corpus {
    let mut c = Corpus::default();
    c.add(tokens(4000, 9));
    c
}

fn chain(tokens: u64) -> Config {
    let mut c = Config::new(small(), tokens);
    c.stages = vec![Stage::Chain];
    c.chain.training = Training { tokens, batch_tokens: 64, lengths: vec![64], lr: 3e-2 };
    (c.rank_windows, c.rank_context) = (2, 48);
    c
}

#[test]
fn every_prefix_comes_closer_to_the_teacher() {
    let model = model();
    let held: Vec<u32> = tokens(96, 77);
    let plans = [Plan::of_layers(2, &[1]), Plan::of_layers(2, &[0, 1])];
    let kl = |adapter: &Adapter| {
        let hybrid = model.clone().with_adapter_value(adapter.clone()).unwrap();
        divergence(&hybrid, &plans, &[&held], |_, _| {}).unwrap().iter().map(|d| d.kl).collect::<Vec<_>>()
    };
    let before = kl(&Adapter::init(&model, &small()).unwrap());
    for prefixes in [Prefixes::Random, Prefixes::Frozen] {
        for projections in [Projections::Frozen, Projections::Lora { rank: 4 }] {
            let dir = tempfile::tempdir().unwrap();
            let mut config = chain(300 * 64);
            config.chain.prefixes = prefixes;
            config.form.projections = projections;
            let mut converted = vec![];
            let adapter = distill(&model, &corpus(), &config, None, dir.path(), false, |e| {
                if let Event::Step { stage, .. } = e {
                    assert_eq!(stage, Stage::Chain);
                    converted.push(());
                }
            })
            .unwrap();
            assert_eq!(converted.len(), 300);
            assert_eq!(adapter.order, [1, 0], "without a ranking the order is last layer first");
            let after = kl(&adapter);
            for (b, a) in before.iter().zip(&after) {
                assert!(*a < 0.9 * b, "{prefixes:?} {projections:?}: {before:?} became {after:?}");
            }
            assert_eq!(adapter.quality.len(), 3);
            let lines = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
            let drawn: Vec<u64> = lines
                .lines()
                .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["converted"].as_u64().unwrap())
                .collect();
            match prefixes {
                Prefixes::Random => assert!(drawn.contains(&1) && drawn.contains(&2)),
                Prefixes::Frozen => {
                    assert!(drawn[..150].iter().all(|&k| k == 1) && drawn[150..].iter().all(|&k| k == 2))
                }
            }
        }
    }
}

#[test]
fn it_goes_on_from_an_adapter() {
    let model = model();
    let first = tempfile::tempdir().unwrap();
    let adapter = distill(&model, &corpus(), &chain(300 * 64), None, first.path(), false, |_| {}).unwrap();
    let second = tempfile::tempdir().unwrap();
    let mut losses = vec![];
    let mut config = chain(3 * 64);
    config.form.projections = Projections::Lora { rank: 2 };
    distill(&model, &corpus(), &config, Some(&adapter), second.path(), false, |e| {
        if let Event::Step { loss, .. } = e {
            losses.push(loss);
        }
    })
    .unwrap();
    let mut fresh = vec![];
    let third = tempfile::tempdir().unwrap();
    distill(&model, &corpus(), &config, None, third.path(), false, |e| {
        if let Event::Step { loss, .. } = e {
            fresh.push(loss);
        }
    })
    .unwrap();
    assert!(losses[0] < 0.95 * fresh[0], "went on at {losses:?}, fresh {fresh:?}");
    // A checkpoint of a run that started elsewhere is another run's.
    let e = distill(&model, &corpus(), &config, None, second.path(), true, |_| {}).unwrap_err().to_string();
    assert!(e.contains("base model"), "{e}");
    // Another window is the same parameters; another form is not.
    config.form.window = 16;
    let wider = distill(&model, &corpus(), &config, Some(&adapter), third.path(), false, |_| {}).unwrap();
    assert_eq!(wider.form.window, 16);
    config.form.peak_slope = false;
    let e = distill(&model, &corpus(), &config, Some(&adapter), third.path(), false, |_| {})
        .unwrap_err()
        .to_string();
    assert!(e.contains("adapter to start from"), "{e}");
}
