//! Attention weights of the teacher and of every part of a converted layer, row by row.

use crate::Result;
use crate::align::Inputs;
use crate::probe::{BINS, bin};
use dsla_core::attention::{DslaAttention, Saved};
use dsla_kernels::par;

/// Every how many queries are measured: all distances are seen, and the cost stays small.
const STRIDE: usize = 7;

fn run(layer: &DslaAttention, x: &Inputs) -> Result<Saved> {
    let (q, k, v) = (x.q.try_clone()?, x.k.try_clone()?, x.plain.v.try_clone()?);
    Ok(layer.forward_train(q, k, v, &x.plain.k, x.plain.hidden.as_ref())?)
}

/// Log decays [T, 2, G] of scalar gates.
pub fn decays(layer: &DslaAttention, x: &Inputs) -> Result<Vec<f32>> {
    Ok(run(layer, x)?.log_decay().f32().to_vec())
}

/// Shares by part ([`super::PARTS`]) and distance, means over heads and queries. A row's weights, as the dsla op has
/// them: window and sinks e^(s - m), state i e^(mix - slope m) gamma_i phi(q).phi(k) e^(c_i[entered] - c_i[j]).
pub fn by_distance(layer: &DslaAttention, x: &Inputs) -> Result<[[f64; BINS]; 5]> {
    let saved = run(layer, x)?;
    let n = layer.heads;
    let (t, d, g) = (x.q.dims()[0], n.head_dim, n.kv_heads);
    let f = saved.phi_q().dims()[2];
    let (q, k) = (x.q.f32(), x.k.to_vec_f32());
    let (phi_q, phi_k) = (saved.phi_q().f32(), saved.phi_k().f32());
    let (window, sinks) = (layer.form.window, layer.form.sinks);
    let gamma = layer.params.gamma_weights(n.heads);
    let per_head = |p: &Option<dsla_core::Tensor>, h: usize| p.as_ref().map_or(0.0, |p| p.f32()[h] as f64);
    let sums = cumulative(saved.log_decay().f32(), g);
    let mut per = vec![[[0.0f64; BINS]; 5]; n.heads];
    par::for_each_chunk(&mut per, 1, |h, out| {
        let kv = h * g / n.heads;
        let mut rows = 0.0;
        let mut scores = vec![0.0f64; t];
        for query in (t.min(64) - 1..t).step_by(STRIDE) {
            let qs = &q[(query * n.heads + h) * d..][..d];
            for (j, s) in scores[..=query].iter_mut().enumerate() {
                *s = dot(qs, &k[(j * g + kv) * d..][..d]) / (d as f64).sqrt();
            }
            // The first token still in the window, and so the number of tokens that have left it.
            let entered = (query + 1).saturating_sub(window);
            let exact = |j: usize| j >= entered || j < sinks.min(entered);
            let largest = |keep: &dyn Fn(usize) -> bool| {
                (0..=query).filter(|&j| keep(j)).fold(f64::NEG_INFINITY, |m, j| m.max(scores[j]))
            };
            let all = largest(&|_| true);
            let peak = if window > 0 { largest(&exact) } else { 0.0 };
            let mut row = [[0.0f64; BINS]; 5];
            let phi = &phi_q[(query * n.heads + h) * f..][..f];
            let follow = if window > 0 {
                (per_head(&layer.params.mix, h) - per_head(&layer.params.slope, h) * peak)
                    .clamp(-40.0, 40.0)
                    .exp()
            } else {
                1.0
            };
            for j in 0..=query {
                let at = bin(query - j);
                row[0][at] += (scores[j] - all).exp();
                if window > 0 && exact(j) {
                    row[if j >= entered { 3 } else { 4 }][at] += (scores[j] - peak).exp();
                } else if j >= sinks {
                    let p = follow * dot(phi, &phi_k[(j * g + kv) * f..][..f]);
                    for (i, c) in sums.iter().enumerate() {
                        let weight = p * gamma.f32()[i * n.heads + h] as f64;
                        row[1 + i][at] += weight * (c[kv][entered - 1] - c[kv][j]).exp();
                    }
                }
            }
            let teacher: f64 = row[0].iter().sum();
            let student: f64 = row[1..].iter().flatten().sum::<f64>().max(1e-300);
            for (part, (out, row)) in out[0].iter_mut().zip(&row).enumerate() {
                let total = if part == 0 { teacher } else { student };
                out.iter_mut().zip(row).for_each(|(o, r)| *o += r / total);
            }
            rows += 1.0;
        }
        out[0].iter_mut().flatten().for_each(|m| *m /= rows * n.heads as f64);
    });
    let mut mean = [[0.0; BINS]; 5];
    for one in &per {
        mean.iter_mut().flatten().zip(one.iter().flatten()).for_each(|(m, v)| *m += v);
    }
    Ok(mean)
}

