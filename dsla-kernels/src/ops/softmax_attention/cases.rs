//! Cases: prefill, chunked prefill, decode; odd lengths; grouped heads; f32 and bf16 caches.

use super::{Dims, backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, spec};

/// Every case of this op.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (t, s) in [(1, 1), (1, 63), (1, 700), (2, 2), (3, 130), (63, 63), (65, 65), (100, 256), (130, 131)] {
        cases.push(case(Dims { t, s, h: 2, g: 1, d: 8 }, DType::F32));
        cases.push(case(Dims { t, s, h: 6, g: 2, d: 20 }, DType::BF16));
    }
    for (t, s) in [(1, 4096), (1024, 1024)] {
        cases.push(case(Dims { t, s, h: 9, g: 3, d: 64 }, DType::BF16));
    }
    cases
}

fn case(n: Dims, dtype: DType) -> Case {
    let Dims { t, s, h, g, d } = n;
    let mut rng = Rng::new((t * 1009 + s * 7 + h) as u64);
    Case {
        id: format!("{dtype}_t{t}_s{s}_h{h}_g{g}_d{d}"),
        inputs: vec![
            Input { name: "q", tensor: rng.tensor(&[t, h, d], 1.0, DType::F32) },
            Input { name: "k", tensor: rng.tensor(&[s, g, d], 1.0, dtype) },
            Input { name: "v", tensor: rng.tensor(&[s, g, d], 1.0, dtype) },
        ],
        spec: spec!(f32, |x| vec![naive::forward(&x[0], &x[1], &x[2], n)]),
        run: Box::new(move |x| {
            let mut out = Tensor::empty_on(x[0].device(), [t, h, d], DType::F32)?;
            forward(x[0].view(), x[1].view(), x[2].view(), out.view_mut())?;
            Ok(vec![out])
        }),
        backward: Some(Box::new(move |x, d_out| {
            let mut out = Tensor::empty_on(x[0].device(), [t, h, d], DType::F32)?;
            forward(x[0].view(), x[1].view(), x[2].view(), out.view_mut())?;
            let empty = |x: &Tensor| Tensor::empty_on(x.device(), x.shape(), DType::F32);
            let (mut dq, mut dk, mut dv) = (empty(&x[0])?, empty(&x[1])?, empty(&x[2])?);
            let (q, k, v) = (x[0].view(), x[1].view(), x[2].view());
            backward(q, k, v, out.view(), d_out[0].view(), dq.view_mut(), dk.view_mut(), dv.view_mut())?;
            Ok(vec![Some(dq), Some(dk), Some(dv)])
        })),
        flops: (4 * h * d) as f64 * (t as f64 * (s - t) as f64 + (t * (t + 1)) as f64 / 2.0),
        bytes: (8 * t * h * d + 2 * s * g * d * dtype.size()) as f64,
        bench: d == 64,
    }
}
