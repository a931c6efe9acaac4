//! What [`super::read`] does under scalar decays, where the machine multiplies bf16: features, states, decayed scores and values
//! are rounded to it, sums are f32. So flash-linear-attention's kernels read their states, too.

use super::Dims;
use super::chunk::{CHUNK, Linear, States, cumulative, decay_matrix};
use super::keys::shares;
use super::read::Into;
use crate::gemm::{PairProducts, Pairs};
use crate::host::Host;
use crate::pair_panels::{TILE, interleave, interleave_narrow, put_key};
use crate::simd::lanes::tree;
use crate::simd::madd;
use crate::vec::{narrow, nearest_bf16};
use crate::{DType, Slice, View, bf16, multiversion};

/// Whether a call may take this path.
pub fn fits(v: &View, [d, f, e]: [usize; 3]) -> bool {
    let whole = d.is_multiple_of(16) && f.is_multiple_of(TILE) && f > 0;
    e == 1 && whole && v.dtype() == DType::BF16
}

/// All heads of kv head g against chunk `number`, number `at` of the run whose states are given. The rows are the caller's alone.
pub fn chunk(x: &Linear, n: Dims, g: usize, number: usize, states: &States, at: usize, into: Into) {
    let Slice::BF16(values) = x.v.slice() else { unreachable!("the caller has looked") };
    let a = number * CHUNK;
    let (len, group, d, f) = (CHUNK.min(n.l - a), n.h / n.g, n.d, n.f);
    let (cols, height) = (len.next_multiple_of(TILE), len * group);
    // A state's columns: its values, and z, which the normaliser reads.
    let wide = d + 16;
    let scratch = Host::<bf16>::scratch;
    let (mut keys, mut vals) = (Host::<bf16>::zeros(cols * f), scratch(cols * d));
    let (mut row, none) = (scratch(f), vec![bf16::ZERO; d]);
    for t in 0..len {
        let at = ((a + t) * n.g + g) * f;
        let row = match x.rounded {
            Some([_, phi_k]) => &phi_k[at..at + f],
            None => {
                narrow(&x.phi_k[at..at + f], &mut row);
                &row
            }
        };
        put_key(row, t % 16, &mut keys[t / 16 * 16 * f..][..16 * f]);
    }
    let value = |t: usize| if t < len { &values[((a + t) * n.g + g) * d..][..d] } else { &none };
    for (i, line) in vals.chunks_exact_mut(2 * d).enumerate() {
        interleave(value(2 * i), value(2 * i + 1), line);
    }
    // Rows (head, query).
    let first = (n.lag() + a) * n.h + g * group;
    let place = |row: usize| first + row % len * n.h + row / len;
    let mut by = PairProducts::new();
    let mut q = scratch(height * f);
    for (row, q) in q.chunks_exact_mut(f).enumerate() {
        let at = place(row) * f;
        match x.rounded {
            Some([phi_q, _]) => q.copy_from_slice(&phi_q[at..at + f]),
            None => narrow(&x.phi_q[at..at + f], q),
        }
    }
    let mut p = Host::<f32>::scratch(height * cols);
    let of_keys = Pairs { k: f / 2, a: start(&q), lda: f, b: start(&keys), ldb: 32, panel: 16 * f, c: p.as_mut_ptr(), ldc: cols, add: false, next: 0 };
    // SAFETY: `height` rows of f and of `cols`, which is whole panels of keys.
    unsafe { by.product(of_keys, height, cols) }
    let c = cumulative(x, n, g, a, len);
    let e = [0, 1].map(|i| {
        let mut e = Host::<f32>::scratch(len * cols);
        decay_matrix(&c[i], &mut e, cols);
        e
    });
    let mut weights = scratch(height * cols);
    let mut sums = vec![0.0f32; height];
    for i in 0..group {
        let gamma = [0, 1].map(|state| x.gamma[state * n.h + g * group + i]);
        let of = i * len * cols..(i + 1) * len * cols;
        decayed(&p[of.clone()], [&e[0], &e[1]], cols, gamma, &mut weights[of], &mut sums[i * len..(i + 1) * len]);
    }
    let mut num = Host::<f32>::scratch(height * wide);
    let mut state = scratch(f * wide);
    for i in 0..2 {
        let (s, z) = (states.s(n, i, g, at), states.z(n, i, g, at));
        for (j, line) in state.chunks_exact_mut(2 * wide).enumerate() {
            interleave_narrow(&s[2 * j * d..][..d], &s[(2 * j + 1) * d..][..d], line);
            line[2 * d..].fill(bf16::ZERO);
            narrow(&z[2 * j..2 * j + 2], &mut line[2 * d..2 * d + 2]);
        }
        let (mut reach, mut keep) = ([0.0; CHUNK], [0.0; CHUNK]);
        shares(&c[i], &mut reach, &mut keep);
        for (row, q) in q.chunks_exact_mut(f).enumerate() {
            let (at, weight) = (place(row) * f, x.gamma[i * n.h + g * group + row / len] * reach[row % len]);
            match x.rounded {
                Some([phi_q, _]) => scaled(&phi_q[at..at + f], weight, q),
                None => narrow_scaled(&x.phi_q[at..at + f], weight, q),
            }
        }
        let of_state = Pairs { k: f / 2, a: start(&q), lda: f, b: start(&state), ldb: 2 * wide, panel: 32, c: num.as_mut_ptr(), ldc: wide, add: i > 0, next: 0 };
        // SAFETY: `height` rows of f and of `wide`, a line of `wide` pairs for every two features.
        unsafe { by.product(of_state, height, wide) }
    }
    let of_values = Pairs { k: cols / 2, a: start(&weights), lda: cols, b: start(&vals), ldb: 2 * d, panel: 32, c: num.as_mut_ptr(), ldc: wide, add: true, next: 0 };
    // SAFETY: `height` rows of `cols`, and as many lines of d pairs as two keys; num is wider than d.
    unsafe { by.product(of_values, height, d) }
    for (row, num) in num.chunks_exact(wide).enumerate() {
        // SAFETY: the caller's.
        unsafe { into.put(place(row), &num[..d], sums[row] + num[d]) };
    }
}

