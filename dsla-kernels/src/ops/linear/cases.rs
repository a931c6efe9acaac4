//! Cases: one row, skinny, large; odd sizes; all dtypes; bias and residual; the backward of x and of W; SwiGLU.

use super::{Into, Packed, Size, backward_weight_sized, forward, forward_parts, forward_sized, forward_swiglu_sized, naive};
use crate::case::{Case, Input, Rng, Spec};
use crate::real::{Bf16, F16};
use crate::{DType, Tensor, spec};

/// Every case of this op.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in [DType::F32, DType::BF16] {
        for (m, n, k) in [(1, 1, 1), (1, 100, 63), (1, 192, 576), (3, 17, 33), (5, 64, 64), (8, 40, 96), (17, 100, 31), (63, 65, 100), (100, 300, 64), (270, 48, 40), (26, 33, 1300), (29, 40, 700), (35, 33, 70)] {
            cases.push(case(dtype, DType::F32, m, n, k, Size::Auto));
        }
        for m in [1, 8, 512] {
            cases.push(case(dtype, DType::F32, m, 1536, 576, Size::Auto));
        }
    }
    // Both sizes of the GPU's tiles, at sizes that choose neither by themselves: edges in every direction.
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for size in [Size::Small, Size::Large] {
            for (m, n, k) in [(1, 65, 72), (1, 30, 1100), (2, 48, 40), (16, 71, 520), (17, 33, 7), (64, 66, 48), (130, 131, 200), (290, 20, 9)] {
                cases.push(case(dtype, DType::F32, m, n, k, size));
            }
            for (m, f, k) in [(1, 21, 40), (5, 36, 300), (18, 40, 36), (70, 33, 64), (130, 66, 41)] {
                cases.push(swiglu(dtype, [DType::F32; 2], m, f, k, size));
            }
        }
        for (m, n, k) in [(1, 40, 33), (20, 37, 70)] {
            cases.push(transposed(dtype, m, n, k));
        }
    }
    // x, and y of SwiGLU, in 16 bits: whole rows, rows to be padded, rows at odd addresses.
    for dtype in [DType::BF16, DType::F16] {
        let sizes = [(1, 65, 72), (1, 30, 33), (2, 48, 40), (16, 71, 520), (17, 33, 7), (64, 66, 48), (130, 131, 200)];
        for (m, n, k) in sizes {
            cases.push(case(dtype, dtype, m, n, k, Size::Auto));
        }
        for size in [Size::Small, Size::Large] {
            for (m, f, k) in [(1, 22, 40), (1, 21, 72), (5, 36, 300), (18, 40, 36), (70, 33, 64), (130, 66, 41)] {
                cases.push(swiglu(dtype, [dtype; 2], m, f, k, size));
            }
        }
        cases.push(case(dtype, dtype, 70, 66, 64, Size::Large));
        cases.push(swiglu(dtype, [DType::F32, dtype], 3, 20, 40, Size::Auto));
        cases.push(swiglu(dtype, [dtype, DType::F32], 20, 21, 40, Size::Auto));
    }
    // Blocks of columns of their own: of whole panels and not, one row and many.
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (m, widths, k) in [(1, [48, 16, 16], 64), (5, [32, 16, 32], 40), (40, [144, 48, 48], 96), (3, [20, 16, 7], 33), (130, [96, 32, 32], 192)] {
            cases.push(parts(dtype, DType::F32, m, widths, k));
            cases.push(parts(dtype, dtype, m, widths, k));
        }
    }
    // Slices of 4096^3 that fill no GPU: the tile that the whole takes.
    cases.push(case(DType::BF16, DType::BF16, 256, 256, 4096, Size::Large));
    cases.push(swiglu(DType::BF16, [DType::BF16; 2], 256, 128, 4096, Size::Large));
    cases.push(weight_gradient(128, 512, 1024));
    cases.extend(super::quant::cases::cases());
    cases
}

fn id(dtype: DType, m: usize, n: usize, k: usize, size: Size) -> String {
    let size = match size {
        Size::Auto => "",
        Size::Small => "_small",
        Size::Large => "_large",
    };
    format!("{dtype}_m{m}_n{n}_k{k}{size}")
}

/// What the name of a case says of an x or y that is not f32.
fn part(what: &str, dtype: DType) -> String {
    if dtype == DType::F32 { String::new() } else { format!("_{what}{}", 8 * dtype.size()) }
}

