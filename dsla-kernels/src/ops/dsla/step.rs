//! The recurrent form: one token, both states read and written once.

use super::cpu::{f32s, log_weight, normalize};
use super::{Args, Dims};
use crate::cache::{Rows, WIDE, scores, weighted};
use crate::host::Host;
use crate::par::{self, SendPtr};
use crate::simd::exp;
use crate::simd::lanes::{Lanes, lanes};
use crate::vec::{exp_sub_sum, max, widen};
use crate::Slice;

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
    let near = n.r + 1 - first;
    // Keys of the window, then the sinks before it.
    let count = near + sinks;
    let mut weights = Host::<f32>::filled(1.0, 2 * group);
    out.fill(0.0);
    if n.w > 0 {
        let wide = n.d.next_multiple_of(WIDE);
        let (mut q, mut sums) = (Host::<f32>::zeros(group * wide), Host::<f32>::zeros(group * wide));
        let scale = 1.0 / (n.d as f32).sqrt();
        let mut a = Host::<f32>::scratch(group * count);
        let mut buf = vec![];
        for (q, from) in q.chunks_exact_mut(wide).zip(f32s(&x.q)[g * group * n.d..].chunks_exact(n.d)) {
            q.iter_mut().zip(from).for_each(|(q, x)| *q = x * scale);
        }
        let parts = |window, sink| [(window, first, near, 0), (sink, 0, sinks, near)];
        let (k, v, sink_k, sink_v) = ([x.k], [x.v], [x.sink_k], [x.sink_v]);
        for (rows, j, rows_len, to) in parts(Rows::Float(&k), Rows::Float(&sink_k)) {
            rows.runs(g, j, rows_len, &mut buf, |at, len, run, _| {
                let a = a[to + at..].as_mut_ptr();
                // SAFETY: the run is `len` rows of `wide`; q and a hold `group` rows, those of a `len` more from there on.
                unsafe { scores(run, len, q.as_ptr(), group, wide, a, count, std::ptr::null()) }
            });
        }
        for i in 0..group {
            let h = g * group + i;
            let row = &mut a[i * count..(i + 1) * count];
            peaks[i] = max(row);
            dens[i] = exp_sub_sum(row, peaks[i]);
            weights[i] = log_weight(f32s(&x.mix)[h], f32s(&x.slope)[h], peaks[i]).exp();
        }
        for (rows, j, rows_len, from) in parts(Rows::Float(&v), Rows::Float(&sink_v)) {
            rows.runs(g, j, rows_len, &mut buf, |at, len, run, _| {
                let (a, sums) = (a[from + at..].as_ptr(), sums.as_mut_ptr());
                // SAFETY: as above; sums holds `group` rows of `wide`.
                unsafe { weighted(run, len, a, count, group, wide, sums, wide, std::ptr::null()) }
            });
        }
        for (out, sums) in out.chunks_exact_mut(n.d).zip(sums.chunks_exact(wide)) {
            out.copy_from_slice(&sums[..n.d]);
        }
    }
    for i in (0..group).rev() {
        let (h, w) = (g * group + i, weights[i]);
        weights[2 * i] = w * f32s(&x.gamma)[h];
        weights[2 * i + 1] = w * f32s(&x.gamma)[n.h + h];
    }
    let mut vb = Host::<f32>::scratch(n.d);
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
    let group_states = Head { s: [s0.as_mut_ptr(), s1.as_mut_ptr()], z: [z0, z1], write, phi_q, weights: &weights };
    // SAFETY: the states are [F, D]; everything else carries its length.
    unsafe { pass(group_states, out, dens) };
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

/// What a step does to the two states of one kv head.
struct Head<'a> {
    /// [F, D] each.
    s: [*mut f32; 2],
    /// [F] each.
    z: [&'a mut [f32]; 2],
    write: Option<Write<'a>>,
    /// [group, F]
    phi_q: &'a [f32],
    /// Of the two states, per query head.
    weights: &'a [f32],
}

