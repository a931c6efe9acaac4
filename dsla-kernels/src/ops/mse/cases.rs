//! Cases, odd sizes first.

use super::{backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, spec};

/// Every case of this op; a single row has no variance.
pub fn cases() -> Vec<Case> {
    [(1, 1), (1, 63), (3, 100), (33, 577), (600, 65), (512, 576)].map(|(t, c)| case(t, c)).into()
}

fn case(t: usize, c: usize) -> Case {
    let mut rng = Rng::new((t * 10_007 + c) as u64);
    Case {
        id: format!("t{t}_c{c}"),
        inputs: vec![
            Input { name: "y", tensor: rng.tensor(&[t, c], 1.0, DType::F32) },
            Input { name: "target", tensor: rng.tensor(&[t, c], 1.0, DType::F32) },
        ],
        spec: spec!(f32, |x| vec![naive::forward(&x[0], &x[1], c)]),
        run: Box::new(move |x| {
            let mut loss = Tensor::empty_on(x[0].device(), [1], DType::F32)?;
            forward(x[0].view(), x[1].view(), loss.view_mut())?;
            Ok(vec![loss])
        }),
        backward: Some(Box::new(move |x, d| {
            let mut dy = Tensor::empty_on(x[0].device(), x[0].shape(), DType::F32)?;
            backward(x[0].view(), x[1].view(), d[0].view(), dy.view_mut())?;
            Ok(vec![Some(dy), None])
        })),
        flops: (7 * t * c) as f64,
        bytes: (8 * t * c) as f64,
        bench: t * c > 100_000,
    }
}
