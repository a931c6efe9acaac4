//! Cases, odd sizes first.

use super::{Table, backward, forward, forward_cache, naive};
use crate::case::{Case, Input, Rng};
use crate::real::{Bf16, F16, Real};
use crate::{DType, Device, spec};

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
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (t, h, d, s, at) in [(1, 1, 2, 1, 0), (3, 2, 6, 9, 5), (17, 2, 64, 40, 23), (5, 1, 128, 6, 1)] {
            all.push(cache_case(t, h, d, dtype, s, at));
        }
    }
    all
}

/// cache [s, h, d] with rows at.. written. The positions stay on the host.
fn cache_case(t: usize, h: usize, d: usize, dtype: DType, s: usize, at: usize) -> Case {
    let mut rng = Rng::new((t * 10_007 + h * 101 + d) as u64);
    let inv_freq: Vec<f64> = (0..d / 2).map(|i| 1e4f64.powf(-2.0 * i as f64 / d as f64)).collect();
    let table = Table::new(&inv_freq, POSITIONS, 1.0);
    fn write<R: Real, M: Real>(x: &[Vec<R>], y: Vec<R>, start: usize) -> Vec<R> {
        let mut cache = x[2].clone();
        for (c, y) in cache[start..].iter_mut().zip(y) {
            *c = R::of(M::of(y.f64()).model().f64());
        }
        cache
    }
    macro_rules! stored {
        ($model:ty) => {
            spec!(f32, |x| {
                let y = naive::forward(&x[0], &x[1], &inv_freq, 1.0, h, false);
                vec![write::<R, $model>(&x, y, at * h * d)]
            })
        };
    }
    Case {
        id: format!("cache_{dtype}_t{t}_h{h}_d{d}_s{s}_at{at}"),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[t, h, d], 1.0, DType::F32) },
            Input { name: "positions", tensor: rng.indices(&[t], POSITIONS) },
            Input { name: "cache", tensor: rng.tensor(&[s, h, d], 1.0, dtype) },
        ],
        spec: match dtype {
            DType::BF16 => stored!(Bf16),
            DType::F16 => stored!(F16),
            _ => stored!(f32),
        },
        run: Box::new(move |x| {
            let (table, mut cache) = (table.to_device(x[0].device())?, x[2].try_clone()?);
            let positions = x[1].to_device(Device::Cpu)?;
            forward_cache(x[0].view(), positions.view(), &table, cache.view_mut(), at)?;
            Ok(vec![cache])
        }),
        backward: None,
        flops: (3 * t * h * d) as f64,
        bytes: ((4 + dtype.size()) * t * h * d) as f64,
        bench: false,
    }
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
            let (table, mut y) = (table.to_device(x[0].device())?, x[0].try_clone()?);
            forward(y.view_mut(), x[1].view(), &table, inverse)?;
            Ok(vec![y])
        }),
        backward: (!inverse).then(|| -> crate::case::Backward {
            Box::new(move |x, d| {
                let (table, mut dx) = (table_b.to_device(x[0].device())?, d[0].try_clone()?);
                backward(dx.view_mut(), x[1].view(), &table)?;
                Ok(vec![Some(dx), None])
            })
        }),
        flops: (3 * t * h * d) as f64,
        bytes: (8 * t * h * d) as f64,
        bench: t * h * d > 100_000,
    }
}
