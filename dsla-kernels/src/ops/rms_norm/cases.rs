//! Cases, odd sizes first.

use super::{add_forward, backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, spec};

/// Every case of this op.
pub fn cases() -> Vec<Case> {
    let sizes = [(1, 1), (1, 64), (3, 100), (33, 576), (601, 65), (256, 2048)];
    let mut all: Vec<Case> = sizes.map(|(t, c)| case(t, c)).into();
    all.extend([(1, 1), (3, 100), (7, 577), (256, 2048)].map(|(t, c)| add_case(t, c)));
    all
}

fn add_case(t: usize, c: usize) -> Case {
    let mut rng = Rng::new((t * 10_007 + c) as u64);
    let eps = 1e-5;
    Case {
        id: format!("add_t{t}_c{c}"),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[t, c], 1.0, DType::F32) },
            Input { name: "r", tensor: rng.tensor(&[t, c], 1.0, DType::F32) },
            Input { name: "w", tensor: rng.tensor(&[c], 1.0, DType::F32) },
        ],
        spec: spec!(f32, |x| naive::add_forward(&x[0], &x[1], &x[2], <R as crate::real::Real>::of(eps as f64))),
        run: Box::new(move |x| {
            let mut sum = x[0].try_clone()?;
            let mut y = Tensor::empty_on(x[0].device(), x[0].shape(), DType::F32)?;
            add_forward(sum.view_mut(), x[1].view(), x[2].view(), eps, y.view_mut())?;
            Ok(vec![sum, y])
        }),
        backward: None,
        flops: (5 * t * c) as f64,
        bytes: (16 * t * c) as f64,
        bench: t * c > 100_000,
    }
}

fn case(t: usize, c: usize) -> Case {
    let mut rng = Rng::new((t * 10_007 + c) as u64);
    let eps = 1e-5;
    Case {
        id: format!("t{t}_c{c}"),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[t, c], 1.0, DType::F32) },
            Input { name: "w", tensor: rng.tensor(&[c], 1.0, DType::F32) },
        ],
        spec: spec!(f32, |x| vec![naive::forward(&x[0], &x[1], <R as crate::real::Real>::of(eps as f64))]),
        run: Box::new(move |x| {
            let mut y = Tensor::empty_on(x[0].device(), x[0].shape(), DType::F32)?;
            forward(x[0].view(), x[1].view(), eps, y.view_mut())?;
            Ok(vec![y])
        }),
        backward: Some(Box::new(move |x, d| {
            let mut dx = Tensor::empty_on(x[0].device(), x[0].shape(), DType::F32)?;
            let mut dw = Tensor::zeros_on(x[0].device(), x[1].shape(), DType::F32)?;
            backward(x[0].view(), x[1].view(), eps, d[0].view(), dx.view_mut(), Some(dw.view_mut()))?;
            Ok(vec![Some(dx), Some(dw)])
        })),
        flops: (4 * t * c) as f64,
        bytes: (8 * t * c) as f64,
        bench: t * c > 100_000,
    }
}
