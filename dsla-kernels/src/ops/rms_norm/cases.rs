//! Cases, odd sizes first.

use super::{add_forward, backward, forward, naive};
use crate::case::{Backward, Case, Input, Rng};
use crate::real::{Bf16, F16, Real};
use crate::{DType, Tensor, spec};

/// Every case of this op.
pub fn cases() -> Vec<Case> {
    let sizes = [(1, 1), (1, 64), (3, 100), (33, 576), (601, 65), (256, 2048)];
    use DType::{BF16, F16, F32};
    let mut all: Vec<Case> = sizes.map(|(t, c)| case(t, c, F32)).into();
    all.extend([(1, 1), (3, 100), (7, 577), (256, 2048)].map(|(t, c)| add_case(t, c, F32)));
    for out in [BF16, F16] {
        all.extend([(1, 1), (5, 63), (3, 100), (9, 576)].map(|(t, c)| case(t, c, out)));
        all.extend([(1, 3), (3, 100), (7, 577)].map(|(t, c)| add_case(t, c, out)));
    }
    all.extend([case(256, 2048, BF16), add_case(256, 2048, BF16)]);
    all
}

fn name(out: DType) -> String {
    if out == DType::F32 { String::new() } else { format!("_to_{out}") }
}

/// The specification of x + r and y, y rounded as it is stored.
fn add_spec<R: Real>(x: &[Vec<R>], eps: f32) -> Vec<Vec<R>> {
    let mut both = naive::add_forward(&x[0], &x[1], &x[2], R::of(eps as f64));
    both[1] = both[1].iter().map(|y| y.model()).collect();
    both
}

fn plain_spec<R: Real>(x: &[Vec<R>], eps: f32) -> Vec<Vec<R>> {
    vec![naive::forward(&x[0], &x[1], R::of(eps as f64)).into_iter().map(R::model).collect()]
}

fn add_case(t: usize, c: usize, out: DType) -> Case {
    let mut rng = Rng::new((t * 10_007 + c) as u64);
    let eps = 1e-5;
    Case {
        id: format!("add_t{t}_c{c}{}", name(out)),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[t, c], 1.0, DType::F32) },
            Input { name: "r", tensor: rng.tensor(&[t, c], 1.0, DType::F32) },
            Input { name: "w", tensor: rng.tensor(&[c], 1.0, DType::F32) },
        ],
        spec: match out {
            DType::BF16 => spec!(Bf16, |x| add_spec(&x, eps)),
            DType::F16 => spec!(F16, |x| add_spec(&x, eps)),
            _ => spec!(f32, |x| add_spec(&x, eps)),
        },
        run: Box::new(move |x| {
            let mut sum = x[0].try_clone()?;
            let mut y = Tensor::empty_on(x[0].device(), x[0].shape(), out)?;
            add_forward(sum.view_mut(), x[1].view(), x[2].view(), eps, y.view_mut())?;
            Ok(vec![sum, y])
        }),
        backward: None,
        flops: (5 * t * c) as f64,
        bytes: ((12 + out.size()) * t * c) as f64,
        bench: t * c > 100_000,
    }
}

fn case(t: usize, c: usize, out: DType) -> Case {
    let mut rng = Rng::new((t * 10_007 + c) as u64);
    let eps = 1e-5;
    Case {
        id: format!("t{t}_c{c}{}", name(out)),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[t, c], 1.0, DType::F32) },
            Input { name: "w", tensor: rng.tensor(&[c], 1.0, DType::F32) },
        ],
        spec: match out {
            DType::BF16 => spec!(Bf16, |x| plain_spec(&x, eps)),
            DType::F16 => spec!(F16, |x| plain_spec(&x, eps)),
            _ => spec!(f32, |x| plain_spec(&x, eps)),
        },
        run: Box::new(move |x| {
            let mut y = Tensor::empty_on(x[0].device(), x[0].shape(), out)?;
            forward(x[0].view(), x[1].view(), eps, y.view_mut())?;
            Ok(vec![y])
        }),
        backward: (out == DType::F32).then(|| -> Backward {
            Box::new(move |x, d| {
                let mut dx = Tensor::empty_on(x[0].device(), x[0].shape(), DType::F32)?;
                let mut dw = Tensor::zeros_on(x[0].device(), x[1].shape(), DType::F32)?;
                backward(x[0].view(), x[1].view(), eps, d[0].view(), dx.view_mut(), Some(dw.view_mut()))?;
                Ok(vec![Some(dx), Some(dw)])
            })
        }),
        flops: (4 * t * c) as f64,
        bytes: ((4 + out.size()) * t * c) as f64,
        bench: t * c > 100_000,
    }
}
