//! Causal softmax attention with grouped key/value heads, over a cache: prefill, chunked prefill and decode.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;

use crate::vec::expect_float;
use crate::{Device, Error, Result, View, ViewMut};

const OP: &str = "softmax_attention";

/// Sizes of a call: T queries are the last of S positions; H query heads share G kv heads of size D.
#[derive(Clone, Copy, Debug)]
pub struct Dims {
    /// Queries.
    pub t: usize,
    /// Keys.
    pub s: usize,
    /// Query heads.
    pub h: usize,
    /// Key/value heads.
    pub g: usize,
    /// Head size.
    pub d: usize,
}

fn dims(q: &View, k: &View, v: &View) -> Result<Dims> {
    let ([t, h, d], [s, g, _]) = (q.dims(OP, "q")?, k.dims(OP, "k")?);
    q.expect_f32(OP, "q", &[t, h, d])?;
    k.expect_shape(OP, "k", &[s, g, d])?;
    v.expect_shape(OP, "v", &[s, g, d])?;
    expect_float(k, OP, "k")?;
    expect_float(v, OP, "v")?;
    if g == 0 || h % g != 0 {
        return Err(Error::Argument { op: OP, arg: "heads", got: format!("{h} query and {g} kv heads"), want: "a multiple".into() });
    }
    if s < t {
        return Err(Error::Argument { op: OP, arg: "k", got: format!("{s} keys for {t} queries"), want: "at least one each".into() });
    }
    Ok(Dims { t, s, h, g, d })
}

/// out = softmax(q k^T / sqrt(D) + causal mask) v. q, out: [T, H, D] f32; k, v: [S, G, D] f32 or bf16; query t is
/// position S - T + t and sees keys 0..=S - T + t; query head h reads kv head h G / H.
pub fn forward(q: View, k: View, v: View, out: ViewMut) -> Result<()> {
    let n = dims(&q, &k, &v)?;
    let out = out.expect_f32(OP, "out", &[n.t, n.h, n.d])?;
    cpu::forward(q.expect_f32(OP, "q", &[n.t, n.h, n.d])?, k, v, n, out);
    Ok(())
}

/// Gradients of [`forward`], all written. out, d_out, dq: [T, H, D]; dk, dv: [S, G, D], all f32.
pub fn backward(q: View, k: View, v: View, out: View, d_out: View, dq: ViewMut, dk: ViewMut, dv: ViewMut) -> Result<()> {
    let n = dims(&q, &k, &v)?;
    let shape = [n.t, n.h, n.d];
    let (qs, os) = (q.expect_f32(OP, "q", &shape)?, out.expect_f32(OP, "out", &shape)?);
    let (ds, dq) = (d_out.expect_f32(OP, "d_out", &shape)?, dq.expect_f32(OP, "dq", &shape)?);
    let dk = dk.expect_f32(OP, "dk", &[n.s, n.g, n.d])?;
    let dv = dv.expect_f32(OP, "dv", &[n.s, n.g, n.d])?;
    cpu::backward(qs, k, v, n, os, ds, dq, dk, dv);
    Ok(())
}
