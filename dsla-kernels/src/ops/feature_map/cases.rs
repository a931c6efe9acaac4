//! Cases.

use super::{backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::real::{Bf16, Real};
use crate::{DType, Device, Tensor, spec};

/// Every case of this op.
pub fn cases() -> Vec<Case> {
    let small = [(1, 1, 1), (7, 2, 9), (65, 3, 20), (100, 1, 33)];
    let large = [(1, 3, 64), (7, 2, 64), (131, 1, 64), (1, 2, 128), (9, 1, 128), (130, 1, 128), (512, 9, 64)];
    let case = |(t, h, d), types: &[DType]| types.iter().map(|&x| case(t, h, d, x)).collect::<Vec<_>>();
    small
        .into_iter()
        .flat_map(|n| case(n, &[DType::F32, DType::BF16]))
        .chain(large.into_iter().flat_map(|n| case(n, &[DType::F32, DType::BF16, DType::F16])))
        .chain(case((33, 1, 12), &[DType::F16]))
        .chain([(7, 2, 64), (131, 3, 32), (65, 3, 20), (9, 1, 128), (5, 1, 160), (512, 9, 64)].map(|(t, h, d)| rounded(t, h, d)))
        .collect()
}

/// To features of bf16; on a GPU, whose kernels write f32, by a cast.
fn rounded(t: usize, h: usize, d: usize) -> Case {
    Case {
        id: format!("bf16_t{t}_h{h}_d{d}_to_bf16"),
        spec: spec!(Bf16, |x| vec![naive::forward(&x[0], &x[1], h, d).into_iter().map(R::model).collect()]),
        run: Box::new(move |x| {
            let on_host = x[0].device() == Device::Cpu;
            let shape = [t, h, 2 * d];
            let mut y = Tensor::empty_on(x[0].device(), shape, if on_host { DType::BF16 } else { DType::F32 })?;
            forward(x[0].view(), x[1].view(), y.view_mut())?;
            Ok(vec![if on_host { y } else { y.to_dtype(DType::BF16)? }])
        }),
        backward: None,
        ..case(t, h, d, DType::BF16)
    }
}

fn case(t: usize, h: usize, d: usize, dtype: DType) -> Case {
    let mut rng = Rng::new((t * 101 + h * 11 + d) as u64);
    Case {
        id: format!("{dtype}_t{t}_h{h}_d{d}"),
        inputs: vec![
            Input { name: "u", tensor: rng.tensor(&[t, h, d], 2.0, dtype) },
            Input { name: "w", tensor: rng.tensor(&[h, d, d], 1.0 / (d as f64).sqrt(), DType::F32) },
        ],
        spec: spec!(f32, |x| vec![naive::forward(&x[0], &x[1], h, d)]),
        run: Box::new(move |x| {
            let mut y = Tensor::empty_on(x[0].device(), [t, h, 2 * d], DType::F32)?;
            forward(x[0].view(), x[1].view(), y.view_mut())?;
            Ok(vec![y])
        }),
        backward: Some(Box::new(move |x, dy| {
            let mut y = Tensor::empty_on(x[0].device(), [t, h, 2 * d], DType::F32)?;
            forward(x[0].view(), x[1].view(), y.view_mut())?;
            let mut dw = Tensor::zeros_on(x[0].device(), [h, d, d], DType::F32)?;
            let mut du = Tensor::empty_on(x[0].device(), [t, h, d], DType::F32)?;
            backward(x[0].view(), x[1].view(), y.view(), dy[0].view(), dw.view_mut(), Some(du.view_mut()))?;
            Ok(vec![Some(du), Some(dw)])
        })),
        flops: (2 * t * h * d * d) as f64,
        bytes: ((8 + dtype.size()) * t * h * d + 4 * h * d * d) as f64,
        bench: t >= 512,
    }
}
