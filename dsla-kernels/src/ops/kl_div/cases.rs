//! Cases, odd sizes first.

use super::{backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, spec};

/// Every case of this op: the student far from the teacher, close to it, and very close.
pub fn cases() -> Vec<Case> {
    [
        (1, 1, 1.0, 1.0),
        (1, 63, 1.0, 1.0),
        (7, 100, 30.0, 30.0),
        (33, 1000, 4.0, 0.5),
        (3, 1000, 4.0, 1e-3),
        (2, 5003, 4.0, 1.0),
        (16, 49_152, 4.0, 1.0),
    ]
    .map(|(t, v, scale, distance)| case(t, v, scale, distance))
    .into()
}

fn case(t: usize, v: usize, scale: f64, distance: f64) -> Case {
    let mut rng = Rng::new((t * 10_007 + v) as u64);
    let teacher = rng.tensor(&[t, v], scale, DType::F32);
    let noise = rng.tensor(&[t, v], distance, DType::F32);
    let student = teacher.f32().iter().zip(noise.f32()).map(|(a, b)| a + b + 1.0).collect();
    Case {
        id: format!("t{t}_v{v}_scale{scale}_distance{distance}"),
        inputs: vec![
            Input { name: "teacher", tensor: teacher },
            Input { name: "student", tensor: Tensor::from_f32([t, v], student) },
        ],
        spec: spec!(f32, |x| vec![naive::forward(&x[0], &x[1], v)]),
        run: Box::new(move |x| {
            let mut kl = Tensor::empty_on(x[0].device(), [t], DType::F32)?;
            forward(x[0].view(), x[1].view(), kl.view_mut())?;
            Ok(vec![kl])
        }),
        backward: Some(Box::new(move |x, d| {
            let mut ds = Tensor::empty_on(x[0].device(), x[1].shape(), DType::F32)?;
            backward(x[0].view(), x[1].view(), d[0].view(), ds.view_mut())?;
            Ok(vec![None, Some(ds)])
        })),
        flops: (70 * t * v) as f64,
        bytes: (8 * t * v) as f64,
        bench: t * v > 100_000,
    }
}
