use super::*;
use crate::Tensor;

#[test]
fn the_mean_of_each_column_scores_one() {
    let target = Tensor::from_f32([2, 2], vec![1.0, 1000.0, 3.0, 1002.0]);
    let y = Tensor::from_f32([2, 2], vec![2.0, 1001.0, 2.0, 1001.0]);
    let mut loss = Tensor::from_f32([1], vec![f32::NAN]);
    forward(y.view(), target.view(), loss.view_mut()).unwrap();
    assert_eq!(loss.f32(), [1.0]);
    forward(target.view(), target.view(), loss.view_mut()).unwrap();
    assert_eq!(loss.f32(), [0.0]);
}
