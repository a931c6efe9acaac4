//! Every backward against finite differences of the f64 specification, per input, along random directions.

mod common;
use common::*;
use dsla_kernels::case::{Case, Precision, Rng};
use dsla_kernels::{DType, Tensor, simd};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Elements of a case's inputs beyond which it runs at the best level only, along one direction.
const LARGE: usize = 10_000;

#[test]
fn every_backward_matches_finite_differences() {
    let _lock = serial();
    let all = dsla_kernels::ops::all();
    let cases = || all.iter().flat_map(|(op, cases)| cases.iter().map(move |c| (*op, c)));
    let best = *levels().last().expect("a level");
    for level in levels() {
        assert_eq!(dsla_kernels::simd::force(level), level);
        // The sizes that GPU kernels need take the specification seconds: once is enough for them.
        let wanted = |c: &Case| !c.bench && c.backward.is_some() && (level == best || elements(c) <= LARGE);
        let mut cases: Vec<_> = cases().filter(|(_, c)| wanted(c)).collect();
        assert!(!cases.is_empty());
        // The longest first, for the specification runs on one thread: the cases share the cores.
        cases.sort_by(|(_, a), (_, b)| b.flops.total_cmp(&a.flops));
        let next = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
                s.spawn(|| {
                    while let Some((op, case)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        check(op, &format!("{op} {} {level:?}", case.id), case);
                    }
                });
            }
        });
    }
}

fn elements(case: &Case) -> usize {
    case.inputs.iter().map(|i| i.tensor.len()).sum()
}

fn check(op: &str, name: &str, case: &Case) {
    let backward = case.backward.as_ref().expect("a case with a backward");
    let x = inputs_f64(case);
    let mut rng = Rng::new(7);
    let shapes: Vec<_> = (case.run)(&tensors(case)).unwrap().iter().map(|t| t.shape()).collect();
    let douts: Vec<Tensor> = shapes.iter().map(|s| rng.tensor(s.dims(), 1.0, DType::F32)).collect();
    // The forward output that a backward pass starts from was rounded where the machine multiplies bf16.
    let bf16 = case.inputs.iter().any(|i| i.tensor.dtype() == DType::BF16);
    let share = if op == "softmax_attention" && bf16 && simd::pairs() { 1.0 / 256.0 } else { 2e-4 };
    let grads = backward(&tensors(case), &douts).unwrap_or_else(|e| panic!("{name}: {e}"));
    let weights: Vec<Vec<f64>> = douts.iter().map(as_f64).collect();
    let loss = |x: &[Vec<f64>]| -> f64 {
        let y = (case.spec)(Precision::F64, x);
        assert_eq!(y.len(), weights.len());
        y.iter().zip(&weights).map(|(y, d)| y.iter().zip(d).map(|(a, b)| a * b).sum::<f64>()).sum()
    };
    for ((g, x_i), input) in grads.iter().zip(0..).zip(&case.inputs) {
        let Some(g) = g else { continue };
        let (g, input) = (as_f64(g), input.name);
        assert!(g.iter().all(|v| v.is_finite()), "{name}: gradient of {input} is not finite");
        for _ in 0..if elements(case) > LARGE { 1 } else { 3 } {
            let dir: Vec<f64> = g.iter().map(|_| rng.normal()).collect();
            let h = 1e-5;
            let at = |s: f64| {
                let mut x = x.clone();
                x[x_i].iter_mut().zip(&dir).for_each(|(x, d)| *x += s * d);
                loss(&x)
            };
            let want = (at(h) - at(-h)) / (2.0 * h);
            let got: f64 = g.iter().zip(&dir).map(|(a, b)| a * b).sum();
            // f32 gradients, each element with its own rounding: the scale is what the sum could be.
            let scale = g.iter().map(|v| v * v).sum::<f64>().sqrt();
            let tol = share * scale.max(want.abs()) + 1e-6;
            assert!(
                (got - want).abs() <= tol,
                "{name}: gradient of {input}: got {got:e}, want {want:e}, tolerance {tol:e}"
            );
        }
    }
}
