//! The closed-form start of a layer: half-lives where the teacher's attention mass lies, then state weights and mix
//! by least squares on the part of the teacher's output that comes from outside the window.

use crate::Result;
use crate::align::{Inputs, teacher_pass};
use crate::probe::{BINS, LayerProbe, probe, row};
use dsla_core::attention::DslaAttention;
use dsla_core::{FeatureMap, Gate};
use dsla_kernels::par;
use dsla_model::Model;

/// Start every layer of `layers` (by number) from one pass over `window`; layers of forms without a positive feature
/// map keep their plain start.
pub fn calibrate(
    model: &Model,
    window: &[u32],
    layers: &mut [Option<DslaAttention>],
    mut done: impl FnMut(usize),
) -> Result<()> {
    let Some(last) = layers.iter().rposition(Option::is_some) else { return Ok(()) };
    teacher_pass(model, &[window], last, |l, inputs| {
        let fits =
            |f: &dsla_core::Form| f.feature_map != FeatureMap::None && f.gate == Gate::Scalar && f.rope;
        let first = inputs.first().map(Inputs::to_host).transpose()?;
        match (&mut layers[l], &first) {
            (Some(layer), Some(x)) if fits(&layer.form) => {
                half_lives(layer, &probe(x, layer.form.sinks));
                weights(layer, x)?;
            }
            _ => {}
        }
        done(l);
        Ok(())
    })
}

/// Gate biases of each kv head: recency at the median distance of the mass beyond the window, history at four times
/// its 90th percentile.
fn half_lives(layer: &mut DslaAttention, p: &LayerProbe) {
    let (h, g, window) = (layer.heads.heads, layer.heads.kv_heads, layer.form.window);
    for kv in 0..g {
        let mut mass = [0.0; BINS];
        for head in kv * h / g..(kv + 1) * h / g {
            mass.iter_mut().zip(&p.mass[head]).for_each(|(m, x)| *m += x);
        }
        // Bins that lie beyond the window, by their geometric middle.
        let beyond: Vec<(f64, f64)> = (1..BINS)
            .map(|b| (1.5 * 2f64.powi(b as i32 - 1), mass[b]))
            .filter(|(d, _)| *d > window as f64)
            .collect();
        let total: f64 = beyond.iter().map(|b| b.1).sum();
        let quantile = |q: f64| {
            let mut sum = 0.0;
            beyond.iter().find(|b| {
                sum += b.1;
                sum >= q * total
            })
        };
        let at = |q: f64| quantile(q).map_or(256.0, |b| b.0 - window as f64);
        let lives = [(4.0 * at(0.9)).clamp(1024.0, 8192.0), at(0.5).clamp(32.0, 1024.0)];
        for (state, life) in lives.iter().enumerate() {
            let logit = dsla_core::logit_of_half_life(*life, layer.form.gate_scale as f64) as f32;
            layer.params.gate_b.f32_mut()[state * g + kv] = logit;
        }
    }
}

