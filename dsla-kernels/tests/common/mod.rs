//! What the op tests share.
#![allow(dead_code)]

use dsla_kernels::case::{Case, Precision};
use dsla_kernels::simd::{self, LEVELS, Level};
use dsla_kernels::{DType, Tensor};
use std::sync::{Mutex, MutexGuard};

/// The SIMD level and the poison switch are process-wide: tests that touch them take turns.
pub fn serial() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|e| e.into_inner())
}

/// The levels this machine can run.
pub fn levels() -> Vec<Level> {
    LEVELS.iter().copied().filter(|&l| simd::force(l) == l).collect()
}

pub fn as_f64(t: &Tensor) -> Vec<f64> {
    match t.dtype() {
        DType::U32 => match t.view().slice() {
            dsla_kernels::Slice::U32(v) => v.iter().map(|&x| x as f64).collect(),
            _ => unreachable!(),
        },
        _ => t.to_vec_f32().into_iter().map(f64::from).collect(),
    }
}

pub fn inputs_f64(case: &Case) -> Vec<Vec<f64>> {
    case.inputs.iter().map(|i| as_f64(&i.tensor)).collect()
}

pub fn tensors(case: &Case) -> Vec<Tensor> {
    case.inputs.iter().map(|i| i.tensor.clone()).collect()
}

fn rms(x: impl Iterator<Item = f64>) -> f64 {
    let (mut s, mut n) = (0.0, 0usize);
    for v in x {
        s += v * v;
        n += 1;
    }
    (s / n.max(1) as f64).sqrt()
}

/// What multiplies bf16 rounds queries, probabilities, features and states to it, on a CPU as on a GPU, where heads are as wide as
/// such products need. Not so a single token of a converted layer, a batch of them, what becomes of its states, nor states with
/// vector decays.
pub fn rounds(op: &str, id: &str) -> bool {
    let size = |name: &str| {
        let of = |part: &str| part.strip_prefix(name).and_then(|n| n.parse::<usize>().ok());
        id.split('_').find_map(of).unwrap_or_else(|| panic!("{op} {id}: no {name}"))
    };
    match op {
        "softmax_attention" => true,
        "dsla" if id.starts_with("fold") || id.starts_with("batch") => false,
        "dsla" => {
            let states = size("e") == 1 && size("f").is_multiple_of(32);
            size("t") > 1 && size("d").is_multiple_of(16) && (size("w") > 0 || states)
        }
        _ => false,
    }
}

/// One case at one level by the 2x rule.
pub fn check(op: &str, case: &Case, level: Level) {
    let x = inputs_f64(case);
    let truth = (case.spec)(Precision::F64, &x);
    assert_eq!(simd::force(level), level);
    let rounds =
        case.inputs.iter().any(|i| i.tensor.dtype() == DType::BF16) && simd::pairs() && rounds(op, &case.id);
    let same = (case.spec)(if rounds { Precision::Bf16 } else { Precision::Same }, &x);
    let got = (case.run)(&tensors(case)).unwrap_or_else(|e| panic!("{op} {} {level:?}: {e}", case.id));
    simd::force(*LEVELS.last().unwrap());
    compare(op, case, &format!("{level:?}"), &got, &truth, &same);
}

/// Outputs against the truth by the 2x rule; panics with the case and the numbers.
pub fn compare(op: &str, case: &Case, level: &str, got: &[Tensor], truth: &[Vec<f64>], same: &[Vec<f64>]) {
    verdict(got, truth, same).unwrap_or_else(|e| panic!("{op} {} {level} {e}", case.id));
}

/// Outputs against the truth by the 2x rule, on the maximum and on the root mean square of the error.
pub fn verdict(got: &[Tensor], truth: &[Vec<f64>], same: &[Vec<f64>]) -> Result<(), String> {
    if got.len() != truth.len() {
        return Err(format!("{} outputs, want {}", got.len(), truth.len()));
    }
    for (o, got) in got.iter().enumerate() {
        let (got, truth, same) = (as_f64(got), &truth[o], &same[o]);
        if got.len() != truth.len() {
            return Err(format!("output {o}: length {}, want {}", got.len(), truth.len()));
        }
        if !got.iter().zip(truth).all(|(g, t)| g.is_finite() || g == t) {
            return Err(format!("output {o}: not finite where the specification is"));
        }
        let err = |a: &[f64]| {
            a.iter().zip(truth).map(|(a, t)| if a == t { 0.0 } else { a - t }).collect::<Vec<_>>()
        };
        let (eg, es) = (err(&got), err(same));
        let scale = rms(truth.iter().copied().filter(|t| t.is_finite()));
        let peak = truth.iter().filter(|t| t.is_finite()).fold(0.0f64, |m, t| m.max(t.abs()));
        let max = |e: &[f64]| e.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let eps = f32::EPSILON as f64;
        let (rg, rs) = (rms(eg.iter().copied()), rms(es.iter().copied()));
        if rg > 2.0 * rs + 2.0 * eps * scale {
            return Err(format!(
                "output {o}: rms error {rg:e}, same-dtype specification {rs:e}, scale {scale:e}"
            ));
        }
        let (mg, ms) = (max(&eg), max(&es));
        if mg > 2.0 * ms + 4.0 * eps * peak {
            return Err(format!(
                "output {o}: max error {mg:e}, same-dtype specification {ms:e}, peak {peak:e}"
            ));
        }
    }
    Ok(())
}
