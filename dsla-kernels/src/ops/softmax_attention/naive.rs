//! The specification.

use super::{Dims, Paged};
use crate::real::Real;

/// q: [T, H, D], k, v: [S, G, D] -> [T, H, D].
pub fn forward<R: Real>(q: &[R], k: &[R], v: &[R], n: Dims) -> Vec<R> {
    let Dims { t, s, h, g, d } = n;
    let mut out = Vec::with_capacity(t * h * d);
    for time in 0..t {
        for head in 0..h {
            let kv = head * g / h;
            let score = |j: usize| {
                let mut sum = R::zero();
                for b in 0..d {
                    sum += q[(time * h + head) * d + b].model() * k[(j * g + kv) * d + b].model();
                }
                sum / R::of(d as f64).sqrt()
            };
            let seen = s - t + time + 1;
            let peak = (0..seen).map(score).reduce(R::max).expect("a token sees itself");
            let (mut num, mut den) = (vec![R::zero(); d], R::zero());
            for j in 0..seen {
                let a = (score(j) - peak).exp();
                den += a;
                for b in 0..d {
                    num[b] += a.model() * v[(j * g + kv) * d + b].model();
                }
            }
            out.extend(num.iter().map(|&x| x / den));
        }
    }
    out
}

/// q: [B, H, D], pools: [P, page, G, D], table: [B, pages], lens: [B] -> [B, H, D]; no keys give zeros.
pub fn paged<R: Real>(q: &[R], k: &[R], v: &[R], table: &[R], lens: &[R], n: Paged) -> Vec<R> {
    let (width, row) = (n.h * n.d, n.g * n.d);
    let mut out = Vec::with_capacity(n.b * width);
    for b in 0..n.b {
        let s = lens[b].f64() as usize;
        let gather = |x: &[R]| -> Vec<R> {
            let at = |j: usize| table[b * n.pages + j / n.page].f64() as usize * n.page + j % n.page;
            (0..s).flat_map(|j| x[at(j) * row..][..row].to_vec()).collect()
        };
        if s == 0 {
            out.extend(vec![R::zero(); width]);
            continue;
        }
        let one = Dims { t: 1, s, h: n.h, g: n.g, d: n.d };
        out.extend(forward(&q[b * width..][..width], &gather(k), &gather(v), one));
    }
    out
}
