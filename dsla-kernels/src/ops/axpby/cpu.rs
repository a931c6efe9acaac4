//! One pass in pieces; memory is the limit.

use crate::{multiversion, par, simd::madd};

const PIECE: usize = 16 * 1024;

pub fn forward(a: f32, x: &[f32], b: f32, y: &mut [f32]) {
    par::for_each_chunk(y, PIECE, |i, y| piece(a, &x[i * PIECE..][..y.len()], b, y));
}

pub fn scale(a: f32, y: &mut [f32]) {
    par::for_each_chunk(y, PIECE, |_, y| y.iter_mut().for_each(|y| *y *= a));
}

multiversion! {
    fn piece<const FMA: bool>(a: f32, x: &[f32], b: f32, y: &mut [f32]) {
        if b == 0.0 {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = a * x);
        } else {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = madd::<FMA>(a, x, b * *y));
        }
    }
}
