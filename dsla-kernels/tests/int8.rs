//! A cache of bytes: attention over it is attention over what the bytes stand for.

mod common;
use common::*;
use dsla_kernels::case::Rng;
use dsla_kernels::ops::softmax_attention::{Int8Rows, forward, forward_int8};
use dsla_kernels::{DType, Device, Error, Tensor, simd};

fn rows(x: &Tensor, cut: usize) -> Int8Rows {
    let mut rows = Int8Rows::new(x.dims()[1], x.dims()[2]);
    rows.extend(x.rows(0, cut)).unwrap();
    rows.extend(x.rows(cut, x.dims()[0])).unwrap();
    rows
}

#[test]
fn attention_is_that_over_what_the_bytes_stand_for() {
    let _lock = serial();
    let mut rng = Rng::new(3);
    for [t, s, h, g, d] in [
        [1, 1, 1, 1, 8],
        [1, 300, 9, 3, 64],
        [5, 70, 4, 2, 20],
        [1, 515, 10, 2, 64],
        [40, 130, 6, 3, 64],
        [17, 17, 2, 1, 31],
        [1, 64, 2, 2, 128],
    ] {
        let mut draw = |n, heads| rng.tensor(&[n, heads, d], 1.0, DType::F32);
        let (q, k, v) = (draw(t, h), draw(s, g), draw(s, g));
        let (k, v) = (rows(&k, s / 3), rows(&v, s / 2));
        assert_eq!((k.len(), k.bytes()), (s, s * g * (d.next_multiple_of(32) + 4)));
        for level in levels() {
            simd::force(level);
            let (mut got, mut want) =
                (Tensor::empty([t, h, d], DType::F32), Tensor::empty([t, h, d], DType::F32));
            forward_int8(q.view(), &[&k], &[&v], got.view_mut()).unwrap();
            forward(q.view(), k.to_tensor().view(), v.to_tensor().view(), want.view_mut()).unwrap();
            let worst = got.f32().iter().zip(want.f32()).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst < 2e-6, "{level:?} t{t} s{s} h{h} g{g} d{d}: {worst}");
        }
        simd::force(*dsla_kernels::simd::LEVELS.last().unwrap());
    }
}

#[test]
fn a_byte_is_within_half_a_step() {
    let mut rng = Rng::new(9);
    let x = rng.tensor(&[50, 3, 40], 2.0, DType::F32);
    let back = rows(&x, 20).to_tensor();
    for (x, y) in x.f32().chunks_exact(40).zip(back.f32().chunks_exact(40)) {
        let step = x.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
        assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() <= step * 0.5001), "{x:?} {y:?}");
    }
    let zero = rows(&Tensor::zeros([2, 1, 8], DType::F32), 1).to_tensor();
    assert!(zero.f32().iter().all(|x| *x == 0.0));
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = Tensor::zeros([2, 3, 8], DType::F32);
    let mut rows = Int8Rows::new(3, 8);
    assert!(rows.is_empty());
    assert!(matches!(rows.extend(Tensor::zeros([2, 3, 9], DType::F32).view()), Err(Error::Shape { .. })));
    assert!(matches!(rows.extend(Tensor::zeros([2, 3, 8], DType::BF16).view()), Err(Error::DType { .. })));
    assert!(rows.is_empty(), "a refusal leaves it as it was");
    rows.extend(x.view()).unwrap();
    let mut out = Tensor::zeros([3, 3, 8], DType::F32);
    let q = Tensor::zeros([3, 3, 8], DType::F32);
    assert!(
        matches!(forward_int8(q.view(), &[&rows], &[&rows], out.view_mut()), Err(Error::Argument { .. })),
        "3 of 2"
    );
    let other = Int8Rows::new(3, 8);
    assert!(matches!(
        forward_int8(x.view(), &[&rows], &[&other], out.view_mut()),
        Err(Error::Argument { .. })
    ));
    assert_eq!(q.device(), Device::Cpu);
}
