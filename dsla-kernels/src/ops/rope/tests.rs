use super::*;
use crate::case::Rng;
use crate::{DType, Tensor};

#[test]
fn positions_beyond_the_table_are_refused() {
    let table = Table::new(&[1.0, 0.1], 4, 1.0);
    let mut x = Tensor::zeros([2, 1, 4], DType::F32);
    let p = Tensor::from_u32([2], vec![3, 4]);
    let e = forward(x.view_mut(), p.view(), &table, false).unwrap_err();
    assert_eq!(e.to_string(), "rope: positions: got 4 at 1, want less than 4");
}

#[test]
fn heads_of_another_size_are_refused() {
    let table = Table::new(&[1.0, 0.1], 4, 1.0);
    let p = Tensor::from_u32([1], vec![0]);
    for shape in [&[1, 1, 6][..], &[1, 4]] {
        let mut x = Tensor::zeros(shape, DType::F32);
        let e = forward(x.view_mut(), p.view(), &table, false).unwrap_err();
        assert!(matches!(e, Error::Shape { arg: "x", .. }), "{e}");
    }
}

#[test]
fn rotating_back_gives_the_input() {
    for scale in [1.0, 1.3] {
        let table = Table::new(&[1.0, 0.3, 0.01], 100, scale);
        let mut rng = Rng::new(3);
        let x = rng.tensor(&[5, 2, 6], 1.0, DType::F32);
        let p = rng.indices(&[5], 100);
        let mut y = x.clone();
        forward(y.view_mut(), p.view(), &table, false).unwrap();
        assert!(x.f32().iter().zip(y.f32()).any(|(a, b)| (a - b).abs() > 0.1));
        forward(y.view_mut(), p.view(), &table, true).unwrap();
        for (a, b) in x.f32().iter().zip(y.f32()) {
            assert!((a - b).abs() < 2e-6, "scale {scale}: got {b}, want {a}");
        }
    }
}

#[test]
fn angles_are_f32_products() {
    // The f32 product differs from the f64 one by far more than the last bit of a cosine.
    let table = Table::new(&[0.3], 12_346, 1.0);
    let want = ((0.3f32 * 12_345.0f32) as f64).cos() as f32;
    assert_eq!(table.cos.f32()[12_345], want);
    assert_ne!(want, (0.3f64 * 12_345.0).cos() as f32);
}
