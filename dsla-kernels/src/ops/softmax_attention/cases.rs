//! Cases: prefill, chunked prefill, decode, paged decode; odd lengths; grouped heads; f32, bf16 and f16 caches.

use super::{Dims, Paged, backward, forward, naive, paged_decode};
use crate::case::{Backward, Case, Input, Rng};
use crate::real::{Bf16, F16 as Half, Real};
use crate::{DType, Tensor, spec};

/// Every case of this op.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (t, s) in [(1, 1), (1, 63), (1, 700), (2, 2), (3, 130), (63, 63), (65, 65), (100, 256), (130, 131)] {
        cases.push(case(Dims { t, s, h: 2, g: 1, d: 8 }, DType::F32, DType::F32));
        cases.push(case(Dims { t, s, h: 6, g: 2, d: 20 }, DType::BF16, DType::F32));
    }
    use DType::{BF16, F16, F32};
    let sizes = [
        (1, 1, 3, 1, 64, BF16),
        (1, 129, 9, 3, 64, BF16),
        (1, 300, 4, 4, 64, F32),
        (1, 801, 9, 3, 64, BF16),
        (2, 1100, 4, 2, 64, F32),
        (2, 63, 8, 1, 64, F16),
        (3, 130, 2, 1, 64, F32),
        (8, 257, 9, 1, 64, BF16),
        (9, 9, 2, 2, 64, F16),
        (40, 100, 3, 1, 64, F32),
        (45, 45, 3, 1, 64, BF16),
        (63, 200, 4, 2, 64, BF16),
        (65, 65, 1, 1, 64, F16),
        (130, 131, 1, 1, 64, BF16),
        (1, 1, 2, 1, 128, F32),
        (1, 257, 4, 1, 128, BF16),
        (2, 64, 8, 1, 128, F16),
        (4, 65, 1, 1, 128, F32),
        (9, 33, 4, 2, 128, BF16),
        (33, 70, 2, 1, 128, F32),
        (47, 47, 3, 1, 128, F16),
        (129, 140, 1, 1, 128, BF16),
        // Head sizes of one tile of 32, and of three and five.
        (37, 150, 3, 1, 32, BF16),
        (35, 90, 4, 2, 96, BF16),
        (21, 70, 1, 1, 160, BF16),
    ];
    cases.extend(sizes.map(|(t, s, h, g, d, dtype)| case(Dims { t, s, h, g, d }, dtype, F32)));
    let ragged: &[u32] = &[700, 1, 0, 63, 257, 64];
    for (lens, page, h, g, d, dtype) in [
        (ragged, 16, 6, 2, 20, BF16),
        (ragged, 16, 9, 3, 64, BF16),
        (ragged, 64, 3, 1, 64, F16),
        (&[128, 129, 3], 1, 8, 1, 64, F32),
        (&[1, 257, 64], 16, 4, 1, 128, BF16),
        (&[300, 63], 64, 10, 1, 128, F16),
        (&[17, 200], 16, 2, 2, 128, F32),
    ] {
        cases.push(paged(lens, page, [h, g, d], dtype, F32));
    }
    // The output in the keys' dtype, as the next product wants it.
    for (t, s, h, g, d, dtype) in [
        (1, 129, 3, 1, 64, BF16),
        (3, 70, 4, 2, 128, F16),
        (45, 45, 3, 1, 64, BF16),
        (33, 70, 2, 1, 128, F16),
        (20, 21, 2, 1, 128, BF16),
        (19, 19, 1, 1, 64, F16),
    ] {
        cases.push(case(Dims { t, s, h, g, d }, dtype, dtype));
    }
    cases.push(paged(&[130, 0, 17], 16, [3, 1, 64], BF16, BF16));
    cases.push(paged(&[65, 1], 16, [2, 1, 128], F16, F16));
    for (t, s, d) in [(1, 4096, 64), (1024, 1024, 64), (4096, 4096, 64), (4096, 4096, 128)] {
        cases.push(case(Dims { t, s, h: if s > t { 9 } else { 3 }, g: if s > t { 3 } else { 1 }, d }, BF16, BF16));
    }
    cases.push(paged(&[4096; 4], 16, [9, 3, 64], BF16, BF16));
    cases
}

/// What the name of a case says of an output that is not f32.
fn to(out: DType) -> String {
    if out == DType::F32 { String::new() } else { format!("_to_{out}") }
}

/// The output as it is stored.
fn stored<R: Real>(out: Vec<R>, narrow: bool) -> Vec<Vec<R>> {
    vec![if narrow { out.into_iter().map(R::model).collect() } else { out }]
}

