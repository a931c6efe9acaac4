//! A row's product is the same, bit for bit, in every batch (on the GPU in every one of up to 16 rows, f32: 8, and in every
//! larger one): what a sequence generates must not depend on what else the engine decodes.

mod common;
#[path = "common/cuda.rs"]
mod cuda;
use common::*;
use cuda::*;
use dsla_kernels::case::Rng;
use dsla_kernels::ops::linear::{self, Into, Packed};
use dsla_kernels::{DType, Device, Tensor, simd};
use ptxsim_cuda::Options;

#[test]
fn nor_does_it_on_the_cpu() {
    let _lock = serial();
    let most = 131;
    let mut rng = Rng::new(7);
    for (n, k) in [(48, 33), (100, 96), (33, 576), (100, 1300)] {
        let (x, old) = (rng.tensor(&[most, k], 1.0, DType::F32), rng.tensor(&[most, n], 1.0, DType::F32));
        let bias = rng.tensor(&[n], 1.0, DType::F32);
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let w = Packed::new(rng.tensor(&[n, k], 0.1, dtype).view()).unwrap();
            for (into, with) in
                [(Into::Store, false), (Into::Add, false), (Into::Store, true), (Into::Add, true)]
            {
                let product = |first: usize, rows: usize| {
                    let mut y =
                        Tensor::from_f32([rows, n], old.f32()[first * n..(first + rows) * n].to_vec());
                    let bias = with.then(|| bias.view());
                    linear::forward(x.rows(first, first + rows), &w, bias, into, y.view_mut()).unwrap();
                    y.f32().to_vec()
                };
                let all = product(0, most);
                for (first, rows) in [(0, 1), (7, 1), (0, 3), (5, 8), (0, 17), (0, 23), (1, 24), (3, 70)] {
                    let want = &all[first * n..(first + rows) * n];
                    assert!(
                        product(first, rows) == want,
                        "{dtype} {n}x{k}: {rows} rows from {first}, {into:?}, bias {with}"
                    );
                }
            }
        }
    }
}

#[test]
fn nor_do_gated_rows() {
    let _lock = serial();
    let (most, f, k) = (131, 48, 96);
    let mut rng = Rng::new(9);
    let w = Packed::new(rng.tensor(&[2 * f, k], 0.1, DType::BF16).view()).unwrap();
    let x = rng.tensor(&[most, k], 1.0, DType::BF16);
    for level in levels() {
        simd::force(level);
        for dtype in [DType::BF16, DType::F32] {
            let gated = |first: usize, rows: usize| {
                let mut y = Tensor::empty([rows, f], dtype);
                linear::forward_swiglu(x.rows(first, first + rows), &w, y.view_mut()).unwrap();
                y.to_vec_f32()
            };
            let all = gated(0, most);
            for (first, rows) in [(0, 1), (7, 1), (5, 8), (0, 17), (1, 33), (3, 70)] {
                let want = &all[first * f..(first + rows) * f];
                assert!(gated(first, rows) == want, "{level:?} {dtype}: {rows} rows from {first}");
            }
        }
    }
    simd::force(*simd::LEVELS.last().unwrap());
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let _lock = serial();
    let _driver = Driver::install(&Options::default());
    let device = Device::Cuda(0);
    let (most, n, k) = (131, 100, 290);
    let mut rng = Rng::new(5);
    let x = rng.tensor(&[most, k], 1.0, DType::F32).to_device(device).unwrap();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let w = rng.tensor(&[n, k], 0.1, dtype).to_device(device).unwrap();
        let w = Packed::new(w.view()).unwrap();
        let product = |first: usize, rows: usize| {
            let mut y = Tensor::empty_on(device, [rows, n], DType::F32).unwrap();
            linear::forward(x.rows(first, first + rows), &w, None, Into::Store, y.view_mut()).unwrap();
            y.to_device(Device::Cpu).unwrap().f32().to_vec()
        };
        let few = if dtype == DType::F32 { 8 } else { 16 };
        for sizes in [vec![1, 2, 5, few], vec![few + 1, 64, 65, most]] {
            let all = product(0, *sizes.last().unwrap());
            for &rows in &sizes {
                assert!(product(0, rows) == all[..rows * n], "{dtype}: {rows} rows of {}", all.len() / n);
            }
            // And not on the place in it.
            let rows = sizes[0];
            assert!(product(1, rows) == all[n..(rows + 1) * n], "{dtype}: {rows} rows from the second on");
        }
    }
}

#[test]
fn sixteen_bits_in_and_out_are_the_rounding_of_f32() {
    let _lock = serial();
    let _driver = Driver::install(&Options::default());
    let device = Device::Cuda(0);
    let mut rng = Rng::new(6);
    // Rows that kernels read as they are, and rows that are padded first.
    for (n, k) in [(66, 64), (50, 37)] {
        let x = rng.tensor(&[70, k], 1.0, DType::F32).to_device(device).unwrap();
        for dtype in [DType::BF16, DType::F16] {
            let w = rng.tensor(&[n, k], 0.3, dtype).to_device(device).unwrap();
            let w = Packed::new(w.view()).unwrap();
            let narrow = x.to_dtype(dtype).unwrap();
            for rows in [1, 7, 70] {
                let run = |x: &Tensor| {
                    let mut y = Tensor::empty_on(device, [rows, n], DType::F32).unwrap();
                    linear::forward(x.rows(0, rows), &w, None, Into::Store, y.view_mut()).unwrap();
                    y.to_device(Device::Cpu).unwrap().f32().to_vec()
                };
                assert_eq!(run(&x), run(&narrow), "{dtype}: {rows} rows of {k}");
                let swiglu = |x: &Tensor, to| {
                    let mut y = Tensor::empty_on(device, [rows, n / 2], to).unwrap();
                    linear::forward_swiglu(x.rows(0, rows), &w, y.view_mut()).unwrap();
                    y.to_device(Device::Cpu).unwrap()
                };
                let wide = swiglu(&x, DType::F32).to_dtype(dtype).unwrap();
                let got = swiglu(&narrow, dtype);
                assert_eq!(wide.to_vec_f32(), got.to_vec_f32(), "{dtype}: SwiGLU, {rows} rows of {k}");
            }
        }
    }
}
