//! Cases: odd lengths; sums, differences, overwriting, scaling in place.

use super::{forward, naive, scale};
use crate::case::{Case, Input, Rng};
use crate::real::Real;
use crate::{DType, Tensor, spec};

/// Every case of this op.
pub fn cases() -> Vec<Case> {
    let mut all = vec![];
    for n in [1, 63, 1000, 4099, 300_000] {
        for (a, b) in [(1.0, 1.0), (-1.0, 1.0), (0.3, -2.5), (0.5, 0.0)] {
            all.push(case(n, a, b, false));
        }
        all.push(case(n, 0.0, 0.125, true));
    }
    all
}

fn case(n: usize, a: f32, b: f32, alone: bool) -> Case {
    let mut rng = Rng::new(n as u64);
    Case {
        id: format!("n{n}_a{a}_b{b}"),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[n], 1.0, DType::F32) },
            Input { name: "y", tensor: rng.tensor(&[n], 1.0, DType::F32) },
        ],
        spec: spec!(f32, |x| {
            vec![naive::forward(<R as Real>::of(a as f64), &x[0], <R as Real>::of(b as f64), &x[1])]
        }),
        run: Box::new(move |x| {
            let mut y = if b == 0.0 { Tensor::empty_on(x[0].device(), [n], DType::F32)? } else { x[1].try_clone()? };
            if alone {
                scale(b, y.view_mut())?;
            } else {
                forward(a, x[0].view(), b, y.view_mut())?;
            }
            Ok(vec![y])
        }),
        backward: None,
        flops: (3 * n) as f64,
        bytes: (12 * n) as f64,
        bench: n > 100_000,
    }
}
