//! The specification.

use super::AdamW;
use crate::real::Real;

/// param, grad, m, v: [N] -> the new param, m, v.
pub fn step<R: Real>(param: &[R], grad: &[R], m: &[R], v: &[R], o: &AdamW) -> Vec<Vec<R>> {
    let of = R::of;
    let (c1, c2) = (1.0 - o.beta1.powf(o.step as f64), 1.0 - o.beta2.powf(o.step as f64));
    let (mut p1, mut m1, mut v1) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..param.len() {
        let g = grad[i];
        let m = of(o.beta1) * m[i] + of(1.0 - o.beta1) * g;
        let v = of(o.beta2) * v[i] + of(1.0 - o.beta2) * g * g;
        let update = (m / of(c1)) / ((v / of(c2)).sqrt() + of(o.eps));
        p1.push(param[i] * of(1.0 - o.lr * o.weight_decay) - of(o.lr) * update);
        m1.push(m);
        v1.push(v);
    }
    vec![p1, m1, v1]
}
