//! Cases, odd sizes first.

use super::{Table, backward, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, spec};

const POSITIONS: usize = 3000;

/// Every case of this op: rotation, rotation back, and a scale other than 1, where the two are not transposes.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (scale, inverse) in [(1.0, false), (1.0, true), (1.25, false), (1.25, true)] {
        for (t, h, d) in [(1, 1, 2), (3, 2, 6), (33, 3, 64), (7, 5, 100)] {
            all.push(case(t, h, d, scale, inverse));
        }
    }
    all.push(case(512, 9, 64, 1.0, false));
    all
}

fn case(t: usize, h: usize, d: usize, scale: f32, inverse: bool) -> Case {
    let mut rng = Rng::new((t * 10_007 + h * 101 + d) as u64);
    let inv_freq: Vec<f64> = (0..d / 2).map(|i| 1e4f64.powf(-2.0 * i as f64 / d as f64)).collect();
    let table = Table::new(&inv_freq, POSITIONS, scale);
    let table_b = table.clone();
    Case {
        id: format!("t{t}_h{h}_d{d}_scale{scale}{}", if inverse { "_inverse" } else { "" }),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[t, h, d], 1.0, DType::F32) },
            Input { name: "positions", tensor: rng.indices(&[t], POSITIONS) },
        ],
        spec: spec!(f32, |x| vec![naive::forward(&x[0], &x[1], &inv_freq, scale, h, inverse)]),
        run: Box::new(move |x| {
            let mut y = x[0].clone();
            forward(y.view_mut(), x[1].view(), &table, inverse)?;
            Ok(vec![y])
        }),
        backward: (!inverse).then(|| -> crate::case::Backward {
            Box::new(move |x, d| {
                let mut dx = d[0].clone();
                backward(dx.view_mut(), x[1].view(), &table_b)?;
                Ok(vec![Some(dx), None])
            })
        }),
        flops: (3 * t * h * d) as f64,
        bytes: (8 * t * h * d) as f64,
        bench: t * h * d > 100_000,
    }
}
