//! Cases, odd sizes first.

use super::{backward, forward, naive};
use crate::case::{Backward, Case, Input, Rng};
use crate::real::{Bf16, F16, Real};
use crate::{DType, Tensor, spec};

/// Every case of this op. The scale of 60 reaches gates whose e^-g overflows f32.
pub fn cases() -> Vec<Case> {
    let sizes = [(1, 1, 1.0), (1, 63, 1.0), (3, 100, 60.0), (33, 1536, 3.0), (256, 1536, 3.0)];
    let mut all: Vec<Case> = sizes.map(|(t, f, scale)| case(t, f, scale, DType::F32)).into();
    for out in [DType::BF16, DType::F16] {
        // 30: the range of f16 holds the products.
        all.extend([(1, 63, 1.0), (3, 100, 30.0), (7, 300, 3.0)].map(|(t, f, scale)| case(t, f, scale, out)));
    }
    all
}

fn stored<R: Real>(x: &[Vec<R>], f: usize) -> Vec<Vec<R>> {
    vec![naive::forward(&x[0], f).into_iter().map(R::model).collect()]
}

fn case(t: usize, f: usize, scale: f64, out: DType) -> Case {
    let mut rng = Rng::new((t * 10_007 + f) as u64);
    Case {
        id: format!("t{t}_f{f}_scale{scale}{}", if out == DType::F32 { String::new() } else { format!("_to_{out}") }),
        inputs: vec![Input { name: "gate_up", tensor: rng.tensor(&[t, 2 * f], scale, DType::F32) }],
        spec: match out {
            DType::BF16 => spec!(Bf16, |x| stored(&x, f)),
            DType::F16 => spec!(F16, |x| stored(&x, f)),
            _ => spec!(f32, |x| stored(&x, f)),
        },
        run: Box::new(move |x| {
            let mut y = Tensor::empty_on(x[0].device(), [t, f], out)?;
            forward(x[0].view(), y.view_mut())?;
            Ok(vec![y])
        }),
        backward: (out == DType::F32).then(|| -> Backward {
            Box::new(move |x, d| {
                let mut dx = Tensor::empty_on(x[0].device(), x[0].shape(), DType::F32)?;
                backward(x[0].view(), d[0].view(), dx.view_mut())?;
                Ok(vec![Some(dx)])
            })
        }),
        flops: (20 * t * f) as f64,
        bytes: ((8 + out.size()) * t * f) as f64,
        bench: t * f > 100_000,
    }
}
