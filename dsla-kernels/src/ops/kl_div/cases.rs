//! Cases, odd sizes first.

use super::{agree, backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, real::Real, spec};

/// Every case of this op: the student far from the teacher, close to it, and very close.
pub fn cases() -> Vec<Case> {
    [
        (1, 1, 1.0, 1.0),
        (1, 63, 1.0, 1.0),
        (7, 100, 30.0, 30.0),
        (33, 1000, 4.0, 0.5),
        (3, 1000, 4.0, 1e-3),
        (2, 5003, 4.0, 1.0),
        (2, 5003, 60.0, 30.0),
        (3, 4096, 60.0, 30.0),
        (16, 49_152, 4.0, 1.0),
    ]
    .map(|(t, v, scale, distance)| case(t, v, scale, distance))
    .into_iter()
    .chain([(1, 1), (33, 63), (40, 1003), (9, 4000), (16, 49_152)].map(|(t, v)| agree_case(t, v)))
    .collect()
}

/// Whole numbers: many of a row's largest elements have equals.
fn agree_case(t: usize, v: usize) -> Case {
    let mut rng = Rng::new((t * 10_007 + v) as u64);
    let mut whole = |scale: f64, near: &[f32]| -> Vec<f32> {
        (0..t * v).map(|i| ((rng.normal() * scale) as f32 + near.get(i).unwrap_or(&0.0)).round()).collect()
    };
    let a = whole(2.0, &[]);
    let b = whole(0.4, &a);
    Case {
        id: format!("agree_t{t}_v{v}"),
        inputs: vec![
            Input { name: "a", tensor: Tensor::from_f32([t, v], a) },
            Input { name: "b", tensor: Tensor::from_f32([t, v], b) },
        ],
        spec: spec!(f32, |x| vec![vec![<R as Real>::of(naive::agree(&x[0], &x[1], v) as f64)]]),
        run: Box::new(move |x| Ok(vec![Tensor::from_u32([1], vec![agree(x[0].view(), x[1].view())? as u32])])),
        backward: None,
        flops: (2 * t * v) as f64,
        bytes: (8 * t * v) as f64,
        bench: t * v > 100_000,
    }
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
