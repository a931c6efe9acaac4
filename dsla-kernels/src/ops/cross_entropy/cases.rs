//! Cases, odd sizes first.

use super::{backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, spec};

/// Every case of this op. The scale of 200 overflows an exponential that forgets to take out the maximum;
/// with long rows one thread meets several maxima.
pub fn cases() -> Vec<Case> {
    [
        (1, 1, 1.0),
        (1, 63, 1.0),
        (7, 100, 200.0),
        (33, 1000, 4.0),
        (2, 5003, 4.0),
        (2, 5003, 60.0),
        (3, 4096, 60.0),
        (16, 49_152, 4.0),
    ]
        .map(|(t, v, scale)| case(t, v, scale))
        .into()
}

fn case(t: usize, v: usize, scale: f64) -> Case {
    let mut rng = Rng::new((t * 10_007 + v) as u64);
    Case {
        id: format!("t{t}_v{v}_scale{scale}"),
        inputs: vec![
            Input { name: "logits", tensor: rng.tensor(&[t, v], scale, DType::F32) },
            Input { name: "targets", tensor: rng.indices(&[t], v) },
        ],
        spec: spec!(f32, |x| vec![naive::forward(&x[0], &x[1], v)]),
        run: Box::new(move |x| {
            let mut loss = Tensor::empty_on(x[0].device(), [t], DType::F32)?;
            forward(x[0].view(), x[1].view(), loss.view_mut())?;
            Ok(vec![loss])
        }),
        backward: Some(Box::new(move |x, d| {
            let mut dx = Tensor::empty_on(x[0].device(), x[0].shape(), DType::F32)?;
            backward(x[0].view(), x[1].view(), d[0].view(), dx.view_mut())?;
            Ok(vec![Some(dx), None])
        })),
        flops: (20 * t * v) as f64,
        bytes: (4 * t * v) as f64,
        bench: t * v > 100_000,
    }
}
