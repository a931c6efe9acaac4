//! The backward pass: states and their gradients at the chunks' borders, then every chunk, then the window, all in parallel.
//!
//! With u = weight * d_num and w = weight * d_den per query, the weight of key t for query s has gradient
//! dA[s, t] = u_s . v_t + w_s. The gradient of the cumulative log decay c is
//! `phi_q . d_phi_q - phi_k . d_phi_k` per token and state plus `<S, dS>` at a chunk's end, so the gates need no
//! kernel of their own: d log_decay is its reverse cumulative sum inside the chunk.

mod scalar;
mod sweep;
mod vector;
mod window;

use super::chunk::chunk_len;
use super::cpu::{LOG_WEIGHT, f32s, linear, log_weight};
use super::{Args, Dims, Normalizer};
use crate::host::Host;
use crate::par::{self, SendPtr};
use crate::vec::{axpy, dot, scaled};

pub struct Forward<'a> {
    pub s0: &'a [f32],
    pub z0: &'a [f32],
    pub den: &'a [f32],
    pub peak: &'a [f32],
    pub out: &'a [f32],
    pub d_out: &'a [f32],
}

pub struct Into<'a> {
    pub phi_q: &'a mut [f32],
    pub phi_k: &'a mut [f32],
    pub log_decay: &'a mut [f32],
    pub gamma: &'a mut [f32],
    pub mix: &'a mut [f32],
    pub slope: &'a mut [f32],
    pub s: &'a mut [f32],
    pub z: &'a mut [f32],
    pub qkv: Option<[&'a mut [f32]; 5]>,
}

/// Where the chunks put their gradients: every (chunk, kv head) has elements of its own.
struct Out {
    phi_q: SendPtr<f32>,
    phi_k: SendPtr<f32>,
    log_decay: SendPtr<f32>,
    dv: Option<SendPtr<f32>>,
    /// d gamma [chunks, H, 2], to be summed over chunks in order.
    d_gamma: SendPtr<f32>,
    /// phi_q . d_phi_q [T, H]: gradient of a row's log weight, whose whole linear part it is.
    d_log: SendPtr<f32>,
}

/// What makes the gradients of num and den of a (query, head) row: d_num = scale d_out + pull out.
#[derive(Clone, Copy, Default)]
struct Row {
    scale: f32,
    pull: f32,
    d_den: f32,
    /// Weight of the states: u = weight d_num, w = weight d_den.
    weight: f32,
}

/// All rows [T, H].
struct Rows(Vec<Row>);

impl Rows {
    fn new(x: &Args, n: Dims, fwd: &Forward) -> Rows {
        let (mix, slope) = (f32s(&x.mix), f32s(&x.slope));
        let mut all = vec![Row::default(); n.t * n.h];
        const PIECE: usize = 512;
        par::for_each_chunk(&mut all, PIECE, |piece, rows| {
            for (i, row) in rows.iter_mut().enumerate() {
                let at = piece * PIECE + i;
                let along = dot(&fwd.out[at * n.d..][..n.d], &fwd.d_out[at * n.d..][..n.d]);
                let inv = 1.0 / fwd.den[at];
                let h = at % n.h;
                let weight = if n.w > 0 { log_weight(mix[h], slope[h], fwd.peak[at]).exp() } else { 1.0 };
                *row = match x.normalizer {
                    Normalizer::None => Row { scale: 1.0, pull: 0.0, d_den: 0.0, weight },
                    Normalizer::Sum => Row { scale: inv, pull: 0.0, d_den: -along * inv, weight },
                    Normalizer::Rms => Row { scale: inv, pull: -along / n.d as f32 * inv, d_den: 0.0, weight },
                };
            }
        });
        Rows(all)
    }

    fn weight(&self, at: usize) -> f32 {
        self.0[at].weight
    }

    /// to [D + 1] = by (d_num, d_den) of a row.
    fn gather(&self, fwd: &Forward, at: usize, by: f32, to: &mut [f32]) {
        let (row, d) = (&self.0[at], to.len() - 1);
        scaled(&fwd.d_out[at * d..][..d], by * row.scale, &mut to[..d]);
        if row.pull != 0.0 {
            axpy(by * row.pull, &fwd.out[at * d..][..d], &mut to[..d]);
        }
        to[d] = by * row.d_den;
    }
}

pub fn backward(x: &Args, n: Dims, fwd: Forward, mut into: Into) {
    let lin = linear(x);
    let rows = Rows::new(x, n, &fwd);
    if let Some([q, others @ ..]) = &mut into.qkv {
        others.iter_mut().for_each(|x| x.fill(0.0));
        // (A window writes it.)
        if n.w == 0 {
            q.fill(0.0);
        }
    }
    // The first queries read nothing but the window.
    into.phi_q[..(n.t - n.l) * n.h * n.f].fill(0.0);
    let mut d_gamma = Host::<f32>::zeros(n.l.div_ceil(chunk_len(n.e)) * n.h * 2);
    let mut d_log = Host::<f32>::zeros(n.t * n.h);
    let out = Out {
        phi_q: SendPtr(into.phi_q.as_mut_ptr()),
        phi_k: SendPtr(into.phi_k.as_mut_ptr()),
        log_decay: SendPtr(into.log_decay.as_mut_ptr()),
        dv: into.qkv.as_mut().map(|q| SendPtr(q[2].as_mut_ptr())),
        d_gamma: SendPtr(d_gamma.as_mut_ptr()),
        d_log: SendPtr(d_log.as_mut_ptr()),
    };
    let by_decays = if n.e == 1 { scalar::backward } else { vector::backward };
    by_decays(&lin, n, &fwd, &rows, into.s, into.z, &out);
    for c in d_gamma.chunks_exact((n.h * 2).max(1)) {
        for h in 0..n.h {
            into.gamma[h] += c[2 * h];
            into.gamma[n.h + h] += c[2 * h + 1];
        }
    }
    if n.w == 0 {
        return;
    }
    let (mix, slope) = (f32s(&x.mix), f32s(&x.slope));
    for at in 0..n.t * n.h {
        let h = at % n.h;
        if (mix[h] - slope[h] * fwd.peak[at]).abs() < LOG_WEIGHT as f32 {
            into.mix[h] += d_log[at];
            into.slope[h] -= fwd.peak[at] * d_log[at];
        }
    }
    if let Some(qkv) = into.qkv {
        window::backward(x, n, &fwd, &rows, &d_log, qkv);
    }
}
