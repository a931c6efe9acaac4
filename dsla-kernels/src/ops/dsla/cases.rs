//! Cases: every form of normaliser, window and decay; odd lengths; with and without a state and a ring before.

use super::{Args, BatchArgs, BatchDims, Dims, Grads, Normalizer, Place, Pool, Saved, State, backward, decode_batch, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::real::Real;
use crate::{DType, Device, Error, Tensor, spec};
use DType::{BF16, F16, F32};
use Normalizer::{None as Plain, Rms, Sum};

/// Every case of this op.
pub fn cases() -> Vec<Case> {
    let base = Dims { t: 0, r: 0, l: 0, h: 2, g: 1, d: 8, f: 16, e: 1, w: 0, n: 0, position: 0 };
    let heads = Dims { h: 6, g: 2, d: 20, f: 40, ..base };
    let real = Dims { h: 9, g: 3, d: 64, f: 128, w: 64, ..base };
    let mut cases = vec![];
    for normalizer in [Plain, Sum, Rms] {
        for t in [1, 2, 63, 100] {
            cases.push(case(Dims { t, ..base }, normalizer, F32));
            cases.push(case(Dims { t: t.min(37), e: 16, ..base }, normalizer, F32));
        }
        cases.push(case(Dims { t: 70, ..heads }, normalizer, F32));
        cases.push(case(Dims { t: 19, e: 40, ..heads }, normalizer, F32));
    }
    for (t, r, w) in [(1, 0, 1), (1, 0, 5), (1, 3, 5), (1, 5, 5), (1, 16, 16), (7, 2, 5), (100, 0, 16), (131, 64, 64), (130, 10, 64), (65, 63, 64), (3, 0, 64), (80, 33, 33)] {
        cases.push(case(Dims { t, r, w, ..base }, Sum, F32));
        cases.push(case(Dims { t: t.min(90), r, w, ..heads }, Sum, F32));
    }
    cases.push(case(Dims { t: 40, r: 7, w: 9, e: 16, ..base }, Sum, F32));
    cases.push(case(Dims { t: 1, r: 9, w: 9, e: 16, ..base }, Sum, F32));
    for (t, r, w, sinks, position) in [(1, 0, 1, 2, 0), (1, 5, 5, 2, 6), (1, 5, 5, 4, 900), (7, 2, 5, 3, 2), (100, 0, 16, 4, 0), (131, 64, 64, 4, 65), (65, 63, 64, 1, 63), (20, 8, 8, 3, 500)] {
        cases.push(case(Dims { t, r, w, n: sinks, position, ..base }, Sum, F32));
        cases.push(case(Dims { t: t.min(90), r, w, n: sinks, position, ..heads }, Sum, F32));
    }
    // The sizes and dtypes that have kernels of their own on a GPU.
    let small = Dims { h: 3, g: 1, d: 64, f: 128, ..base };
    let large = Dims { h: 2, g: 1, d: 128, f: 256, ..base };
    for dtype in [F32, BF16, F16] {
        for (t, r, w, sinks, position) in [(1, 5, 5, 0, 9), (1, 64, 64, 4, 100), (70, 0, 5, 0, 0), (33, 16, 16, 2, 40), (150, 20, 64, 4, 20), (100, 64, 64, 3, 300), (50, 0, 64, 0, 0)] {
            cases.push(case(Dims { t, r, w, n: sinks, position, ..small }, Sum, dtype));
        }
        for (t, r, w, sinks, position) in [(1, 16, 16, 1, 50), (67, 9, 16, 2, 9), (90, 64, 64, 0, 200), (20, 130, 130, 3, 700)] {
            cases.push(case(Dims { t, r, w, n: sinks, position, ..large }, Sum, dtype));
        }
        for normalizer in [Plain, Sum, Rms] {
            cases.push(case(Dims { t: 83, h: 4, g: 2, ..small }, normalizer, dtype));
            cases.push(case(Dims { t: 23, f: 128, ..large }, normalizer, dtype));
        }
        cases.push(case(Dims { t: 19, r: 5, w: 5, e: 128, position: 5, ..small }, Sum, dtype));
        cases.push(case(Dims { t: 40, f: 64, ..small }, Sum, dtype));
        for (l, n) in [(1, base), (37, heads), (150, small), (70, large), (64, Dims { g: 2, f: 64, ..small }), (21, Dims { e: 128, ..small })] {
            cases.push(fold_case(Dims { l, ..n }, dtype));
        }
    }
    for (dtype, n, w, sinks) in [(F32, base, 5, 2), (F32, heads, 0, 0), (F32, small, 64, 4), (BF16, heads, 3, 1), (BF16, small, 16, 0), (BF16, large, 8, 3), (F16, small, 0, 0), (F16, large, 5, 1), (BF16, Dims { e: 128, ..small }, 4, 2)] {
        let at = [(3, 1 % w.max(1), 90), (0, 0, w + 7), (5, w / 2, w), (1, 0, 2.min(w)), (4, w.max(1) - 1, 1), (6, 0, 0)];
        cases.push(batch_case(Dims { w, n: sinks, ..n }, 7, &at, Sum, dtype));
    }
    cases.push(batch_case(Dims { h: 4, g: 2, ..small }, 3, &[(2, 0, 8), (0, 0, 0)], Rms, F32));
    let full: Vec<(usize, usize, usize)> = (0..32).map(|i| (i * 5 % 32, i, 100 + i)).collect();
    cases.push(Case { bench: true, ..batch_case(Dims { w: 64, n: 4, ..real }, 32, &full, Sum, BF16) });
    for (t, r, dtype) in [(1, 64, F32), (2048, 0, F32), (1, 64, BF16), (4096, 0, BF16)] {
        cases.push(case(Dims { t, r, ..real }, Sum, dtype));
    }
    cases.push(case(Dims { t: 4096, w: 64, h: 8, g: 2, ..large }, Sum, BF16));
    for (t, r, w, sinks, position) in [(2, 5, 5, 0, 9), (150, 20, 64, 4, 20), (131, 64, 64, 3, 300), (70, 0, 0, 0, 0)] {
        cases.push(rounded(case(Dims { t, r, w, n: sinks, position, ..small }, Sum, BF16)));
    }
    cases
}

/// The same with features of bf16, where a call takes them; a GPU does not.
fn rounded(case: Case) -> Case {
    let Case { run, mut inputs, .. } = case;
    let exact = |x: &Tensor, dtype| x.to_dtype(dtype).expect("features are on the host");
    (5..7).for_each(|i| inputs[i].tensor = exact(&inputs[i].tensor, BF16));
    Case {
        id: format!("{}_features", case.id),
        inputs,
        run: Box::new(move |x| {
            if x[0].device() != Device::Cpu {
                return Err(Error::Argument { op: "dsla", arg: "phi_q", got: "bf16".into(), want: "f32 on cuda".into() });
            }
            let mut x = x.to_vec();
            let ([t, _, f], [_, _, _, e]) = (x[5].view().dims("dsla", "phi_q")?, x[7].view().dims("dsla", "log_decay")?);
            if !super::rounds_features(&x[2].view(), t, f, e) {
                (x[5], x[6]) = (x[5].to_dtype(F32)?, x[6].to_dtype(F32)?);
            }
            run(&x)
        }),
        backward: None,
        ..case
    }
}

fn input(name: &'static str, tensor: Tensor) -> Input {
    Input { name, tensor }
}

fn decays(x: Tensor) -> Tensor {
    let shape = x.shape();
    Tensor::from_f32(shape, x.to_vec_f32().iter().map(|v| -v.abs()).collect())
}

/// [`super::fold`]: what is left of a pass without a window whose outputs nobody asks for.
fn fold_case(n: Dims, dtype: DType) -> Case {
    let n = Dims { t: n.l, h: n.g, r: 0, w: 0, ..n };
    let Dims { l, g, d, f, e, .. } = n;
    let mut rng = Rng::new((l * 1009 + d * 31 + e * 7 + g) as u64);
    let inputs = vec![
        input("phi_k", rng.tensor(&[l, g, f], 0.3, F32)),
        input("v", rng.tensor(&[l, g, d], 1.0, dtype)),
        input("log_decay", decays(rng.tensor(&[l, 2, g, e], 0.1, F32))),
        input("s", rng.tensor(&[2, g, f, d], 0.3, F32)),
        input("z", rng.tensor(&[2, g, f], 1.0, F32)),
    ];
    Case {
        id: format!("fold_l{l}_g{g}_d{d}_f{f}_e{e}_{dtype}"),
        inputs,
        spec: spec!(f32, |x| {
            let zero = vec![R::of(0.0); l * g * f.max(d)];
            let inputs = naive::Inputs {
                q: &zero, k: &zero, v: &x[1], sink_k: &[], sink_v: &[], phi_q: &zero, phi_k: &x[0], log_decay: &x[2], gamma: &zero[..2 * g], mix: &zero[..g], slope: &zero[..g], s: &x[3], z: &x[4],
            };
            let [_, s, z] = naive::forward(&inputs, n, Plain);
            vec![s, z]
        }),
        run: Box::new(move |x| {
            let (mut s, mut z) = (x[3].clone(), x[4].clone());
            super::fold(x[0].view(), x[1].view(), x[2].view(), State { s: s.view_mut(), z: z.view_mut() })?;
            Ok(vec![s, z])
        }),
        backward: None,
        flops: (4 * l * g * f * d) as f64,
        bytes: (4 * l * g * (f + d) + 16 * g * f * (d + 1)) as f64,
        bench: false,
    }
}

/// [`decode_batch`]: `at` is (slot, head, position) of each sequence.
fn batch_case(n: Dims, slots: usize, at: &[(usize, usize, usize)], normalizer: Normalizer, dtype: DType) -> Case {
    let n = Dims { t: 1, r: 0, l: 1, position: 0, ..n };
    let Dims { h, g, d, f, e, w, n: sinks, .. } = n;
    let b = at.len();
    let places: Vec<Place> = at.iter().map(|&(slot, head, position)| Place { slot, head, position }).collect();
    let sizes = BatchDims { b, slots, one: n };
    let mut rng = Rng::new((b * 1009 + d * 97 + w * 31 + e * 7 + h + 13 * sinks) as u64);
    let mut f32 = |shape: &[usize], scale| rng.tensor(shape, scale, F32);
    let positive = |x: Tensor| {
        let shape = x.shape();
        let n = shape.dims()[shape.dims().len() - 1] as f32;
        Tensor::from_f32(shape, x.to_vec_f32().iter().map(|v| (v.abs() + 0.01) / n).collect())
    };
    let (mut s, mut z) = (f32(&[slots, 2 * g, f, d], 0.3), positive(f32(&[slots, 2, g, f], 1.0)));
    for p in places.iter().filter(|p| p.position < w) {
        for x in [&mut s, &mut z] {
            x.zero_rows(p.slot, p.slot + 1).expect("a host tensor");
        }
    }
    let index = |f: fn(&Place) -> usize| Tensor::from_u32([b], places.iter().map(|p| f(p) as u32).collect());
    let mut inputs = vec![
        input("q", f32(&[b, h, d], 1.0)),
        input("phi_q", positive(f32(&[b, h, f], 1.0))),
        input("phi_k", positive(f32(&[b, g, f], 1.0))),
        input("log_decay", decays(f32(&[b, 2, g, e], 0.1))),
        input("gamma", positive(f32(&[2, h], 1.0))),
        input("mix", f32(&[h], 0.5)),
        input("slope", f32(&[h], 0.5)),
        input("s", s),
        input("z", z),
        input("slot", index(|p| p.slot)),
        input("head", index(|p| p.head)),
        input("position", index(|p| p.position)),
    ];
    for (name, shape) in [("k", vec![b, g, d]), ("v", vec![b, g, d]), ("sink_k", vec![slots, sinks, g, d]), ("sink_v", vec![slots, sinks, g, d]), ("ring_k", vec![slots, w, g, d]), ("ring_v", vec![slots, w, g, d])] {
        inputs.push(input(name, rng.tensor(&shape, 1.0, dtype)));
    }
    Case {
        id: format!("batch{b}_{normalizer:?}_w{w}_h{h}_g{g}_d{d}_f{f}_e{e}_n{sinks}_{dtype}").to_lowercase(),
        inputs,
        spec: spec!(f32, |x| {
            let inputs = naive::BatchInputs {
                q: &x[0], phi_q: &x[1], phi_k: &x[2], log_decay: &x[3], gamma: &x[4], mix: &x[5], slope: &x[6], k: &x[12], v: &x[13], sinks: [&x[14], &x[15]], pools: [&x[7], &x[8], &x[16], &x[17]],
            };
            naive::decode_batch(&inputs, sizes, &places, normalizer)
        }),
        run: Box::new(move |x| {
            let [q, phi_q, phi_k, log_decay, gamma, mix, slope] = std::array::from_fn(|i| x[i].view());
            let [slot, head, position, k, v, sink_k, sink_v] = std::array::from_fn(|i| x[9 + i].view());
            let args = BatchArgs { q, k, v, sink_k, sink_v, slot, head, position, phi_q, phi_k, log_decay, gamma, mix, slope, window: w, normalizer };
            let [mut s, mut z, mut ring_k, mut ring_v] = [7, 8, 16, 17].map(|i| x[i].clone());
            let mut out = Tensor::empty_on(x[0].device(), [b, h, d], F32)?;
            let pool = Pool { s: s.view_mut(), z: z.view_mut(), ring_k: ring_k.view_mut(), ring_v: ring_v.view_mut() };
            decode_batch(&args, pool, out.view_mut())?;
            Ok(vec![out, s, z, ring_k, ring_v])
        }),
        backward: None,
        flops: (b * (4 * h * w * d + 4 * (h + g) * f * d)) as f64,
        bytes: (b * (4 * (2 * h * d + h * f + g * f + 4 * g) + dtype.size() * 2 * g * d * (w + sinks + 2) + 16 * g * f * (d + 1))) as f64,
        bench: false,
    }
}

fn case(n: Dims, normalizer: Normalizer, dtype: DType) -> Case {
    let n = Dims { l: (n.r + n.t).saturating_sub(n.w), ..n };
    let Dims { t, r, l, h, g, d, f, e, w, n: sinks, position } = n;
    // The chunked form takes two passes: features and values a second time, states at chunk borders there and back.
    let chunked = if dtype != F32 && e == 1 && t > 16 { l * g * (4 * f + 2 * d) + l.div_ceil(64) * 8 * g * f * d } else { 0 };
    let mut rng = Rng::new((t * 1009 + r * 97 + w * 31 + e * 7 + h + 13 * sinks) as u64);
    let kv = [&[r + t, g, d], &[r + t, g, d], &[sinks, g, d], &[sinks, g, d]].map(|shape| rng.tensor(shape, 1.0, dtype));
    let mut f32 = |shape: &[usize], scale| rng.tensor(shape, scale, F32);
    // Features as the native map makes them: positive, summing to about one.
    let positive = |x: Tensor| {
        let shape = x.shape();
        let n = shape.dims()[shape.dims().len() - 1] as f32;
        Tensor::from_f32(shape, x.to_vec_f32().iter().map(|v| (v.abs() + 0.01) / n).collect())
    };
    let phi = |x: Tensor| if normalizer == Sum { positive(x) } else { x };
    let [k, v, sink_k, sink_v] = kv;
    let inputs = vec![
        input("q", f32(&[t, h, d], 1.0)),
        input("k", k),
        input("v", v),
        input("sink_k", sink_k),
        input("sink_v", sink_v),
        input("phi_q", phi(f32(&[t, h, f], 1.0))),
        input("phi_k", phi(f32(&[l, g, f], 1.0))),
        input("log_decay", decays(f32(&[l, 2, g, e], 0.1))),
        input("gamma", positive(f32(&[2, h], 1.0))),
        input("mix", f32(&[h], 0.5)),
        input("slope", f32(&[h], 0.5)),
        // A ring that is not full: the sequence began here, so nothing is in the states yet.
        input("s", f32(&[2, g, f, d], if r == w { 0.3 } else { 0.0 })),
        input("z", if r == w { positive(f32(&[2, g, f], 1.0)) } else { f32(&[2, g, f], 0.0) }),
    ];
    fn view(x: &[Tensor], window: usize, position: usize, normalizer: Normalizer) -> Args<'_> {
        let [q, k, v, sink_k, sink_v, phi_q, phi_k, log_decay, gamma, mix, slope] = std::array::from_fn(|i| x[i].view());
        Args { q, k, v, sink_k, sink_v, position, phi_q, phi_k, log_decay, gamma, mix, slope, window, normalizer }
    }
    Case {
        id: format!("{normalizer:?}_t{t}_r{r}_w{w}_h{h}_g{g}_d{d}_f{f}_e{e}_n{sinks}_p{position}_{dtype}").to_lowercase(),
        inputs,
        spec: spec!(f32, |x| {
            let inputs = naive::Inputs {
                q: &x[0], k: &x[1], v: &x[2], sink_k: &x[3], sink_v: &x[4], phi_q: &x[5], phi_k: &x[6], log_decay: &x[7], gamma: &x[8], mix: &x[9], slope: &x[10], s: &x[11], z: &x[12],
            };
            naive::forward(&inputs, n, normalizer).into()
        }),
        run: Box::new(move |x| {
            let (mut s, mut z) = (x[11].clone(), x[12].clone());
            let mut out = Tensor::empty_on(x[0].device(), [t, h, d], DType::F32)?;
            forward(&view(x, w, position, normalizer), State { s: s.view_mut(), z: z.view_mut() }, None, out.view_mut())?;
            Ok(vec![out, s, z])
        }),
        backward: Some(Box::new(move |x, d_outs| {
            let a = view(x, w, position, normalizer);
            let (mut s, mut z) = (x[11].clone(), x[12].clone());
            let mut out = Tensor::empty_on(x[0].device(), [t, h, d], DType::F32)?;
            let (mut den, mut peak) = (Tensor::empty_on(x[0].device(), [t, h], DType::F32)?, Tensor::empty_on(x[0].device(), [t, h], DType::F32)?);
            let saved = Saved { den: den.view_mut(), peak: peak.view_mut() };
            forward(&a, State { s: s.view_mut(), z: z.view_mut() }, Some(saved), out.view_mut())?;
            let empty = |x: &Tensor| Tensor::empty_on(x.device(), x.shape(), DType::F32);
            let mut g = x.iter().map(empty).collect::<crate::Result<Vec<Tensor>>>()?;
            for i in [8, 9, 10] {
                g[i] = Tensor::zeros_on(x[0].device(), x[i].shape(), DType::F32)?;
            }
            (g[11], g[12]) = (d_outs[1].clone(), d_outs[2].clone());
            let mut views = g.iter_mut().map(Tensor::view_mut);
            let mut next = || views.next().expect("thirteen gradients");
            let qkv = [next(), next(), next(), next(), next()];
            let grads = Grads {
                phi_q: next(), phi_k: next(), log_decay: next(), gamma: next(), mix: next(), slope: next(), s: next(), z: next(), qkv: Some(qkv),
            };
            backward(&a, x[11].view(), x[12].view(), den.view(), peak.view(), out.view(), d_outs[0].view(), grads)?;
            Ok(g.into_iter().enumerate().map(|(i, g)| (i < 11 || r == w).then_some(g)).collect())
        })),
        // Per query head and token: window 2 W D twice, states 2 F D per state to write (per group) and to read.
        flops: t as f64 * (h as f64 * (4 * w * d) as f64 + (h + g) as f64 * (4 * f * d) as f64),
        bytes: (4 * t * (2 * h * d + h * f) + 4 * l * g * (f + 2 * e) + dtype.size() * 2 * g * d * (r + t + sinks) + 16 * g * f * (d + 1) + chunked) as f64,
        bench: h == 9 || t >= 2048,
    }
}
