//! Products with quantised weights, on every instruction set this machine has: what the case table does not say.

mod common;
use common::*;
use dsla_kernels::case::Rng;
use dsla_kernels::ops::linear::{Into, Packed, Quant, forward};
use dsla_kernels::{DType, Tensor, f16, simd};

fn at_every_level(f: impl Fn()) {
    let _lock = serial();
    for level in levels() {
        assert_eq!(simd::force(level), level);
        f();
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    at_every_level(a_row_does_not_depend_on_its_batch_here);
}

fn a_row_does_not_depend_on_its_batch_here() {
    // Wide enough for tasks of four panels, and of fewer at the edge.
    let (most, n, k) = (70, 1_110, 96);
    let mut rng = Rng::new(5);
    let x = rng.tensor(&[most, k], 1.0, DType::F32);
    let w = rng.tensor(&[n, k], 0.1, DType::F32);
    for quant in Quant::ALL {
        let w = Packed::quantised(w.view(), quant).unwrap();
        let product = |first: usize, rows: usize| {
            let mut y = Tensor::empty([rows, n], DType::F32);
            forward(x.rows(first, first + rows), &w, None, Into::Store, y.view_mut()).unwrap();
            y.f32().to_vec()
        };
        let all = product(0, most);
        for (first, rows) in [(0, 1), (7, 2), (3, 3), (11, 4), (1, 7), (5, 13), (2, 33)] {
            assert!(
                product(first, rows) == all[first * n..(first + rows) * n],
                "{quant}: {rows} rows from {first}"
            );
        }
    }
}

/// The largest products there are, in every sign: nothing saturates on the way.
#[test]
fn extremes_do_not_saturate() {
    at_every_level(extremes_do_not_saturate_here);
}

fn extremes_do_not_saturate_here() {
    let (n, k) = (16, 64);
    for (sx, sw) in [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)] {
        let x = Tensor::from_f32([1, k], vec![sx * 127.0; k]);
        for quant in Quant::ALL {
            // Bytes of all ones or all zeros are the ends of every format; -128 is no weight ggml makes, but a file may.
            for byte in [0x00u8, 0xff, 0x7f, 0x80, 0x81] {
                let mut block = f16::from_f32(sw).to_le_bytes().to_vec();
                if quant == Quant::Q4_1 {
                    block.extend(f16::from_f32(-3.0).to_le_bytes());
                }
                block.resize(quant.block_bytes(), byte);
                let w = Packed::from_blocks(quant, &block.repeat(n * k / 32), n, k).unwrap();
                let mut row = vec![0.0; k];
                w.row(0, &mut row);
                let want: f32 = row.iter().map(|w| w * sx * 127.0).sum();
                let mut y = Tensor::empty([1, n], DType::F32);
                forward(x.view(), &w, None, Into::Store, y.view_mut()).unwrap();
                assert!(
                    y.f32().iter().all(|&y| y == want),
                    "{quant} {byte:#x}: got {:?}, want {want}",
                    y.f32()
                );
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    at_every_level(what_is_not_finite_stays_so_here);
}

fn what_is_not_finite_stays_so_here() {
    let w = Packed::quantised(Rng::new(1).tensor(&[20, 64], 1.0, DType::F32).view(), Quant::Q8_0).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![0.5; 128];
        x[40] = bad;
        let mut y = Tensor::empty([2, 20], DType::F32);
        forward(Tensor::from_f32([2, 64], x).view(), &w, None, Into::Store, y.view_mut()).unwrap();
        assert!(y.f32()[..20].iter().all(|v| !v.is_finite()), "{bad}: {:?}", y.f32());
        assert!(y.f32()[20..].iter().all(|v| v.is_finite()), "the other row");
    }
    // Tiny values count as zero.
    let x = Tensor::from_f32([1, 64], vec![1e-40; 64]);
    let mut y = Tensor::empty([1, 20], DType::F32);
    forward(x.view(), &w, None, Into::Store, y.view_mut()).unwrap();
    assert!(y.f32().iter().all(|&v| v == 0.0));
}