/// Running sums of log decays, per state and kv head: [2][G][T].
fn cumulative(log_decay: &[f32], g: usize) -> [Vec<Vec<f64>>; 2] {
    [0, 1].map(|state| {
        (0..g)
            .map(|kv| {
                let mut sum = 0.0;
                log_decay
                    .chunks_exact(2 * g)
                    .map(|row| {
                        sum += row[state * g + kv] as f64;
                        sum
                    })
                    .collect()
            })
            .collect()
    })
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use dsla_core::attention::rotated;
    use dsla_core::{DslaParams, Form, Gamma, Heads, Projected, Tensor};
    use dsla_kernels::case::Rng;
    use dsla_kernels::ops::{rope::Table, softmax_attention};
    use dsla_kernels::{DType, Device};

    const N: Heads = Heads { heads: 4, kv_heads: 2, head_dim: 8 };

    /// Inputs of `t` tokens whose value says how far the token is from the last one: one-hot of the distance's bin.
    fn inputs(t: usize) -> Inputs {
        let mut rng = Rng::new(5);
        let mut normal = |heads| rng.tensor(&[t, heads, 8], 1.0, DType::F32);
        let (q, k) = (normal(4), normal(2));
        let one_hot = |i: usize| if bin(t - 1 - i / 16) == i % 8 { 1.0 } else { 0.0 };
        let v = Tensor::from_f32([t, 2, 8], (0..16 * t).map(one_hot).collect());
        let table = Table::new(&[1.0, 0.3, 0.1, 0.03], t, 1.0).to_device(Device::Cpu).unwrap();
        let (rq, rk) = (rotated(&q, 0, &table).unwrap(), rotated(&k, 0, &table).unwrap());
        let mut teacher = Tensor::empty([t, 4, 8], DType::F32);
        softmax_attention::forward(rq.view(), rk.view(), v.view(), teacher.view_mut()).unwrap();
        Inputs { q: rq, k: rk, plain: Projected { q, k, v, hidden: None }, teacher, spread: 1.0 }
    }

    fn layer(form: Form) -> DslaAttention {
        let mut params = DslaParams::init(&form, N, 32);
        let mut rng = Rng::new(6);
        for (name, t) in params.tensors_mut() {
            let scale = if name == "gate_b" { 2.0 } else { 0.3 };
            if !matches!(form.gamma, Gamma::History | Gamma::Recency) || name != "gamma" {
                t.f32_mut().iter_mut().for_each(|v| *v += (scale * rng.normal()) as f32);
            }
        }
        DslaAttention::new(form, params, N)
    }

    #[test]
    fn the_parts_add_up_to_what_the_layer_computes() {
        // So short that only the last query is measured.
        let x = inputs(40);
        let form = Form { window: 8, sinks: 2, ..Form::native() };
        for form in [form, Form { window: 0, sinks: 0, peak_slope: false, ..form }] {
            let layer = layer(form);
            let mass = by_distance(&layer, &x).unwrap();
            let saved = run(&layer, &x).unwrap();
            for b in 0..8 {
                let last =
                    |out: &Tensor| (0..4).map(|h| out.f32()[(39 * 4 + h) * 8 + b] as f64 / 4.0).sum::<f64>();
                let parts: f64 = mass[1..].iter().map(|m| m[b]).sum();
                assert!((parts - last(saved.out())).abs() < 1e-4, "{form:?} bin {b}: {parts}");
                assert!((mass[0][b] - last(&x.teacher)).abs() < 1e-4, "bin {b}: {}", mass[0][b]);
            }
            assert!(mass[1].iter().sum::<f64>() > 0.01 && mass[2].iter().sum::<f64>() > 0.01);
            assert_eq!(mass[3].iter().sum::<f64>() > 0.0, form.window > 0);
        }
    }

    #[test]
    fn a_state_of_no_weight_has_no_mass() {
        let x = inputs(40);
        let mass =
            by_distance(&layer(Form { gamma: Gamma::History, window: 8, ..Form::native() }), &x).unwrap();
        assert!(mass[1].iter().sum::<f64>() > 0.01 && mass[2].iter().all(|&m| m == 0.0));
    }
}
