//! Cases, odd sizes first.

use super::{backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, spec};

/// Every case of this op. Few ids over many tokens make the backward add to the same row again and again.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        for (v, t, c) in [(1, 1, 1), (5, 63, 7), (100, 33, 100), (4096, 512, 576)] {
            all.push(case(v, t, c, dtype));
        }
    }
    all
}

fn case(v: usize, t: usize, c: usize, dtype: DType) -> Case {
    let mut rng = Rng::new((v * 10_007 + t * 101 + c) as u64);
    Case {
        id: format!("v{v}_t{t}_c{c}_{dtype}"),
        inputs: vec![
            Input { name: "table", tensor: rng.tensor(&[v, c], 1.0, dtype) },
            Input { name: "ids", tensor: rng.indices(&[t], v) },
        ],
        spec: spec!(f32, |x| vec![naive::forward(&x[0], &x[1], c)]),
        run: Box::new(move |x| {
            let mut y = Tensor::empty_on(x[0].device(), [t, c], DType::F32)?;
            forward(x[0].view(), x[1].view(), y.view_mut())?;
            Ok(vec![y])
        }),
        backward: Some(Box::new(move |x, d| {
            let mut dtable = Tensor::zeros_on(x[0].device(), x[0].shape(), DType::F32)?;
            backward(x[1].view(), d[0].view(), dtable.view_mut())?;
            Ok(vec![Some(dtable), None])
        })),
        flops: 0.0,
        bytes: (t * c * (4 + dtype.size())) as f64,
        bench: t * c > 100_000,
    }
}
