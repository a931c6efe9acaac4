//! The recurrent form: one token, both states read and written once.

use super::cpu::{f32s, log_weight, normalize};
use super::{Args, Dims};
use crate::host::Host;
use crate::par::{self, SendPtr};
use crate::simd::{exp, madd};
use crate::vec::{axpy, dot, exp_sub_sum, max, widen};
use crate::{Slice, multiversion};

pub fn step(x: &Args, n: Dims, s: &mut [f32], z: &mut [f32], den: Option<&mut [f32]>, peak: Option<&mut [f32]>, out: &mut [f32]) {
    let (group, size) = (n.h / n.g, n.f * n.d);
    let (sp, zp, op) = (SendPtr(s.as_mut_ptr()), SendPtr(z.as_mut_ptr()), SendPtr(out.as_mut_ptr()));
    let (dp, pp) = (den.map(|d| SendPtr(d.as_mut_ptr())), peak.map(|p| SendPtr(p.as_mut_ptr())));
    par::for_each(n.g, |g| {
        // SAFETY: the states of kv head g, and what its query heads write, are this task's alone.
        unsafe {
            let states = [0, 1].map(|i| {
                let (s, z) = (sp.get().add((i * n.g + g) * size), zp.get().add((i * n.g + g) * n.f));
                (std::slice::from_raw_parts_mut(s, size), std::slice::from_raw_parts_mut(z, n.f))
            });
            let out = std::slice::from_raw_parts_mut(op.get().add(g * group * n.d), group * n.d);
            let mut sums = Host::zeros(2 * group);
            let (dens, peaks) = sums.split_at_mut(group);
            head(x, n, g, states, dens, peaks, out);
            for (to, from) in [(dp, &*dens), (pp, &*peaks)] {
                if let Some(to) = to {
                    std::slice::from_raw_parts_mut(to.get().add(g * group), group).copy_from_slice(from);
                }
            }
        }
    });
}

/// The query heads of kv head g: out [group, D]; dens and peaks [group], zero.
fn head(x: &Args, n: Dims, g: usize, states: [(&mut [f32], &mut [f32]); 2], dens: &mut [f32], peaks: &mut [f32], out: &mut [f32]) {
    let group = n.h / n.g;
    let (first, sinks) = ((n.r + 1).saturating_sub(n.w), n.sinks(0));
    // Keys of the window, then the sinks before it.
    let near = n.r + 1 - first;
    let count = near + sinks;
    let key = |c: usize| match c < near {
        true => (x.k.slice(), x.v.slice(), first + c),
        false => (x.sink_k.slice(), x.sink_v.slice(), c - near),
    };
    let (mut kb, mut vb) = (Host::<f32>::scratch(n.d), Host::<f32>::scratch(n.d));
    let mut weights = Host::<f32>::filled(1.0, 2 * group);
    let query = |i: usize| &f32s(&x.q)[(g * group + i) * n.d..][..n.d];
    out.fill(0.0);
    if n.w > 0 {
        let mut scores = Host::<f32>::scratch(group * count);
        let scale = 1.0 / (n.d as f32).sqrt();
        for c in 0..count {
            let (k, _, j) = key(c);
            let k = row(k, (j * n.g + g) * n.d, &mut kb);
            for i in 0..group {
                scores[i * count + c] = dot(query(i), k) * scale;
            }
        }
        for i in 0..group {
            let h = g * group + i;
            let row = &mut scores[i * count..(i + 1) * count];
            peaks[i] = max(row);
            dens[i] = exp_sub_sum(row, peaks[i]);
            weights[i] = log_weight(f32s(&x.mix)[h], f32s(&x.slope)[h], peaks[i]).exp();
        }
        for c in 0..count {
            let (_, v, j) = key(c);
            let v = row(v, (j * n.g + g) * n.d, &mut vb);
            for i in 0..group {
                axpy(scores[i * count + c], v, &mut out[i * n.d..(i + 1) * n.d]);
            }
        }
    }
    for i in (0..group).rev() {
        let (h, w) = (g * group + i, weights[i]);
        weights[2 * i] = w * f32s(&x.gamma)[h];
        weights[2 * i + 1] = w * f32s(&x.gamma)[n.h + h];
    }
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
    let [(s0, z0), (s1, z1)] = states;
    let phi_q = &f32s(&x.phi_q)[g * group * n.f..(g + 1) * group * n.f];
    pass(s0, s1, z0, z1, write, phi_q, &weights, out, dens);
    for (out, den) in out.chunks_exact_mut(n.d).zip(dens) {
        normalize(x.normalizer, out, den);
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
