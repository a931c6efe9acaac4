//! Cases, odd sizes first.

use super::{AdamW, naive, step};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, spec};

/// Every case of this op: the first step, where the correction is largest, and later ones.
pub fn cases() -> Vec<Case> {
    [(1, 1, 0.0), (63, 1, 0.1), (100, 10, 0.1), (40_001, 1000, 0.01), (1 << 20, 10, 0.1)]
        .map(|(n, step, decay)| case(n, step, decay))
        .into()
}

fn case(n: usize, number: u64, weight_decay: f64) -> Case {
    let mut rng = Rng::new(n as u64 * 10_007 + number);
    let options = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay, step: number };
    let squares = rng.tensor(&[n], 1.0, DType::F32).f32().iter().map(|x| x * x).collect();
    Case {
        id: format!("n{n}_step{number}_decay{weight_decay}"),
        inputs: vec![
            Input { name: "param", tensor: rng.tensor(&[n], 1.0, DType::F32) },
            Input { name: "grad", tensor: rng.tensor(&[n], 1.0, DType::F32) },
            Input { name: "m", tensor: rng.tensor(&[n], 1.0, DType::F32) },
            Input { name: "v", tensor: Tensor::from_f32([n], squares) },
        ],
        spec: spec!(f32, |x| naive::step(&x[0], &x[1], &x[2], &x[3], &options)),
        run: Box::new(move |x| {
            let (mut p, mut m, mut v) = (x[0].try_clone()?, x[2].try_clone()?, x[3].try_clone()?);
            step(p.view_mut(), x[1].view(), m.view_mut(), v.view_mut(), &options)?;
            Ok(vec![p, m, v])
        }),
        backward: None,
        flops: (14 * n) as f64,
        bytes: (28 * n) as f64,
        bench: n > 100_000,
    }
}
