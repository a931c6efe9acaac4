//! Blocks in parallel, elements in vectors: one pass over four arrays, bound by memory.

use super::AdamW;
use crate::{multiversion, par, simd::madd};

const BLOCK: usize = 16_384;

/// The scalars of one step, computed in f64 and rounded once.
struct Scalars {
    keep: f32,
    beta1: f32,
    new1: f32,
    beta2: f32,
    new2: f32,
    rate: f32,
    inv_root: f32,
    eps: f32,
}

pub fn step(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], o: &AdamW) {
    let (c1, c2) = (1.0 - o.beta1.powf(o.step as f64), 1.0 - o.beta2.powf(o.step as f64));
    let scalars = Scalars {
        keep: (1.0 - o.lr * o.weight_decay) as f32,
        beta1: o.beta1 as f32,
        new1: (1.0 - o.beta1) as f32,
        beta2: o.beta2 as f32,
        new2: (1.0 - o.beta2) as f32,
        rate: (o.lr / c1) as f32,
        inv_root: (1.0 / c2.sqrt()) as f32,
        eps: o.eps as f32,
    };
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
