//! What the row-wise ops promise on a device beyond their cases: indices nobody checked, masked and unfit logits, views
//! at any element, ties, batches.

mod common;
#[path = "common/cuda.rs"]
mod cuda;
use common::*;
use cuda::Driver;
use dsla_kernels::case::Rng;
use dsla_kernels::ops::{copy, cross_entropy, embedding, kl_div, rms_norm, rope, sample};
use dsla_kernels::{DType, Device, Error, Slice, Tensor};
use ptxsim_cuda::Options;

const GPU: Device = Device::Cuda(0);
const INF: f32 = f32::INFINITY;

fn fake() -> Driver {
    Driver::install(&Options { perturb: Some(5), schedule: 5, reorder: 5, ..Options::default() })
}

fn there(t: Tensor) -> Tensor {
    t.to_device(GPU).unwrap()
}

fn f32s(t: &Tensor) -> Vec<f32> {
    t.to_device(Device::Cpu).unwrap().to_vec_f32()
}

fn row(x: &[f32]) -> Tensor {
    there(Tensor::from_f32([1, x.len()], x.to_vec()))
}

#[test]
fn indices_past_the_end_give_nan_or_are_left_out() {
    let (_lock, _fake) = (serial(), fake());
    let ids = there(Tensor::from_u32([3], vec![1, 7, 0]));
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let table = there(Rng::new(1).tensor(&[2, 5], 1.0, dtype));
        let mut y = Tensor::empty_on(GPU, [3, 5], DType::F32).unwrap();
        embedding::forward(table.view(), ids.view(), y.view_mut()).unwrap();
        let (y, table) = (f32s(&y), f32s(&table));
        assert_eq!(y[..5], table[5..]);
        assert!(y[5..10].iter().all(|v| v.is_nan()));
        assert_eq!(y[10..], table[..5]);

        let mut z = Tensor::empty_on(GPU, [3, 4], dtype).unwrap();
        let x = there(Rng::new(2).tensor(&[2, 4], 1.0, dtype));
        copy::gather(x.view(), ids.view(), z.view_mut()).unwrap();
        let z = f32s(&z);
        assert_eq!(z[..4], f32s(&x)[4..]);
        assert!(z[4..8].iter().all(|v| v.is_nan()));
        let mut y = Tensor::zeros_on(GPU, [2, 4], dtype).unwrap();
        let x = there(Rng::new(3).tensor(&[3, 4], 1.0, dtype));
        copy::scatter(x.view(), ids.view(), y.view_mut()).unwrap();
        let (x, y) = (f32s(&x), f32s(&y));
        assert_eq!((&y[4..], &y[..4]), (&x[..4], &x[8..]));
    }

    let dy = there(Tensor::from_f32([3, 1], vec![1.0, 2.0, 4.0]));
    let mut dtable = there(Tensor::from_f32([2, 1], vec![10.0, 20.0]));
    embedding::backward(ids.view(), dy.view(), dtable.view_mut()).unwrap();
    assert_eq!(f32s(&dtable), [14.0, 21.0]);

    let table = rope::Table::new(&[1.0, 0.1], 4, 1.0).to_device(GPU).unwrap();
    let mut x = Tensor::zeros_on(GPU, [2, 3, 4], DType::F32).unwrap();
    let p = there(Tensor::from_u32([2], vec![3, 4]));
    rope::forward(x.view_mut(), p.view(), &table, false).unwrap();
    let x = f32s(&x);
    assert!(x[..12].iter().all(|v| *v == 0.0) && x[12..].iter().all(|v| v.is_nan()));

    let logits = Tensor::zeros_on(GPU, [3, 2], DType::F32).unwrap();
    let mut loss = Tensor::empty_on(GPU, [3], DType::F32).unwrap();
    cross_entropy::forward(logits.view(), ids.view(), loss.view_mut()).unwrap();
    let loss = f32s(&loss);
    assert!(loss[1].is_nan() && (loss[0] - 2f32.ln()).abs() < 1e-6 && loss[0] == loss[2]);
}

#[test]
fn indices_on_the_host_are_checked() {
    let (_lock, _fake) = (serial(), fake());
    let ids = Tensor::from_u32([2], vec![0, 2]);
    let x = Tensor::zeros_on(GPU, [2, 2], DType::F32).unwrap();
    let mut y = Tensor::zeros_on(GPU, [2, 2], DType::F32).unwrap();
    let refused = |e: Error| assert!(e.to_string().ends_with("got 2 at 1, want less than 2"), "{e}");
    refused(embedding::forward(x.view(), ids.view(), y.view_mut()).unwrap_err());
    refused(embedding::backward(ids.view(), x.view(), y.view_mut()).unwrap_err());
    let mut loss = Tensor::zeros_on(GPU, [2], DType::F32).unwrap();
    refused(cross_entropy::forward(x.view(), ids.view(), loss.view_mut()).unwrap_err());
    let host = rope::Table::new(&[1.0], 2, 1.0);
    let mut x = Tensor::zeros_on(GPU, [2, 1, 2], DType::F32).unwrap();
    refused(rope::forward(x.view_mut(), ids.view(), &host.to_device(GPU).unwrap(), false).unwrap_err());
    let e = rope::forward(x.view_mut(), Tensor::from_u32([2], vec![0, 1]).view(), &host, false).unwrap_err();
    assert_eq!(e.to_string(), "rope: table: got device cpu, want cuda:0");
}

