//! Cases: shared and per-head inputs, scalar and vector decays.

use super::{Dims, backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::real::Real;
use crate::{DType, Tensor, spec};

/// Every case of this op.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (t, k) in [(1, 1), (3, 16), (65, 40), (130, 33)] {
        for (x, g, e) in [(1, 1, 1), (1, 3, 1), (3, 3, 1), (1, 2, 16), (2, 2, 5)] {
            cases.push(case(Dims { t, x, k, g, e }, if e == 1 { 1.0 } else { 16.0 }));
        }
    }
    // More inputs than the kernel's long steps take at once, and logits below the clamp.
    for (t, x, k, g, e, scale) in [(5, 1, 230, 2, 1, 1.0), (2, 3, 100, 3, 1, 1.0), (9, 2, 40, 2, 5, 0.05)] {
        cases.push(case(Dims { t, x, k, g, e }, scale));
    }
    cases.push(case(Dims { t: 512, x: 3, k: 128, g: 3, e: 1 }, 1.0));
    cases
}

fn case(n: Dims, scale: f32) -> Case {
    let Dims { t, x, k, g, e } = n;
    let mut rng = Rng::new((t * 101 + x * 11 + k + e) as u64);
    Case {
        id: format!("t{t}_x{x}_k{k}_g{g}_e{e}"),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[t, x, k], 1.0, DType::F32) },
            Input { name: "w", tensor: rng.tensor(&[2, g, e, k], 1.0, DType::F32) },
            Input { name: "b", tensor: rng.tensor(&[2, g, e], 3.0, DType::F32) },
        ],
        spec: spec!(f32, |v| vec![naive::forward(&v[0], &v[1], &v[2], <R as Real>::of(scale as f64), n)]),
        run: Box::new(move |v| {
            let mut y = Tensor::empty_on(v[0].device(), [t, 2, g, e], DType::F32)?;
            forward(v[0].view(), v[1].view(), v[2].view(), scale, y.view_mut())?;
            Ok(vec![y])
        }),
        backward: Some(Box::new(move |v, dy| {
            let mut y = Tensor::empty_on(v[0].device(), [t, 2, g, e], DType::F32)?;
            forward(v[0].view(), v[1].view(), v[2].view(), scale, y.view_mut())?;
            let mut dx = Tensor::empty_on(v[0].device(), v[0].shape(), DType::F32)?;
            let (mut dw, mut db) = (Tensor::zeros_on(v[0].device(), v[1].shape(), DType::F32)?, Tensor::zeros_on(v[0].device(), v[2].shape(), DType::F32)?);
            backward(v[0].view(), v[1].view(), scale, y.view(), dy[0].view(), dw.view_mut(), db.view_mut(), Some(dx.view_mut()))?;
            Ok(vec![Some(dx), Some(dw), Some(db)])
        })),
        flops: (4 * t * g * e * k) as f64,
        bytes: (4 * (t * x * k + 2 * g * e * (k + t))) as f64,
        bench: t >= 512,
    }
}