/// Sequences of these lengths on pages in no order, among pages of nobody.
fn paged(lens: &[u32], page: usize, [h, g, d]: [usize; 3], dtype: DType, out: DType) -> Case {
    let mut rng = Rng::new((lens.len() * 1009 + page * 7 + h + d) as u64);
    let (b, keys) = (lens.len(), lens.iter().map(|&l| l as usize).sum::<usize>());
    let most = lens.iter().copied().max().unwrap_or(0) as usize;
    let used: usize = lens.iter().map(|l| (*l as usize).div_ceil(page)).sum();
    let n = Paged { b, p: used + 3, page, pages: most.div_ceil(page) + 1, h, g, d };
    let mut free: Vec<u32> = (0..n.p as u32).collect();
    (1..n.p).rev().for_each(|i| free.swap(i, (rng.bits() % (i as u64 + 1)) as usize));
    let mut table = vec![u32::MAX; b * n.pages];
    for (i, len) in lens.iter().enumerate() {
        let many = (*len as usize).div_ceil(page);
        table[i * n.pages..][..many].copy_from_slice(&free.split_off(free.len() - many));
    }
    Case {
        id: format!("paged_{dtype}_{lens:?}_page{page}_h{h}_g{g}_d{d}{}", to(out)).replace(", ", "_"),
        inputs: vec![
            Input { name: "q", tensor: rng.tensor(&[b, h, d], 1.0, DType::F32) },
            Input { name: "k_pool", tensor: rng.tensor(&[n.p, page, g, d], 1.0, dtype) },
            Input { name: "v_pool", tensor: rng.tensor(&[n.p, page, g, d], 1.0, dtype) },
            Input { name: "table", tensor: Tensor::from_u32([b, n.pages], table) },
            Input { name: "lens", tensor: Tensor::from_u32([b], lens.to_vec()) },
        ],
        spec: match out {
            DType::BF16 => spec!(Bf16, |x| stored(naive::paged(&x[0], &x[1], &x[2], &x[3], &x[4], n), true)),
            DType::F16 => spec!(Half, |x| stored(naive::paged(&x[0], &x[1], &x[2], &x[3], &x[4], n), true)),
            _ => spec!(f32, |x| stored(naive::paged(&x[0], &x[1], &x[2], &x[3], &x[4], n), false)),
        },
        run: Box::new(move |x| {
            let mut out = Tensor::empty_on(x[0].device(), [b, h, d], out)?;
            let v = |i: usize| x[i].view();
            paged_decode(v(0), v(1), v(2), v(3), v(4), out.view_mut())?;
            Ok(vec![out])
        }),
        backward: None,
        flops: (4 * h * d * keys) as f64,
        bytes: ((4 + out.size()) * b * h * d + 2 * keys * g * d * dtype.size()) as f64,
        bench: keys > 10_000,
    }
}

fn case(n: Dims, dtype: DType, out: DType) -> Case {
    let Dims { t, s, h, g, d } = n;
    let mut rng = Rng::new((t * 1009 + s * 7 + h) as u64);
    Case {
        id: format!("{dtype}_t{t}_s{s}_h{h}_g{g}_d{d}{}", to(out)),
        inputs: vec![
            Input { name: "q", tensor: rng.tensor(&[t, h, d], 1.0, DType::F32) },
            Input { name: "k", tensor: rng.tensor(&[s, g, d], 1.0, dtype) },
            Input { name: "v", tensor: rng.tensor(&[s, g, d], 1.0, dtype) },
        ],
        spec: match out {
            DType::BF16 => spec!(Bf16, |x| stored(naive::forward(&x[0], &x[1], &x[2], n), true)),
            DType::F16 => spec!(Half, |x| stored(naive::forward(&x[0], &x[1], &x[2], n), true)),
            _ => spec!(f32, |x| stored(naive::forward(&x[0], &x[1], &x[2], n), false)),
        },
        run: Box::new(move |x| {
            let mut out = Tensor::empty_on(x[0].device(), [t, h, d], out)?;
            forward(x[0].view(), x[1].view(), x[2].view(), out.view_mut())?;
            Ok(vec![out])
        }),
        // The gradients of q and k of a single key are zero: nothing to compare rounding with.
        backward: ((s > 1 || d < 64) && (out == DType::F32 || t * s > 100_000)).then(|| -> Backward {
            Box::new(move |x, d_out| {
                let mut out = Tensor::empty_on(x[0].device(), [t, h, d], DType::F32)?;
                forward(x[0].view(), x[1].view(), x[2].view(), out.view_mut())?;
                let empty = |x: &Tensor| Tensor::empty_on(x.device(), x.shape(), DType::F32);
                let (mut dq, mut dk, mut dv) = (empty(&x[0])?, empty(&x[1])?, empty(&x[2])?);
                let (q, k, v) = (x[0].view(), x[1].view(), x[2].view());
                backward(q, k, v, out.view(), d_out[0].view(), dq.view_mut(), dk.view_mut(), dv.view_mut())?;
                Ok(vec![Some(dq), Some(dk), Some(dv)])
            })
        }),
        flops: (4 * h * d) as f64 * (t as f64 * (s - t) as f64 + (t * (t + 1)) as f64 / 2.0),
        bytes: ((4 + out.size()) * t * h * d + 2 * s * g * d * dtype.size()) as f64,
        bench: t * s > 100_000 || s == 4096,
    }
}