/// gamma and mix of every head: the two states' outputs at weight one, regressed on the teacher's unnormalised
/// output from beyond the window (numerator and normaliser together), each row weighted by its own normaliser.
fn weights(layer: &mut DslaAttention, x: &Inputs) -> Result<()> {
    let n = layer.heads;
    let (t, d, window, sinks) = (x.q.dims()[0], n.head_dim, layer.form.window, layer.form.sinks);
    let s = layer.forward_train(
        x.q.clone(),
        x.k.clone(),
        x.plain.v.clone(),
        &x.plain.k,
        x.plain.hidden.as_ref(),
    )?;
    let (phi_q, phi_k, decay) = (s.phi_q().f32(), s.phi_k().f32(), s.log_decay().f32());
    let f = s.phi_q().dims()[2];
    let v = x.plain.v.f32();
    let mut found = vec![[0.0f32; 2]; n.heads];
    par::for_each_chunk(&mut found, 1, |h, found| {
        let kv = h * n.kv_heads / n.heads;
        // Cumulative log decays of the tokens that enter the states.
        let entered = t.saturating_sub(window);
        let mut c = [vec![0.0f32; entered], vec![0.0f32; entered]];
        for (i, c) in c.iter_mut().enumerate() {
            let mut sum = 0.0;
            for (j, c) in c.iter_mut().enumerate() {
                sum += decay[(j * 2 + i) * n.kv_heads + kv];
                *c = sum;
            }
        }
        // Normal equations of Y = a0 R0 + a1 R1.
        let (mut m00, mut m01, mut m11, mut b0, mut b1) = (0.0f64, 0.0, 0.0, 0.0, 0.0);
        let mut a = vec![];
        for query in (window + sinks + 16..t).step_by(5) {
            let seen = query + 1 - window;
            row(x, h, query, |j| j < sinks || j >= seen, &mut a);
            let total: f64 = a.iter().map(|&w| w as f64).sum();
            let mut sums = vec![[0.0f32; 3]; d + 1];
            let q = &phi_q[(query * n.heads + h) * f..][..f];
            for j in sinks..seen {
                let p: f32 = q.iter().zip(&phi_k[(j * n.kv_heads + kv) * f..][..f]).map(|(a, b)| a * b).sum();
                let w = [a[j], p * (c[0][seen - 1] - c[0][j]).exp(), p * (c[1][seen - 1] - c[1][j]).exp()];
                let value = &v[(j * n.kv_heads + kv) * d..][..d];
                for (s, v) in sums.iter_mut().zip(value.iter().chain([&1.0])) {
                    (s[0], s[1], s[2]) = (s[0] + w[0] * v, s[1] + w[1] * v, s[2] + w[2] * v);
                }
            }
            let weight = 1.0 / (total * total);
            for [y, r0, r1] in sums.iter().map(|s| s.map(f64::from)) {
                m00 += weight * r0 * r0;
                m01 += weight * r0 * r1;
                m11 += weight * r1 * r1;
                b0 += weight * r0 * y;
                b1 += weight * r1 * y;
            }
        }
        found[0] = solve(m00, m01, m11, b0, b1).map(|a| a as f32);
    });
    let p = &mut layer.params;
    let cols = p.gamma.len() / 2;
    if cols != n.heads {
        return Ok(());
    }
    for (h, a) in found.iter().enumerate() {
        let sum = a[0] + a[1];
        for (i, a) in a.iter().enumerate() {
            p.gamma.f32_mut()[i * cols + h] = (a / sum).max(0.02).ln();
        }
        if let Some(mix) = &mut p.mix {
            // A state that starts all but silent gets next to no gradient, and stays silent (NOTES.md, recall).
            mix.f32_mut()[h] = sum.ln().clamp(-1.0, 6.0);
        }
    }
    Ok(())
}

/// Least squares in two unknowns, both at least a little above zero.
fn solve(m00: f64, m01: f64, m11: f64, b0: f64, b1: f64) -> [f64; 2] {
    let det = m00 * m11 - m01 * m01;
    let both = [(b0 * m11 - b1 * m01) / det, (b1 * m00 - b0 * m01) / det];
    let found = if both.iter().all(|a| a.is_finite() && *a > 0.0) && det > 1e-9 * m00 * m11 {
        both
    } else if b0 / m00.sqrt() > b1 / m11.sqrt() {
        [b0 / m00, 0.0]
    } else {
        [0.0, b1 / m11]
    };
    let sum = found[0] + found[1];
    if sum.is_finite() && sum > 1e-6 { found.map(|a| a.max(0.02 * sum)) } else { [0.5, 0.5] }
}

#[cfg(test)]
mod tests {
    use super::solve;

    #[test]
    fn solves_and_stays_positive() {
        let (a, b) = (2.0, 0.5);
        let (m00, m01, m11) = (3.0, 1.0, 2.0);
        let got = solve(m00, m01, m11, m00 * a + m01 * b, m01 * a + m11 * b);
        assert!((got[0] - a).abs() < 1e-9 && (got[1] - b).abs() < 1e-9);
        let got = solve(m00, m01, m11, m00 - m01 * 0.5, m01 - m11 * 0.5);
        assert!(got.iter().all(|a| *a > 0.0));
        assert_eq!(solve(0.0, 0.0, 0.0, 0.0, 0.0), [0.5, 0.5]);
    }
}
