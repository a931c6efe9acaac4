use super::*;
use crate::{DType, Tensor};

#[test]
fn targets_beyond_the_vocabulary_are_refused() {
    let x = Tensor::zeros([1, 3], DType::F32);
    let target = Tensor::from_u32([1], vec![3]);
    let mut loss = Tensor::zeros([1], DType::F32);
    let e = forward(x.view(), target.view(), loss.view_mut()).unwrap_err();
    assert_eq!(e.to_string(), "cross_entropy: targets: got 3 at 0, want less than 3");
}

#[test]
fn masked_logits_count_for_nothing() {
    let x = Tensor::from_f32([1, 3], vec![1e30, f32::NEG_INFINITY, 1e30]);
    let target = Tensor::from_u32([1], vec![2]);
    let mut loss = Tensor::zeros([1], DType::F32);
    forward(x.view(), target.view(), loss.view_mut()).unwrap();
    assert!((loss.f32()[0] - 2.0f32.ln()).abs() < 1e-6);
    let mut dx = Tensor::zeros([1, 3], DType::F32);
    let dloss = Tensor::from_f32([1], vec![1.0]);
    backward(x.view(), target.view(), dloss.view(), dx.view_mut()).unwrap();
    assert_eq!(dx.f32(), [0.5, 0.0, -0.5]);
}

#[test]
fn argmax_takes_the_lowest_of_equals_and_survives_nan() {
    assert_eq!(rows::argmax(&[1.0, 3.0, 3.0]), 1);
    assert_eq!(rows::argmax(&[f32::NAN, 1.0, 2.0]), 2);
    assert_eq!(rows::argmax(&[f32::NAN; 40]), 0);
}
