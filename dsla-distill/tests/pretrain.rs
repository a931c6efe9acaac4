//! Training from nothing: gradients are those of the loss, a tiny model learns a tiny task, and what is saved loads.

use dsla_core::{DType, Device};
use dsla_distill::pretrain::tasks::{Example, Task, Vocabulary, example};
use dsla_distill::pretrain::{BaseWeights, Pretraining, Sizes, pretrain, pretrain_gradients};
use dsla_kernels::case::Rng;
use dsla_model::{Model, Plan, Step, Want};

const VOCAB: Vocabulary = Vocabulary { keys: 4, values: 4, fused: false };

fn sizes() -> Sizes {
    Sizes {
        layers: 2,
        hidden: 32,
        intermediate: 40,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        vocab: 11,
        positions: 64,
        rope_theta: 10_000.0,
    }
}

#[test]
fn gradients_match_finite_differences() {
    let sizes = sizes();
    let batch: Vec<Example> =
        [(32, 1), (20, 2)].map(|(t, seed)| example(Task::Forgetting, VOCAB, t, 3, seed).unwrap()).into();
    let start = BaseWeights::random(&sizes, 3);
    let (loss, grads) = pretrain_gradients(&sizes, &start, &batch).unwrap();
    assert!(loss > 1.0, "a random start knows nothing: {loss}");
    let mut rng = Rng::new(4);
    for i in 0..grads.tensors().len() {
        let grad = grads.tensors()[i].f32().to_vec();
        let dir: Vec<f32> = grad.iter().map(|_| rng.normal() as f32).collect();
        let h = 0.01 / dir.iter().map(|d| d * d).sum::<f32>().sqrt();
        let at = |s: f32| {
            let mut there = start.clone();
            there.tensors_mut()[i].f32_mut().iter_mut().zip(&dir).for_each(|(p, d)| *p += s * d);
            pretrain_gradients(&sizes, &there, &batch).unwrap().0
        };
        let want = (at(h) - at(-h)) / (2.0 * h as f64);
        let got: f64 = grad.iter().zip(&dir).map(|(g, d)| *g as f64 * *d as f64).sum();
        let norm = grad.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 0.0, "tensor {i}: no gradient at all");
        assert!(
            (got - want).abs() <= 0.02 * norm.max(want.abs()) + 3e-4,
            "tensor {i}: got {got}, want {want}"
        );
    }
}

fn settings() -> Pretraining {
    Pretraining {
        task: Task::Mqar,
        vocab: VOCAB,
        pairs: 1,
        lengths: vec![16],
        batch_tokens: 512,
        steps: 250,
        lr: 1e-2,
        seed: 0,
    }
}

#[test]
fn a_tiny_model_learns_and_loads() {
    let (sizes, settings) = (sizes(), settings());
    let mut losses = vec![];
    let weights = pretrain(&sizes, &settings, |_, _, loss| losses.push(loss)).unwrap();
    let mean = |l: &[f64]| l.iter().sum::<f64>() / l.len() as f64;
    // Guessing among four values costs ln 4 = 1.39.
    assert!(mean(&losses[230..]) < 0.1, "{:?}", losses.iter().step_by(25).collect::<Vec<_>>());
    let dir = tempfile::tempdir().unwrap();
    weights.save(&sizes, dir.path()).unwrap();
    let model = Model::load(dir.path(), &Device::Cpu, DType::F32).unwrap();
    let batch = settings.batch(99, 0, 16).unwrap();
    let (mut right, mut of) = (0, 0);
    for e in &batch {
        let mut seq = model.new_sequence(&Plan::teacher(2)).unwrap();
        let logits =
            model.forward(&mut [Step { seq: &mut seq, tokens: &e.tokens, logits: Want::All }]).unwrap();
        for q in &e.queries {
            let row = &logits.f32()[q.at * 11..(q.at + 1) * 11];
            let best = (0..11).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            right += usize::from(best as u32 == q.answer);
            of += 1;
        }
    }
    assert!(right * 100 > of * 95, "the loaded model answers {right} of {of}");
}

#[test]
fn bad_settings_are_one_line() {
    let good = settings();
    let cases = [
        Pretraining { vocab: Vocabulary { keys: 40, ..VOCAB }, ..good.clone() },
        Pretraining { lengths: vec![128], ..good.clone() },
        Pretraining { lengths: vec![], ..good.clone() },
        Pretraining { lengths: vec![17], ..good.clone() },
        Pretraining { steps: 0, ..good.clone() },
        Pretraining { lr: f64::NAN, ..good.clone() },
    ];
    for c in cases {
        let e = pretrain(&sizes(), &c, |_, _, _| {}).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains("got") && e.contains("want") && !e.contains('\n'), "{e}");
    }
    let odd = Sizes { head_dim: 15, ..sizes() };
    assert!(pretrain(&odd, &good, |_, _, _| {}).is_err());
}
