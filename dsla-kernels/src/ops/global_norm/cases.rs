//! Cases, odd sizes first.

use super::{forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, spec};

/// Every case of this op. A scale of 1e30 overflows an f32 sum.
pub fn cases() -> Vec<Case> {
    [(1, 1.0), (63, 1.0), (100, 1e30), (50_001, 1e-3), (1 << 20, 1.0)].map(|(n, scale)| case(n, scale)).into()
}

fn case(n: usize, scale: f64) -> Case {
    let mut rng = Rng::new(n as u64);
    Case {
        id: format!("n{n}_scale{scale:e}"),
        inputs: vec![Input { name: "x", tensor: rng.tensor(&[n], scale, DType::F32) }],
        spec: spec!(f32, |x| vec![naive::forward(&x[0])]),
        run: Box::new(move |x| {
            let mut out = Tensor::empty_on(x[0].device(), [1], DType::F32)?;
            forward(x[0].view(), out.view_mut())?;
            Ok(vec![out])
        }),
        backward: None,
        flops: (2 * n) as f64,
        bytes: (4 * n) as f64,
        bench: n > 100_000,
    }
}
