use super::*;
use crate::{DType, Tensor};

#[test]
fn ids_beyond_the_table_are_refused() {
    let table = Tensor::zeros([3, 2], DType::F32);
    let ids = Tensor::from_u32([2], vec![2, 3]);
    let mut y = Tensor::zeros([2, 2], DType::F32);
    let e = forward(table.view(), ids.view(), y.view_mut()).unwrap_err();
    assert_eq!(e.to_string(), "embedding: ids: got 3 at 1, want less than 3");
    let mut dtable = table.clone();
    assert!(backward(ids.view(), y.view(), dtable.view_mut()).is_err());
}

#[test]
fn a_table_of_ids_is_refused() {
    let table = Tensor::zeros([3, 2], DType::U32);
    let ids = Tensor::from_u32([1], vec![0]);
    let mut y = Tensor::zeros([1, 2], DType::F32);
    let e = forward(table.view(), ids.view(), y.view_mut()).unwrap_err();
    assert!(matches!(e, Error::DType { arg: "table", .. }), "{e}");
}

#[test]
fn backward_adds() {
    let ids = Tensor::from_u32([3], vec![1, 0, 1]);
    let dy = Tensor::from_f32([3, 1], vec![1.0, 2.0, 4.0]);
    let mut dtable = Tensor::from_f32([2, 1], vec![10.0, 20.0]);
    backward(ids.view(), dy.view(), dtable.view_mut()).unwrap();
    assert_eq!(dtable.f32(), [12.0, 25.0]);
}
