//! Cases, odd sizes first. The output is the token id: it must equal the specification's.

use super::{Params, forward, forward_batch, naive};
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
    for (name, params) in [("all", all), ("greedy", Params { temperature: 0.0, ..plain }), ("plain", plain)] {
        cases.push(case(49_152, 3.0, name, params, 0));
    }
    let mixed = [all, plain, Params { temperature: 0.0, ..plain }, Params { top_k: 5, ..plain }, Params { top_p: 0.7, ..all }];
    cases.push(batch_case(100, &mixed));
    cases.push(batch_case(1000, &mixed));
    cases
}

/// One sequence per element of `params`.
fn batch_case(v: usize, params: &[Params]) -> Case {
    let (b, params) = (params.len(), params.to_vec());
    let also = params.clone();
    let indices: Vec<u64> = (0..b as u64).map(|i| 100 - i).collect();
    let indices_b = indices.clone();
    let mut rng = Rng::new(v as u64 * 10_007);
    Case {
        id: format!("batch{b}_v{v}"),
        inputs: vec![Input { name: "logits", tensor: rng.tensor(&[b, v], 3.0, DType::F32) }],
        spec: spec!(f32, |x| {
            let rows = x[0].chunks(v).zip(&params).zip(&indices);
            vec![rows.map(|((x, p), &i)| <R as Real>::of(naive::forward(x, p, i) as f64)).collect()]
        }),
        run: Box::new(move |x| {
            let ids = forward_batch(x[0].view(), &also, &indices_b)?;
            Ok(vec![Tensor::from_u32([b], ids)])
        }),
        backward: None,
        flops: (20 * b * v) as f64,
        bytes: (4 * b * v) as f64,
        bench: false,
    }
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
