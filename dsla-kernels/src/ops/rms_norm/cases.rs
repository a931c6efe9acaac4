//! Cases, odd sizes first.

use super::{backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, spec};

/// Every case of this op.
pub fn cases() -> Vec<Case> {
    [(1, 1), (1, 64), (3, 100), (33, 576), (256, 2048)].map(|(t, c)| case(t, c)).into()
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
