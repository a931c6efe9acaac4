//! Cases, odd sizes first. The output is the token id: it must equal the specification's.

use super::{Params, forward, naive};
use crate::case::{Case, Input, Rng};
use crate::{DType, Tensor, real::Real, spec};

/// Every case of this op: each filter alone, all together, and a flat distribution, of which top-p keeps so many
/// tokens that its first guess falls short.
pub fn cases() -> Vec<Case> {
    let plain = Params { seed: 7, ..Params::default() };
    let all = Params { temperature: 0.8, top_k: 40, top_p: 0.9, min_p: 0.05, seed: 7 };
    let mut cases = Vec::new();
    for v in [1, 63, 1000, 5003] {
        for (name, params) in [
            ("greedy", Params { temperature: 0.0, ..plain }),
            ("plain", plain),
            ("cold", Params { temperature: 1e-40, ..plain }),
            ("hot", Params { temperature: 1.5, ..plain }),
            ("top_k", Params { temperature: 6.0, top_k: 5, ..plain }),
            ("top_p", Params { top_p: 0.7, ..plain }),
            ("min_p", Params { min_p: 0.1, ..plain }),
            ("all", all),
        ] {
            for index in 0..3 {
                cases.push(case(v, 3.0, name, params, index));
            }
        }
        cases.push(case(v, 0.01, "flat_top_p", Params { top_p: 0.9, ..plain }, 0));
    }
    cases.push(case(49_152, 3.0, "all", all, 0));
    cases
}

fn case(v: usize, scale: f64, name: &str, params: Params, index: u64) -> Case {
    let mut rng = Rng::new(v as u64 * 10_007 + index);
    Case {
        id: format!("v{v}_{name}_index{index}"),
        inputs: vec![Input { name: "logits", tensor: rng.tensor(&[v], scale, DType::F32) }],
        spec: spec!(f32, |x| { vec![vec![<R as Real>::of(naive::forward(&x[0], &params, index) as f64)]] }),
        run: Box::new(move |x| Ok(vec![Tensor::from_u32([1], vec![forward(x[0].view(), &params, index)?])])),
        backward: None,
        flops: (20 * v) as f64,
        bytes: (4 * v) as f64,
        bench: v > 10_000,
    }
}