/// w in `dtype`, x in `of_x`.
fn case(dtype: DType, of_x: DType, m: usize, n: usize, k: usize, size: Size) -> Case {
    let (bias, add) = (m % 2 == 1, m % 3 == 2);
    let mut rng = Rng::new((m * 7919 + n * 31 + k) as u64);
    let spec: Spec = match dtype {
        DType::F32 => spec!(f32, |x| vec![whole(&x, bias, add, k)]),
        DType::F16 => spec!(F16, |x| vec![whole(&x, bias, add, k)]),
        _ => spec!(Bf16, |x| vec![whole(&x, bias, add, k)]),
    };
    let into = if add { Into::Add } else { Into::Store };
    Case {
        id: id(dtype, m, n, k, size) + &part("x", of_x) + ["", "_bias"][bias as usize] + ["", "_add"][add as usize],
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[m, k], 1.0, of_x) },
            Input { name: "w", tensor: rng.tensor(&[n, k], 1.0 / (k as f64).sqrt(), dtype) },
            Input { name: "bias", tensor: rng.tensor(&[n], 1.0, DType::F32) },
            Input { name: "y", tensor: rng.tensor(&[m, n], 1.0, DType::F32) },
        ],
        spec,
        run: Box::new(move |x| {
            let mut y = if add { x[3].clone() } else { Tensor::empty_on(x[0].device(), x[3].shape(), DType::F32)? };
            let w = Packed::new(x[1].view())?;
            forward_sized(x[0].view(), &w, bias.then(|| x[2].view()), into, y.view_mut(), size)?;
            Ok(vec![y])
        }),
        // The gradient through a bf16 product is that of the rounded function only to bf16: checked in f32.
        backward: (dtype == DType::F32 && (size == Size::Auto || m >= 130 || m == 17)).then(|| -> crate::case::Backward {
            Box::new(move |x, d| {
                let mut dx = Tensor::empty_on(x[0].device(), x[0].shape(), DType::F32)?;
                forward(d[0].view(), &Packed::transposed(x[1].view())?, None, Into::Store, dx.view_mut())?;
                let mut dw = Tensor::zeros_on(x[0].device(), x[1].shape(), DType::F32)?;
                // In two parts, because it adds.
                for (a, b) in [(0, m / 3), (m / 3, m)] {
                    backward_weight_sized(x[0].rows(a, b), d[0].rows(a, b), dw.view_mut(), size)?;
                }
                Ok(vec![Some(dx), Some(dw), None, None])
            })
        }),
        flops: (2 * m * n * k) as f64,
        // What is added to is read too.
        bytes: (n * k * dtype.size() + m * (of_x.size() * k + if add { 8 * n } else { 4 * n })) as f64,
        bench: n * k > 500_000,
    }
}

fn whole<R: crate::real::Real>(x: &[Vec<R>], bias: bool, add: bool, k: usize) -> Vec<R> {
    let mut y = naive::forward(&x[0], &x[1], bias.then_some(&x[2][..]), k);
    if add {
        y.iter_mut().zip(&x[3]).for_each(|(y, &r)| *y += r);
    }
    y
}

/// [`case`] with y in blocks of columns.
fn parts(dtype: DType, of_x: DType, m: usize, widths: [usize; 3], k: usize) -> Case {
    let n = widths.iter().sum();
    let bias = m % 2 == 1;
    let of_columns = move |y: &[f64]| {
        let mut from = 0;
        widths.map(|w| (y.chunks_exact(n).flat_map(|row| row[from..from + w].to_vec()).collect::<Vec<_>>(), from += w).0)
    };
    let Case { spec, mut inputs, .. } = case(dtype, of_x, m, n, k, Size::Auto);
    inputs.truncate(3);
    Case {
        id: format!("parts_{dtype}_m{m}_{widths:?}_k{k}{}", part("x", of_x)),
        inputs,
        spec: Box::new(move |precision, x| {
            // (What is added to is not an input here.)
            let x: Vec<Vec<f64>> = x.iter().cloned().chain([vec![0.0; m * n]]).collect();
            of_columns(&spec(precision, &x)[0]).into()
        }),
        run: Box::new(move |x| {
            let [q, k, v] = widths.map(|w| Tensor::empty_on(x[0].device(), [m, w], DType::F32));
            let (mut q, mut k, mut v) = (q?, k?, v?);
            let w = Packed::new(x[1].view())?;
            let y = [q.view_mut(), k.view_mut(), v.view_mut()];
            forward_parts(x[0].view(), &w, bias.then(|| x[2].view()), y)?;
            Ok(vec![q, k, v])
        }),
        backward: None,
        flops: (2 * m * n * k) as f64,
        bytes: (n * k * dtype.size() + m * (of_x.size() * k + 4 * n)) as f64,
        bench: false,
    }
}