#[test]
fn masked_logits_count_for_nothing() {
    let (_lock, _fake) = (serial(), fake());
    let target = there(Tensor::from_u32([1], vec![2]));
    let x = row(&[1e30, -INF, 1e30]);
    let mut loss = Tensor::empty_on(GPU, [1], DType::F32).unwrap();
    cross_entropy::forward(x.view(), target.view(), loss.view_mut()).unwrap();
    assert!((f32s(&loss)[0] - 2f32.ln()).abs() < 1e-6);
    let mut dx = Tensor::empty_on(GPU, [1, 3], DType::F32).unwrap();
    let one = there(Tensor::from_f32([1], vec![1.0]));
    cross_entropy::backward(x.view(), target.view(), one.view(), dx.view_mut()).unwrap();
    assert_eq!(f32s(&dx), [0.5, 0.0, -0.5]);
    for unfit in [[f32::NAN, 0.0, 0.0], [INF, 0.0, 0.0], [-INF; 3]] {
        cross_entropy::forward(row(&unfit).view(), target.view(), loss.view_mut()).unwrap();
        assert!(f32s(&loss)[0].is_nan(), "{unfit:?}");
    }

    let kl = |t: &[f32], s: &[f32]| {
        let mut out = Tensor::empty_on(GPU, [1], DType::F32).unwrap();
        kl_div::forward(row(t).view(), row(s).view(), out.view_mut()).unwrap();
        f32s(&out)[0]
    };
    assert_eq!(kl(&[0.0, -INF], &[0.0, -INF]), 0.0);
    assert!((kl(&[0.0, -INF], &[0.0, 0.0]) - 2f32.ln()).abs() < 1e-6);
    assert_eq!(kl(&[0.0, 0.0], &[0.0, -INF]), INF);
    assert!(kl(&[0.0, f32::NAN], &[0.0, 0.0]).is_nan());
    let t = Rng::new(5).tensor(&[1, 1000], 3.0, DType::F32);
    assert_eq!(kl(t.f32(), t.f32()), 0.0);
}

#[test]
fn agreement_is_that_of_the_host() {
    let (_lock, _fake) = (serial(), fake());
    let mut rng = Rng::new(9);
    for v in [3, 300, 1000] {
        // Whole numbers: many ties.
        let mut make =
            || Tensor::from_f32([20, v], (0..20 * v).map(|_| (2.0 * rng.normal()).round() as f32).collect());
        let (a, mut b) = (make(), make());
        b.f32_mut()[..10 * v].copy_from_slice(&a.f32()[..10 * v]);
        b.f32_mut()[..v].fill(f32::NAN);
        let want = kl_div::agree(a.view(), b.view()).unwrap();
        assert_eq!(kl_div::agree(there(a).view(), there(b).view()).unwrap(), want);
    }
}

#[test]
fn close_distributions_keep_their_digits() {
    let (_lock, _fake) = (serial(), fake());
    let mut rng = Rng::new(5);
    let t = rng.tensor(&[1, 1000], 3.0, DType::F32);
    for distance in [1e-2, 1e-3, 1e-4] {
        let n = rng.tensor(&[1, 1000], distance, DType::F32);
        let s: Vec<f32> = t.f32().iter().zip(n.f32()).map(|(a, b)| a + b).collect();
        let f64s = |x: &[f32]| x.iter().map(|&v| v as f64).collect::<Vec<_>>();
        let want = kl_div::naive::forward(&f64s(t.f32()), &f64s(&s), 1000)[0];
        let mut out = Tensor::empty_on(GPU, [1], DType::F32).unwrap();
        kl_div::forward(there(t.clone()).view(), row(&s).view(), out.view_mut()).unwrap();
        let got = f32s(&out)[0] as f64;
        assert!((got - want).abs() < 2e-3 * want, "distance {distance}: got {got:e}, want {want:e}");
    }
}

#[test]
fn unfit_logits_are_refused() {
    let (_lock, _fake) = (serial(), fake());
    for x in
        [vec![], vec![f32::NAN], vec![0.0, f32::NAN, 1.0], vec![f32::NAN; 100], vec![INF, 0.0], vec![-INF; 2]]
    {
        for params in [
            sample::Params { temperature: 0.0, ..Default::default() },
            sample::Params::default(),
            sample::Params { top_k: 1, top_p: 0.5, ..Default::default() },
        ] {
            let logits = there(Tensor::from_f32([x.len()], x.clone()));
            let e = sample::forward(logits.view(), &params, 0).unwrap_err();
            assert!(matches!(e, Error::Argument { arg: "logits", .. }), "{x:?}: {e}");
        }
    }
}

