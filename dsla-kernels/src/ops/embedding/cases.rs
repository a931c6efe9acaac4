//! Cases, odd sizes first.

use super::{backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Device, Tensor, spec};

/// Every case of this op. Few ids over many tokens make the backward add to the same row again and again.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (v, t, c) in [(1, 1, 1), (5, 63, 7), (100, 33, 100), (7, 600, 9), (3, 5, 1100), (4096, 512, 576)] {
            all.push(case(v, t, c, dtype, false));
        }
    }
    all.push(case(100, 33, 100, DType::BF16, true));
    all
}

/// `host`: the ids stay on the host, wherever the table is.
fn case(v: usize, t: usize, c: usize, dtype: DType, host: bool) -> Case {
    let mut rng = Rng::new((v * 10_007 + t * 101 + c) as u64);
    Case {
        id: format!("v{v}_t{t}_c{c}_{dtype}{}", if host { "_host_ids" } else { "" }),
        inputs: vec![
            Input { name: "table", tensor: rng.tensor(&[v, c], 1.0, dtype) },
            Input { name: "ids", tensor: rng.indices(&[t], v) },
        ],
        spec: spec!(f32, |x| vec![naive::forward(&x[0], &x[1], c)]),
        run: Box::new(move |x| {
            let mut y = Tensor::empty_on(x[0].device(), [t, c], DType::F32)?;
            let ids = if host { x[1].to_device(Device::Cpu)? } else { x[1].try_clone()? };
            forward(x[0].view(), ids.view(), y.view_mut())?;
            Ok(vec![y])
        }),
        backward: Some(Box::new(move |x, d| {
            let mut dtable = Tensor::zeros_on(x[0].device(), x[0].shape(), DType::F32)?;
            let ids = if host { x[1].to_device(Device::Cpu)? } else { x[1].try_clone()? };
            backward(ids.view(), d[0].view(), dtable.view_mut())?;
            Ok(vec![Some(dtable), None])
        })),
        flops: 0.0,
        bytes: (t * c * (4 + dtype.size())) as f64,
        bench: v > 1000,
    }
}
