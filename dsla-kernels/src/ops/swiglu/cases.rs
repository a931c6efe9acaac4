//! Cases, odd sizes first.

use super::{backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, spec};

/// Every case of this op. The scale of 60 reaches gates whose e^-g overflows f32.
pub fn cases() -> Vec<Case> {
    [(1, 1, 1.0), (1, 63, 1.0), (3, 100, 60.0), (33, 1536, 3.0), (256, 1536, 3.0)]
        .map(|(t, f, scale)| case(t, f, scale))
        .into()
}

fn case(t: usize, f: usize, scale: f64) -> Case {
    let mut rng = Rng::new((t * 10_007 + f) as u64);
    Case {
        id: format!("t{t}_f{f}_scale{scale}"),
        inputs: vec![Input { name: "gate_up", tensor: rng.tensor(&[t, 2 * f], scale, DType::F32) }],
        spec: spec!(f32, |x| vec![naive::forward(&x[0], f)]),
        run: Box::new(move |x| {
            let mut y = Tensor::empty_on(x[0].device(), [t, f], DType::F32)?;
            forward(x[0].view(), y.view_mut())?;
            Ok(vec![y])
        }),
        backward: Some(Box::new(move |x, d| {
            let mut dx = Tensor::empty_on(x[0].device(), x[0].shape(), DType::F32)?;
            backward(x[0].view(), d[0].view(), dx.view_mut())?;
            Ok(vec![Some(dx)])
        })),
        flops: (20 * t * f) as f64,
        bytes: (12 * t * f) as f64,
        bench: t * f > 100_000,
    }
}
