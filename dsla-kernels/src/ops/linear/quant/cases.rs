//! Cases: every format at odd numbers of rows and columns. The inputs are f32, and quantised on both sides.

use super::{Quant, naive};
use crate::case::{Case, Input, Precision, Rng, Spec};
use crate::ops::linear::{Into, Packed, forward, forward_swiglu};
use crate::real::Real;
use crate::{DType, Tensor};

pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for quant in Quant::ALL {
        for (m, n, k) in [(1, 1, 32), (1, 100, 64), (2, 9, 96), (3, 17, 320), (4, 16, 32), (5, 63, 1024), (8, 40, 96), (23, 31, 160), (131, 51, 64), (270, 20, 32)] {
            cases.push(case(quant, m, n, k));
        }
        for m in [1, 8, 512] {
            cases.push(case(quant, m, 1536, 576));
        }
        cases.push(swiglu(quant, 3, 21, 96));
    }
    cases
}

/// The product in f64 of x as it is, or in f32 of x as the kernel rounds it.
fn product(p: Precision, x: &[Vec<f64>], quant: Quant, bias: bool, k: usize) -> Vec<f64> {
    let narrow = |x: &[f64]| x.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let w = naive::rounded(&narrow(&x[1]), quant);
    match p {
        Precision::F64 => naive::forward(&x[0], &w, bias.then(|| &x[2][..]), k),
        _ => {
            let rows = naive::activations(&narrow(&x[0]));
            let y = naive::forward(&rows, &w, bias.then(|| narrow(&x[2])).as_deref(), k);
            y.into_iter().map(Real::f64).collect()
        }
    }
}

fn inputs(rng: &mut Rng, m: usize, n: usize, k: usize) -> Vec<Input> {
    vec![
        Input { name: "x", tensor: rng.tensor(&[m, k], 1.0, DType::F32) },
        Input { name: "w", tensor: rng.tensor(&[n, k], 1.0 / (k as f64).sqrt(), DType::F32) },
    ]
}

fn case(quant: Quant, m: usize, n: usize, k: usize) -> Case {
    let (bias, add) = (m % 2 == 1, m % 3 == 2);
    let mut rng = Rng::new((m * 7919 + n * 31 + k) as u64);
    let mut inputs = inputs(&mut rng, m, n, k);
    inputs.push(Input { name: "bias", tensor: rng.tensor(&[n], 1.0, DType::F32) });
    inputs.push(Input { name: "y", tensor: rng.tensor(&[m, n], 1.0, DType::F32) });
    let spec: Spec = Box::new(move |p, x| {
        let mut y = product(p, x, quant, bias, k);
        if add {
            y.iter_mut().zip(&x[3]).for_each(|(y, r)| *y += r);
        }
        vec![y]
    });
    let into = if add { Into::Add } else { Into::Store };
    Case {
        id: format!("{quant}_m{m}_n{n}_k{k}{}{}", if bias { "_bias" } else { "" }, if add { "_add" } else { "" }),
        inputs,
        spec,
        run: Box::new(move |x| {
            let mut y = if add { x[3].clone() } else { Tensor::empty_on(x[0].device(), x[3].shape(), DType::F32)? };
            let w = Packed::quantised(x[1].view(), quant)?;
            forward(x[0].view(), &w, bias.then(|| x[2].view()), into, y.view_mut())?;
            Ok(vec![y])
        }),
        backward: None,
        flops: (2 * m * n * k) as f64,
        bytes: (n * k / 32 * quant.block_bytes() + 4 * m * (n + k)) as f64,
        bench: n * k > 500_000,
    }
}

fn swiglu(quant: Quant, m: usize, f: usize, k: usize) -> Case {
    let mut rng = Rng::new((m * 7919 + f * 31 + k) as u64);
    Case {
        id: format!("swiglu_{quant}_m{m}_n{f}_k{k}"),
        inputs: inputs(&mut rng, m, 2 * f, k),
        spec: Box::new(move |p, x| vec![crate::ops::swiglu::naive::forward(&product(p, x, quant, false, k), f)]),
        run: Box::new(move |x| {
            let mut y = Tensor::empty_on(x[0].device(), [m, f], DType::F32)?;
            forward_swiglu(x[0].view(), &Packed::quantised(x[1].view(), quant)?, y.view_mut())?;
            Ok(vec![y])
        }),
        backward: None,
        flops: (4 * m * f * k) as f64,
        bytes: (2 * f * k / 32 * quant.block_bytes() + 4 * m * (f + k)) as f64,
        bench: false,
    }
}