lanes! {
    /// Decay and write both states of one kv head, and read them for its query heads, in one pass over S: 16 columns at a
    /// time, whose sums stay in registers. out [group, D], dens [group]: added to.
    unsafe fn pass<V>(x: Head, out: &mut [f32], dens: &mut [f32]) {
        let (f, group) = (x.z[0].len(), dens.len());
        let d = out.len() / group;
        let [z0, z1] = x.z;
        // Per feature: the decays, the key; then the queries' weights of the two states.
        let mut rows = Host::<f32>::scratch(f * (3 + 2 * group));
        for a in 0..f {
            let row = &mut rows[a * (3 + 2 * group)..][..3 + 2 * group];
            (row[0], row[1], row[2]) = (1.0, 1.0, 0.0);
            if let Some(w) = x.write {
                let at = if w.d0.len() == 1 { 0 } else { a };
                (row[0], row[1], row[2]) = (exp::<false>(w.d0[at]), exp::<false>(w.d1[at]), w.k[a]);
                z0[a] = row[0] * z0[a] + row[2];
                z1[a] = row[1] * z1[a] + row[2];
            }
            for h in 0..group {
                let q = x.phi_q[h * f + a];
                let (w0, w1) = (q * x.weights[2 * h], q * x.weights[2 * h + 1]);
                (row[3 + 2 * h], row[4 + 2 * h]) = (w0, w1);
                dens[h] += w0 * z0[a] + w1 * z1[a];
            }
        }
        let v = x.write.map_or(std::ptr::null(), |w| w.v.as_ptr());
        let mut c = 0;
        while c < d {
            let mut h = 0;
            // The first heads write, those after them only read.
            while h < group {
                // SAFETY: columns c..c + 16 (or to the end) of every row, heads h.. of out.
                unsafe {
                    let (v, now) = (if h == 0 { v } else { std::ptr::null() }, (group - h).min(4));
                    let at = (x.s[0].add(c), x.s[1].add(c), out.as_mut_ptr().add(h * d + c));
                    let v = if v.is_null() { v } else { v.add(c) };
                    let width = 3 + 2 * group;
                    match (now, d - c) {
                        (4, 16..) => columns::<V, 4, true>(&rows, width, h, v, at, d, 16),
                        (3, 16..) => columns::<V, 3, true>(&rows, width, h, v, at, d, 16),
                        (2, 16..) => columns::<V, 2, true>(&rows, width, h, v, at, d, 16),
                        (1, 16..) => columns::<V, 1, true>(&rows, width, h, v, at, d, 16),
                        (4, left) => columns::<V, 4, false>(&rows, width, h, v, at, d, left),
                        (3, left) => columns::<V, 3, false>(&rows, width, h, v, at, d, left),
                        (2, left) => columns::<V, 2, false>(&rows, width, h, v, at, d, left),
                        (_, left) => columns::<V, 1, false>(&rows, width, h, v, at, d, left),
                    }
                    h += now;
                }
            }
            c += 16;
        }
    }
}

/// 16 columns (without FULL: `left`) of both states for R query heads from `h` on; with a value, they are decayed and written first.
#[inline(always)]
unsafe fn columns<V: Lanes, const R: usize, const FULL: bool>(
    rows: &[f32],
    width: usize,
    h: usize,
    v: *const f32,
    (s0, s1, out): (*mut f32, *mut f32, *mut f32),
    d: usize,
    left: usize,
) {
    // SAFETY: the caller's; the mask keeps to the columns there are.
    unsafe {
        let mask = V::mask(left);
        let load = |p: *const f32| if FULL { V::load(p) } else { V::load_masked(p, mask) };
        let store = |x: V, p: *mut f32| if FULL { x.store(p) } else { x.store_masked(p, mask) };
        let mut acc = [V::splat(0.0); R];
        (0..R).for_each(|r| acc[r] = load(out.add(r * d)));
        let value = if v.is_null() { V::splat(0.0) } else { load(v) };
        for (a, row) in rows.chunks_exact(width).enumerate() {
            let (p0, p1) = (s0.add(a * d), s1.add(a * d));
            let (mut r0, mut r1) = (load(p0), load(p1));
            if !v.is_null() {
                let kv = V::splat(0.0).fma(V::splat(row[2]), value);
                r0 = kv.fma(V::splat(row[0]), r0);
                r1 = kv.fma(V::splat(row[1]), r1);
                store(r0, p0);
                store(r1, p1);
            }
            for r in 0..R {
                let at = 3 + 2 * (h + r);
                acc[r] = acc[r].fma(V::splat(row[at]), r0).fma(V::splat(row[at + 1]), r1);
            }
        }
        (0..R).for_each(|r| store(acc[r], out.add(r * d)));
    }
}
