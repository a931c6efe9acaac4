//! The recurrent form: one token, both states read and written once.

use super::cpu::{f32s, log_weight, normalize};
use super::{Args, Dims};
use crate::simd::{exp, madd};
use crate::vec::{axpy, dot, exp_sub_sum, max, widen};
use crate::{Slice, multiversion};

pub fn step(x: &Args, n: Dims, s: &mut [f32], z: &mut [f32], den: Option<&mut [f32]>, peak: Option<&mut [f32]>, out: &mut [f32]) {
    let group = n.h / n.g;
    let (first, sinks) = ((n.r + 1).saturating_sub(n.w), n.sinks(0));
    // Keys of the window, then the sinks before it.
    let keys: Vec<(Slice, Slice, usize)> = (first..n.r + 1)
        .map(|j| (x.k.slice(), x.v.slice(), j))
        .chain((0..sinks).map(|j| (x.sink_k.slice(), x.sink_v.slice(), j)))
        .collect();
    let count = keys.len();
    let (mut kb, mut vb) = (vec![0.0; n.d], vec![0.0; n.d]);
    let mut scores = vec![0.0; group * count];
    let mut weights = vec![0.0; 2 * group];
    let (mut dens, mut peaks) = (vec![0.0; n.h], vec![0.0; n.h]);
    out.fill(0.0);
    for g in 0..n.g {
        let heads = g * group..(g + 1) * group;
        weights.fill(1.0);
        if n.w > 0 {
            for (c, (k, _, j)) in keys.iter().enumerate() {
                let k = row(*k, (j * n.g + g) * n.d, &mut kb);
                for (i, h) in heads.clone().enumerate() {
                    scores[i * count + c] = dot(&f32s(&x.q)[h * n.d..(h + 1) * n.d], k) / (n.d as f32).sqrt();
                }
            }
            for (i, h) in heads.clone().enumerate() {
                let row = &mut scores[i * count..(i + 1) * count];
                peaks[h] = max(row);
                dens[h] = exp_sub_sum(row, peaks[h]);
                weights[i] = log_weight(f32s(&x.mix)[h], f32s(&x.slope)[h], peaks[h]).exp();
            }
            for (c, (_, v, j)) in keys.iter().enumerate() {
                let v = row(*v, (j * n.g + g) * n.d, &mut vb);
                for (i, h) in heads.clone().enumerate() {
                    axpy(scores[i * count + c], v, &mut out[h * n.d..(h + 1) * n.d]);
                }
            }
        }
        for i in (0..group).rev() {
            let (h, w) = (g * group + i, weights[i]);
            weights[2 * i] = w * f32s(&x.gamma)[h];
            weights[2 * i + 1] = w * f32s(&x.gamma)[n.h + h];
        }
        let size = n.f * n.d;
        let (s0, s1) = s.split_at_mut(n.g * size);
        let (z0, z1) = z.split_at_mut(n.g * n.f);
        let write = (n.l > 0).then(|| {
            let v = row(x.v.slice(), g * n.d, &mut vb);
            let decay = f32s(&x.log_decay);
            Write {
                k: &f32s(&x.phi_k)[g * n.f..(g + 1) * n.f],
                v,
                d0: &decay[g * n.e..(g + 1) * n.e],
                d1: &decay[(n.g + g) * n.e..(n.g + g + 1) * n.e],
            }
        });
        pass(
            &mut s0[g * size..(g + 1) * size],
            &mut s1[g * size..(g + 1) * size],
            &mut z0[g * n.f..(g + 1) * n.f],
            &mut z1[g * n.f..(g + 1) * n.f],
            write,
            &f32s(&x.phi_q)[g * group * n.f..(g + 1) * group * n.f],
            &weights,
            &mut out[g * group * n.d..(g + 1) * group * n.d],
            &mut dens[g * group..(g + 1) * group],
        );
    }
    for h in 0..n.h {
        normalize(x.normalizer, &mut out[h * n.d..(h + 1) * n.d], &mut dens[h]);
    }
    if let Some(d) = den {
        d.copy_from_slice(&dens);
    }
    if let Some(p) = peak {
        p.copy_from_slice(&peaks);
    }
}

/// A row of keys or values as f32.
fn row<'a>(x: Slice<'a>, at: usize, buf: &'a mut [f32]) -> &'a [f32] {
    match x {
        Slice::F32(v) => &v[at..at + buf.len()],
        Slice::BF16(v) => {
            widen(&v[at..at + buf.len()], buf);
            buf
        }
        Slice::F16(v) => {
            buf.iter_mut().zip(&v[at..]).for_each(|(o, x)| *o = x.to_f32());
            buf
        }
        Slice::U32(_) => unreachable!("dtypes were checked"),
    }
}

/// The token that enters the states: its features, value and the two log decays (1 or F).
#[derive(Clone, Copy)]
struct Write<'a> {
    k: &'a [f32],
    v: &'a [f32],
    d0: &'a [f32],
    d1: &'a [f32],
}

multiversion! {
    /// Decay and write both states of one kv head, and read them for its query heads, in one pass over S.
    fn pass<const FMA: bool>(s0: &mut [f32], s1: &mut [f32], z0: &mut [f32], z1: &mut [f32], write: Option<Write>, phi_q: &[f32], weights: &[f32], out: &mut [f32], dens: &mut [f32]) {
        let f = z0.len();
        let d = s0.len() / f;
        let group = dens.len();
        for a in 0..f {
            let (r0, r1) = (&mut s0[a * d..(a + 1) * d], &mut s1[a * d..(a + 1) * d]);
            if let Some(w) = write {
                let at = if w.d0.len() == 1 { 0 } else { a };
                let (d0, d1, k) = (exp::<FMA>(w.d0[at]), exp::<FMA>(w.d1[at]), w.k[a]);
                z0[a] = madd::<FMA>(d0, z0[a], k);
                z1[a] = madd::<FMA>(d1, z1[a], k);
                for b in 0..d {
                    let kv = k * w.v[b];
                    r0[b] = madd::<FMA>(d0, r0[b], kv);
                    r1[b] = madd::<FMA>(d1, r1[b], kv);
                }
            }
            for h in 0..group {
                let q = phi_q[h * f + a];
                let (w0, w1) = (q * weights[2 * h], q * weights[2 * h + 1]);
                dens[h] += w0 * z0[a] + w1 * z1[a];
                let out = &mut out[h * d..(h + 1) * d];
                for b in 0..d {
                    out[b] = madd::<FMA>(w0, r0[b], madd::<FMA>(w1, r1[b], out[b]));
                }
            }
        }
    }
}
