//! Cases: every pair of dtypes; columns, rows gathered and scattered, at odd sizes.

use super::{cast, columns, gather, naive, scatter};
use crate::case::{Case, Input, Rng};
use crate::real::{Bf16, F16, Real};
use crate::{DType, Tensor, spec};

/// Every case of this op.
pub fn cases() -> Vec<Case> {
    let floats = [DType::F32, DType::BF16, DType::F16];
    let mut all = vec![];
    for (n, skip) in [(1, 0), (63, 0), (1000, 0), (1000, 1), (70_001, 0)] {
        for from in floats {
            all.extend(floats.map(|to| cast_case(n, from, to, skip)));
        }
    }
    for (t, x, from, n, y, to) in [(1, 5, 0, 5, 5, 0), (3, 100, 37, 63, 90, 20), (17, 960, 576, 192, 192, 0), (9, 64, 0, 64, 128, 64)] {
        all.extend([DType::F32, DType::BF16].map(|d| columns_case(t, x, from, n, y, to, d)));
    }
    for (n, r, t) in [(1, 1, 1), (7, 33, 3), (20, 256, 13)] {
        all.push(rows_case(n, r, t, false));
        all.push(rows_case(n, r, t, true));
    }
    all
}

/// `skip`: elements before x and y, so that neither is aligned to more than an element.
fn cast_case(n: usize, from: DType, to: DType, skip: usize) -> Case {
    let mut rng = Rng::new(n as u64);
    fn to_bits<R: Real, M: Real>(x: &[R]) -> Vec<R> {
        x.iter().map(|v| R::of(M::of(v.f64()).model().f64())).collect()
    }
    Case {
        id: format!("cast_{from}_{to}_n{n}_skip{skip}"),
        inputs: vec![Input { name: "x", tensor: rng.tensor(&[n], 1.0, from) }],
        spec: match to {
            DType::BF16 => spec!(f32, |x| vec![to_bits::<R, Bf16>(&x[0])]),
            DType::F16 => spec!(f32, |x| vec![to_bits::<R, F16>(&x[0])]),
            _ => spec!(f32, |x| vec![x[0].clone()]),
        },
        run: Box::new(move |x| {
            let mut y = Tensor::zeros_on(x[0].device(), [n], to)?;
            cast(x[0].rows(skip, n), y.view_mut().rows(skip, n))?;
            cast(x[0].rows(0, skip), y.view_mut().rows(0, skip))?;
            Ok(vec![y])
        }),
        backward: None,
        flops: 0.0,
        bytes: (n * (from.size() + to.size())) as f64,
        bench: n > 50_000,
    }
}

fn columns_case(t: usize, xs: usize, from: usize, n: usize, ys: usize, to: usize, dtype: DType) -> Case {
    let mut rng = Rng::new((t * xs + from) as u64);
    Case {
        id: format!("columns_{dtype}_t{t}_x{xs}_from{from}_n{n}_y{ys}_to{to}"),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[t, xs], 1.0, dtype) },
            Input { name: "y", tensor: rng.tensor(&[t, ys], 1.0, dtype) },
        ],
        spec: spec!(f32, |x| vec![naive::columns(&x[0], from, n, &x[1], to, t)]),
        run: Box::new(move |x| {
            let mut y = x[1].try_clone()?;
            columns(x[0].view(), from, n, y.view_mut(), to)?;
            Ok(vec![y])
        }),
        backward: None,
        flops: 0.0,
        bytes: (2 * t * n * dtype.size()) as f64,
        bench: false,
    }
}

fn rows_case(n: usize, r: usize, t: usize, into: bool) -> Case {
    let mut rng = Rng::new((n * r + t) as u64);
    // A stride coprime to n: no row twice.
    let rows = Tensor::from_u32([t], (0..t).map(|i| ((i * 3 + 1) % n) as u32).collect());
    let shapes = if into { ([t, r], [n, r]) } else { ([n, r], [t, r]) };
    Case {
        id: format!("{}_n{n}_r{r}_t{t}", if into { "scatter" } else { "gather" }),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&shapes.0, 1.0, DType::F32) },
            Input { name: "rows", tensor: rows },
            Input { name: "y", tensor: rng.tensor(&shapes.1, 1.0, DType::F32) },
        ],
        spec: spec!(f32, |x| {
            vec![if into { naive::scatter(&x[0], &x[1], &x[2], r) } else { naive::gather(&x[0], &x[1], r) }]
        }),
        run: Box::new(move |x| {
            let mut y = if into { x[2].try_clone()? } else { Tensor::empty_on(x[0].device(), x[2].shape(), DType::F32)? };
            if into {
                scatter(x[0].view(), x[1].view(), y.view_mut())?;
            } else {
                gather(x[0].view(), x[1].view(), y.view_mut())?;
            }
            Ok(vec![y])
        }),
        backward: None,
        flops: 0.0,
        bytes: (8 * t * r) as f64,
        bench: false,
    }
}