/// Many equal logits, masked ones, zeros of both signs: the device takes the token the host takes.
#[test]
fn samples_are_those_of_the_host() {
    let (_lock, _fake) = (serial(), fake());
    let mut rng = Rng::new(17);
    let (b, v) = (12, 700);
    for coarse in [0.5, 4.0] {
        let x: Vec<f32> = (0..b * v)
            .map(|i| match i % 7 {
                0 => -INF,
                1 => -0.0,
                2 => 0.0,
                _ => ((coarse * rng.normal()).round() / coarse) as f32,
            })
            .collect();
        let x = Tensor::from_f32([b, v], x);
        for round in 0..3 {
            let params: Vec<sample::Params> = (0..b)
                .map(|i| sample::Params {
                    temperature: [1.0, 0.0, 2.0, 0.3][i % 4],
                    top_k: [0, 1, 7, 50, 698, 1000][(i + round) % 6],
                    top_p: [1.0, 0.9, 0.5, 0.01, 0.999][(i + 2 * round) % 5],
                    min_p: [0.0, 0.3, 0.01][(i / 2 + round) % 3],
                    seed: i as u64,
                })
                .collect();
            let indices: Vec<u64> = (0..b as u64).map(|i| i * 31 + round as u64).collect();
            let want = sample::forward_batch(x.view(), &params, &indices).unwrap();
            let there = there(x.clone());
            let got = sample::forward_batch(there.view(), &params, &indices).unwrap();
            assert_eq!(got, want, "coarse {coarse} round {round}: {params:#?}");
            // A row alone gives what it gives in the batch, at an address that is aligned to nothing.
            let alone = sample::forward(there.rows(5, 6).reshape([v]), &params[5], indices[5]).unwrap();
            assert_eq!(alone, want[5]);
            let host = sample::top_logprobs(x.rows(3, 4).reshape([v]), 9, 5).unwrap();
            assert_eq!(sample::top_logprobs(there.rows(3, 4).reshape([v]), 9, 5).unwrap(), host);
        }
    }
}

/// A cache that grows row by row, of an odd row length: views at every element.
#[test]
fn views_start_at_any_element() {
    let (_lock, _fake) = (serial(), fake());
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::U32] {
        let mut rng = Rng::new(3);
        let make = |rng: &mut Rng, n: usize| match dtype {
            DType::U32 => rng.indices(&[n, 7], 1000),
            _ => rng.tensor(&[n, 7], 1.0, dtype),
        };
        let mut host = make(&mut rng, 0);
        let mut device = there(host.clone());
        for n in [1, 2, 5, 40] {
            let rows = make(&mut rng, n);
            host.extend(rows.view()).unwrap();
            device.extend(there(rows).view()).unwrap();
        }
        let back = device.to_device(Device::Cpu).unwrap();
        match (host.view().slice(), back.view().slice()) {
            (Slice::U32(a), Slice::U32(b)) => assert_eq!(a, b),
            _ => assert_eq!(host.to_vec_f32(), back.to_vec_f32()),
        }
        let part = device.rows(3, 11).to_tensor().unwrap();
        assert_eq!(f32s(&part), host.rows(3, 11).to_tensor().unwrap().to_vec_f32());
    }
}

#[test]
fn parameter_gradients_are_added() {
    let (_lock, _fake) = (serial(), fake());
    let mut rng = Rng::new(4);
    let x = rng.tensor(&[5, 40], 1.0, DType::F32);
    let (w, dy) = (rng.tensor(&[40], 1.0, DType::F32), rng.tensor(&[5, 40], 1.0, DType::F32));
    let run = |device: Device| {
        let at = |t: &Tensor| t.to_device(device).unwrap();
        let mut dx = Tensor::empty_on(device, [5, 40], DType::F32).unwrap();
        let mut dw = at(&Tensor::from_f32([40], vec![100.0; 40]));
        let (x, w, dy) = (at(&x), at(&w), at(&dy));
        rms_norm::backward(x.view(), w.view(), 1e-5, dy.view(), dx.view_mut(), Some(dw.view_mut())).unwrap();
        // Without dw nothing else changes.
        let mut alone = Tensor::empty_on(device, [5, 40], DType::F32).unwrap();
        rms_norm::backward(x.view(), w.view(), 1e-5, dy.view(), alone.view_mut(), None).unwrap();
        assert_eq!(f32s(&alone), f32s(&dx));
        f32s(&dw)
    };
    for (a, b) in run(Device::Cpu).iter().zip(run(GPU)) {
        assert!((a - b).abs() < 1e-4 && (a - 100.0).abs() < 20.0, "got {b}, want {a}");
    }
}
