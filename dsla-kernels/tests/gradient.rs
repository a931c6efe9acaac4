//! Every backward against finite differences of the f64 specification, per input, along random directions.

mod common;
use common::*;
use dsla_kernels::case::{Precision, Rng};
use dsla_kernels::{DType, Tensor};

/// Elements of a case's inputs beyond which it runs at the best level only.
const LARGE: usize = 10_000;

#[test]
fn every_backward_matches_finite_differences() {
    let _lock = serial();
    let mut run = 0;
    let best = *levels().last().expect("a level");
    for level in levels() {
        assert_eq!(dsla_kernels::simd::force(level), level);
        for (op, cases) in dsla_kernels::ops::all() {
            for case in cases.iter().filter(|c| !c.bench) {
                // The sizes that GPU kernels need take the specification seconds: once is enough for them.
                let elements: usize = case.inputs.iter().map(|i| i.tensor.len()).sum();
                if elements > LARGE && level != best {
                    continue;
                }
                let Some(backward) = &case.backward else { continue };
                run += 1;
                let x = inputs_f64(case);
                let mut rng = Rng::new(7);
                let outs = (case.spec)(Precision::F64, &x);
                let shapes: Vec<_> = (case.run)(&tensors(case)).unwrap().iter().map(|t| t.shape()).collect();
                let douts: Vec<Tensor> =
                    shapes.iter().map(|s| rng.tensor(s.dims(), 1.0, DType::F32)).collect();
                let grads =
                    backward(&tensors(case), &douts).unwrap_or_else(|e| panic!("{op} {}: {e}", case.id));
                let loss = |x: &[Vec<f64>]| -> f64 {
                    let y = (case.spec)(Precision::F64, x);
                    y.iter()
                        .zip(&douts)
                        .map(|(y, d)| y.iter().zip(as_f64(d)).map(|(a, b)| a * b).sum::<f64>())
                        .sum()
                };
                assert_eq!(outs.len(), douts.len());
                for (i, g) in grads.iter().enumerate() {
                    let Some(g) = g else { continue };
                    let g = as_f64(g);
                    assert!(
                        g.iter().all(|v| v.is_finite()),
                        "{op} {} {level:?}: gradient of {} is not finite",
                        case.id,
                        case.inputs[i].name
                    );
                    for _ in 0..3 {
                        let dir: Vec<f64> = g.iter().map(|_| rng.normal()).collect();
                        let h = 1e-5;
                        let at = |s: f64| {
                            let mut x = x.clone();
                            x[i].iter_mut().zip(&dir).for_each(|(x, d)| *x += s * d);
                            loss(&x)
                        };
                        let want = (at(h) - at(-h)) / (2.0 * h);
                        let got: f64 = g.iter().zip(&dir).map(|(a, b)| a * b).sum();
                        // f32 gradients, each element with its own rounding: the scale is what the sum could be.
                        let scale = g.iter().map(|v| v * v).sum::<f64>().sqrt();
                        let tol = 2e-4 * scale.max(want.abs()) + 1e-6;
                        assert!(
                            (got - want).abs() <= tol,
                            "{op} {} {level:?}: gradient of {}: got {got:e}, want {want:e}, tolerance {tol:e}",
                            case.id,
                            case.inputs[i].name
                        );
                    }
                }
            }
        }
    }
    assert!(run > 0);
}
