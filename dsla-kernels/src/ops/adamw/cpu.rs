//! Blocks in parallel, elements in vectors: one pass over four arrays, bound by memory.

use super::{AdamW, Scalars};
use crate::{multiversion, par, simd::madd};

const BLOCK: usize = 16_384;

pub fn step(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], o: &AdamW) {
    let scalars = Scalars::new(o);
    let moments = m.chunks_mut(BLOCK).zip(v.chunks_mut(BLOCK));
    let mut blocks: Vec<_> = param.chunks_mut(BLOCK).zip(grad.chunks(BLOCK)).zip(moments).collect();
    par::for_each_chunk(&mut blocks, 1, |_, blocks| {
        for ((param, grad), (m, v)) in blocks {
            block(param, grad, m, v, &scalars);
        }
    });
}

multiversion! {
    fn block<const FMA: bool>(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], s: &Scalars) {
        for (((p, &g), m), v) in param.iter_mut().zip(grad).zip(m).zip(v) {
            *m = madd::<FMA>(s.beta1, *m, s.new1 * g);
            *v = madd::<FMA>(s.beta2, *v, s.new2 * g * g);
            let update = s.rate * *m / madd::<FMA>(v.sqrt(), s.inv_root, s.eps);
            *p = madd::<FMA>(*p, s.keep, -update);
        }
    }
}
