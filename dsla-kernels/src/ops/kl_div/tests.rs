use super::*;
use crate::case::Rng;
use crate::{DType, Tensor};

fn kl(teacher: &[f32], student: &[f32]) -> f32 {
    let mut out = Tensor::empty([1], DType::F32);
    let shape = [1, teacher.len()];
    forward(View::from_f32(shape, teacher), View::from_f32(shape, student), out.view_mut()).unwrap();
    out.f32()[0]
}

#[test]
fn masked_tokens() {
    let inf = f32::NEG_INFINITY;
    assert_eq!(kl(&[0.0, inf], &[0.0, inf]), 0.0);
    assert!((kl(&[0.0, inf], &[0.0, 0.0]) - 2.0f32.ln()).abs() < 1e-6);
    assert_eq!(kl(&[0.0, 0.0], &[0.0, inf]), f32::INFINITY);
    assert!(kl(&[0.0, f32::NAN], &[0.0, 0.0]).is_nan());
}

#[test]
fn close_distributions_keep_their_digits() {
    let mut rng = Rng::new(5);
    let t = rng.tensor(&[1, 1000], 3.0, DType::F32);
    for distance in [1e-2, 1e-3, 1e-4] {
        let n = rng.tensor(&[1, 1000], distance, DType::F32);
        let s: Vec<f32> = t.f32().iter().zip(n.f32()).map(|(a, b)| a + b).collect();
        let f64s = |x: &[f32]| x.iter().map(|&v| v as f64).collect::<Vec<_>>();
        let want = naive::forward(&f64s(t.f32()), &f64s(&s), 1000)[0];
        let got = kl(t.f32(), &s) as f64;
        // At 1e-4 the divergence is 5e-9: a plain f32 sum has no digit of it left.
        assert!((got - want).abs() < 2e-3 * want, "distance {distance}: got {got:e}, want {want:e}");
    }
    assert_eq!(kl(t.f32(), t.f32()), 0.0);
}

#[test]
fn agreement_counts_rows_and_breaks_ties_low() {
    let a = Tensor::from_f32([3, 3], vec![0., 2., 2., 5., 0., 0., 0., 0., 1.]);
    let b = Tensor::from_f32([3, 3], vec![0., 9., 8., 1., 2., 0., 0., 0., 3.]);
    assert_eq!(agree(a.view(), b.view()).unwrap(), 2);
    let none = Tensor::zeros([3, 0], DType::F32);
    assert!(agree(none.view(), none.view()).is_err());
}