/// w in `dtype`, x and y in theirs.
fn swiglu(dtype: DType, [of_x, of_y]: [DType; 2], m: usize, f: usize, k: usize, size: Size) -> Case {
    fn spec<R: crate::real::Real>(x: &[Vec<R>], k: usize, narrow: bool) -> Vec<Vec<R>> {
        let y = naive::forward_swiglu(&x[0], &x[1], k);
        vec![if narrow { y.into_iter().map(R::model).collect() } else { y }]
    }
    let narrow = of_y != DType::F32;
    let mut rng = Rng::new((m * 7919 + f * 31 + k) as u64);
    Case {
        id: format!("swiglu_{}{}{}", id(dtype, m, f, k, size), part("x", of_x), part("y", of_y)),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[m, k], 1.0, of_x) },
            Input { name: "w", tensor: rng.tensor(&[2 * f, k], 2.0 / (k as f64).sqrt(), dtype) },
        ],
        spec: match dtype {
            DType::F32 => spec!(f32, |x| spec(&x, k, narrow)),
            DType::F16 => spec!(F16, |x| spec(&x, k, narrow)),
            _ => spec!(Bf16, |x| spec(&x, k, narrow)),
        },
        run: Box::new(move |x| {
            let mut y = Tensor::empty_on(x[0].device(), [m, f], of_y)?;
            forward_swiglu_sized(x[0].view(), &Packed::new(x[1].view())?, y.view_mut(), size)?;
            Ok(vec![y])
        }),
        backward: None,
        flops: (4 * m * f * k) as f64,
        bytes: (2 * f * k * dtype.size() + m * (of_y.size() * f + of_x.size() * k)) as f64,
        bench: f * k > 500_000,
    }
}

/// The product with a weight that is stored [K, N].
fn transposed(dtype: DType, m: usize, n: usize, k: usize) -> Case {
    fn spec<R: crate::real::Real>(x: &[Vec<R>], n: usize, k: usize) -> Vec<Vec<R>> {
        let w: Vec<R> = (0..n * k).map(|i| x[1][i % k * n + i / k]).collect();
        vec![naive::forward(&x[0], &w, None, k)]
    }
    let mut rng = Rng::new((m * 7919 + n * 31 + k) as u64);
    Case {
        id: format!("transposed_{}", id(dtype, m, n, k, Size::Auto)),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[m, k], 1.0, DType::F32) },
            Input { name: "w", tensor: rng.tensor(&[k, n], 1.0 / (k as f64).sqrt(), dtype) },
        ],
        spec: match dtype {
            DType::F32 => spec!(f32, |x| spec(&x, n, k)),
            DType::F16 => spec!(F16, |x| spec(&x, n, k)),
            _ => spec!(Bf16, |x| spec(&x, n, k)),
        },
        run: Box::new(move |x| {
            let mut y = Tensor::empty_on(x[0].device(), [m, n], DType::F32)?;
            forward(x[0].view(), &Packed::transposed(x[1].view())?, None, Into::Store, y.view_mut())?;
            Ok(vec![y])
        }),
        backward: None,
        flops: (2 * m * n * k) as f64,
        bytes: (n * k * dtype.size() + 4 * m * (n + k)) as f64,
        bench: false,
    }
}

/// dW alone, with so few rows that they are not split, in large tiles.
fn weight_gradient(m: usize, n: usize, k: usize) -> Case {
    let mut rng = Rng::new((m * 7919 + n * 31 + k) as u64);
    Case {
        id: format!("dw_m{m}_n{n}_k{k}"),
        inputs: vec![
            Input { name: "x", tensor: rng.tensor(&[m, k], 1.0, DType::F32) },
            Input { name: "dy", tensor: rng.tensor(&[m, n], 1.0, DType::F32) },
        ],
        spec: spec!(f32, |x| {
            let dw = |j: usize, i: usize| {
                (0..m).fold(<R as crate::real::Real>::zero(), |s, r| s + x[1][r * n + j] * x[0][r * k + i])
            };
            vec![(0..n * k).map(|at| dw(at / k, at % k)).collect()]
        }),
        run: Box::new(move |x| {
            let mut dw = Tensor::zeros_on(x[0].device(), [n, k], DType::F32)?;
            backward_weight_sized(x[0].view(), x[1].view(), dw.view_mut(), Size::Large)?;
            Ok(vec![dw])
        }),
        backward: None,
        flops: (2 * m * n * k) as f64,
        // dW is read, added to and written.
        bytes: (4 * m * (n + k) + 8 * n * k) as f64,
        bench: true,
    }
}