fn start(x: &[bf16]) -> *const u16 {
    x.as_ptr() as *const u16
}

multiversion! {
    /// One head's rows: out <- p (gamma_1 e_1 + gamma_2 e_2), rounded, and its rows' sums before that.
    fn decayed<const FMA: bool>(p: &[f32], e: [&[f32]; 2], cols: usize, gamma: [f32; 2], out: &mut [bf16], sums: &mut [f32]) {
        let rows = p.chunks_exact(cols).zip(e[0].chunks_exact(cols).zip(e[1].chunks_exact(cols)));
        for ((p, (e0, e1)), (out, sum)) in rows.zip(out.chunks_exact_mut(cols).zip(sums)) {
            let mut lanes = [0.0f32; 16];
            for j in (0..cols).step_by(16) {
                let (p, e0, e1, out) = (&p[j..j + 16], &e0[j..j + 16], &e1[j..j + 16], &mut out[j..j + 16]);
                for l in 0..16 {
                    let w = p[l] * madd::<FMA>(gamma[0], e0[l], gamma[1] * e1[l]);
                    lanes[l] += w;
                    out[l] = nearest_bf16(w);
                }
            }
            *sum = tree(lanes);
        }
    }
}

multiversion! {
    /// [`narrow_scaled`] of bf16.
    fn scaled<const FMA: bool>(x: &[bf16], a: f32, out: &mut [bf16]) {
        let _ = FMA;
        out.iter_mut().zip(x).for_each(|(o, x)| *o = nearest_bf16(a * f32::from_bits((x.to_bits() as u32) << 16)));
    }
}

multiversion! {
    /// out <- a x, rounded.
    fn narrow_scaled<const FMA: bool>(x: &[f32], a: f32, out: &mut [bf16]) {
        let _ = FMA;
        out.iter_mut().zip(x).for_each(|(o, x)| *o = nearest_bf16(a * x));
    }
}
