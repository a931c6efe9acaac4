//! Causal softmax attention with grouped key/value heads, over a cache: prefill, chunked prefill and decode.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
mod int8;
pub mod naive;

use super::copy;
pub use int8::{Int8Rows, forward_int8};

use crate::cache::Rows;
use crate::{DType, Device, Error, Result, View, ViewMut};

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

/// Sizes of a paged decode: B sequences, one query token each; a pool of P pages of `page` positions; a row of the
/// table names up to `pages` of them.
#[derive(Clone, Copy, Debug)]
pub struct Paged {
    /// Sequences.
    pub b: usize,
    /// Pages of the pool.
    pub p: usize,
    /// Positions of a page.
    pub page: usize,
    /// Entries of a row of the table.
    pub pages: usize,
    /// Query heads.
    pub h: usize,
    /// Key/value heads.
    pub g: usize,
    /// Head size.
    pub d: usize,
}

impl Paged {
    /// Positions that a row of the table can name.
    pub fn capacity(&self) -> usize {
        self.pages * self.page
    }
}

fn heads(h: usize, g: usize) -> Result<()> {
    if g == 0 || !h.is_multiple_of(g) {
        let got = format!("{h} query and {g} kv heads");
        return Err(Error::Argument { op: OP, arg: "heads", got, want: "a multiple".into() });
    }
    Ok(())
}

/// Keys and values of one float type, all on the device of q.
fn keys(q: &View, k: (&View, &'static str), v: (&View, &'static str), want: &[usize]) -> Result<()> {
    let (dtype, device) = (k.0.dtype(), q.device());
    if dtype == DType::U32 {
        return Err(Error::DType { op: OP, arg: k.1, got: dtype, want: "f32, bf16 or f16" });
    }
    k.0.expect_on(OP, k.1, device, dtype, want)?;
    v.0.expect_on(OP, v.1, device, dtype, want)
}

fn dims(q: &View, k: &View, v: &View) -> Result<Dims> {
    let ([t, h, d], [s, g, _]) = (q.dims(OP, "q")?, k.dims(OP, "k")?);
    q.expect_on(OP, "q", q.device(), DType::F32, &[t, h, d])?;
    keys(q, (k, "k"), (v, "v"), &[s, g, d])?;
    sizes(Dims { t, s, h, g, d })
}

/// [`dims`] of keys and values in pages.
fn pages(q: &View, k: &[View], v: &[View]) -> Result<Dims> {
    let wrong = |arg, got: String, want: &str| Err(Error::Argument { op: OP, arg, got, want: want.into() });
    let ([t, h, d], Some((first, more))) = (q.dims(OP, "q")?, k.split_first()) else {
        return wrong("k", "no pages".into(), "at least one");
    };
    let [page, g, _] = first.dims(OP, "k")?;
    if v.len() != k.len() {
        return wrong("v", format!("{} pages", v.len()), &format!("{}, as of keys", k.len()));
    }
    let last = match more.last() {
        Some(last) => last.dims::<3>(OP, "k")?[0],
        None => page,
    };
    if last > page || (page == 0 && !more.is_empty()) {
        return wrong("k", format!("{last} rows in the last page"), &format!("at most {page}, as in the first"));
    }
    q.expect_on(OP, "q", q.device(), DType::F32, &[t, h, d])?;
    for (i, (k, v)) in k.iter().zip(v).enumerate() {
        let rows = if i == more.len() { last } else { page };
        k.expect_on(OP, "k", q.device(), first.dtype(), &[rows, g, d])?;
        keys(q, (k, "k"), (v, "v"), &[rows, g, d])?;
    }
    sizes(Dims { t, s: more.len() * page + last, h, g, d })
}

fn sizes(n: Dims) -> Result<Dims> {
    heads(n.h, n.g)?;
    if n.s < n.t {
        let got = format!("{} keys for {} queries", n.s, n.t);
        return Err(Error::Argument { op: OP, arg: "k", got, want: "at least one each".into() });
    }
    Ok(n)
}

/// Of f32 and the keys' dtype the one that `out` is in; f32 where it is in neither.
fn either(out: &ViewMut, k: &View) -> DType {
    if out.dtype() == k.dtype() { k.dtype() } else { DType::F32 }
}

/// out = softmax(q k^T / sqrt(D) + causal mask) v. q: [T, H, D] f32; k, v: [S, G, D] f32, bf16 or f16; out: [T, H, D]
/// f32 or, rounded once, the dtype of k; query t is position S - T + t and sees keys 0..=S - T + t; query head h reads
/// kv head h G / H.
///
/// On a GPU D is 64 or 128. Above 8 queries q and the probabilities are rounded to the dtype of k there, and on a CPU that
/// multiplies bf16 if k is bf16.
pub fn forward(q: View, k: View, v: View, mut out: ViewMut) -> Result<()> {
    let n = dims(&q, &k, &v)?;
    out.as_view().expect_on(OP, "out", q.device(), either(&out, &k), &[n.t, n.h, n.d])?;
    if q.device() != Device::Cpu {
        return cuda::forward(q, k, v, &mut out, n);
    }
    forward_pages(q, &[k], &[v], out)
}

/// [`forward`] over keys and values in pages, on the host: lists of [P, G, D], of P rows each, but the last may have fewer.
/// The bits are those of the same rows in one piece.
///
/// Errors: shapes and dtypes; no pages; another device (GPUs read pages by [`paged_decode`] alone).
pub fn forward_pages(q: View, k: &[View], v: &[View], out: ViewMut) -> Result<()> {
    let n = pages(&q, k, v)?;
    if q.device() != Device::Cpu {
        return Err(Error::Device { op: OP, arg: "q", got: q.device(), want: Device::Cpu });
    }
    out.as_view().expect_on(OP, "out", q.device(), either(&out, &k[0]), &[n.t, n.h, n.d])?;
    if out.dtype() != DType::F32 {
        return copy::through_f32(out, |out| forward_pages(q, k, v, out));
    }
    let q = q.expect_f32(OP, "q", &[n.t, n.h, n.d])?;
    let out = out.expect_f32(OP, "out", &[n.t, n.h, n.d])?;
    cpu::forward(q, Rows::Float(k), Rows::Float(v), n, out);
    Ok(())
}

/// One query token per sequence against a paged cache: out_b = softmax(q_b k^T / sqrt(D)) v over the first `lens[b]`
/// positions of sequence b; position j is row j % page of page `table[b][j / page]` of the pools. q: [B, H, D] f32;
/// out: [B, H, D] f32 or, rounded once, the dtype of the pools; k_pool, v_pool: [P, page, G, D] f32, bf16 or f16; table:
/// [B, pages] u32; lens: [B] u32. A sequence without positions gets zeros; entries of the table beyond its last position
/// are not used.
///
/// The bits of a sequence depend on nothing but its own q, keys and values.
///
/// Errors: shapes and dtypes; a page size that is no power of two; on the host, lengths beyond the table and pages
/// beyond the pool (a GPU cannot tell: it takes the longest length and the last page instead, and never reads outside).
pub fn paged_decode(
    q: View,
    k_pool: View,
    v_pool: View,
    table: View,
    lens: View,
    mut out: ViewMut,
) -> Result<()> {
    let ([b, h, d], [p, page, g, _]) = (q.dims(OP, "q")?, k_pool.dims(OP, "k_pool")?);
    let [_, pages] = table.dims(OP, "table")?;
    let device = q.device();
    q.expect_on(OP, "q", device, DType::F32, &[b, h, d])?;
    keys(&q, (&k_pool, "k_pool"), (&v_pool, "v_pool"), &[p, page, g, d])?;
    table.expect_on(OP, "table", device, DType::U32, &[b, pages])?;
    lens.expect_on(OP, "lens", device, DType::U32, &[b])?;
    out.as_view().expect_on(OP, "out", device, either(&out, &k_pool), &[b, h, d])?;
    heads(h, g)?;
    if !page.is_power_of_two() {
        let (got, want) = (page.to_string(), "a power of two".into());
        return Err(Error::Argument { op: OP, arg: "page", got, want });
    }
    if p == 0 {
        return Err(Error::Argument {
            op: OP,
            arg: "k_pool",
            got: "no pages".into(),
            want: "at least one".into(),
        });
    }
    let n = Paged { b, p, page, pages, h, g, d };
    if device != Device::Cpu {
        return cuda::paged(q, k_pool, v_pool, table, lens, &mut out, n);
    }
    if out.dtype() != DType::F32 {
        return copy::through_f32(out, |out| paged_decode(q, k_pool, v_pool, table, lens, out));
    }
    let (qs, outs) = (q.expect_f32(OP, "q", &[b, h, d])?, out.expect_f32(OP, "out", &[b, h, d])?);
    let (ids, lens) = (table.expect_u32(OP, "table", &[b, pages])?, lens.expect_u32(OP, "lens", &[b])?);
    for (i, &len) in lens.iter().enumerate() {
        let len = len as usize;
        if len > n.capacity() {
            let (got, want) = (format!("{len} in sequence {i}"), format!("at most {}", n.capacity()));
            return Err(Error::Argument { op: OP, arg: "lens", got, want });
        }
        let used = &ids[i * pages..][..len.div_ceil(page)];
        if let Some(id) = used.iter().find(|id| **id as usize >= p) {
            let (got, want) = (format!("page {id} in sequence {i}"), format!("below {p}"));
            return Err(Error::Argument { op: OP, arg: "table", got, want });
        }
    }
    cpu::paged(qs, k_pool, v_pool, ids, lens, n, outs);
    Ok(())
}

/// Gradients of [`forward`], all written. out, d_out, dq: [T, H, D]; dk, dv: [S, G, D], all f32.
pub fn backward(
    q: View,
    k: View,
    v: View,
    out: View,
    d_out: View,
    mut dq: ViewMut,
    mut dk: ViewMut,
    mut dv: ViewMut,
) -> Result<()> {
    let n = dims(&q, &k, &v)?;
    let (of_q, of_k) = ([n.t, n.h, n.d], [n.s, n.g, n.d]);
    for (x, arg, want) in [
        (out, "out", &of_q),
        (d_out, "d_out", &of_q),
        (dq.as_view(), "dq", &of_q),
        (dk.as_view(), "dk", &of_k),
        (dv.as_view(), "dv", &of_k),
    ] {
        x.expect_on(OP, arg, q.device(), DType::F32, want)?;
    }
    if q.device() != Device::Cpu {
        return cuda::backward(q, k, v, out, d_out, &mut dq, &mut dk, &mut dv, n);
    }
    let (qs, os) = (q.expect_f32(OP, "q", &of_q)?, out.expect_f32(OP, "out", &of_q)?);
    let (ds, dq) = (d_out.expect_f32(OP, "d_out", &of_q)?, dq.expect_f32(OP, "dq", &of_q)?);
    let (dk, dv) = (dk.expect_f32(OP, "dk", &of_k)?, dv.expect_f32(OP, "dv", &of_k)?);
    cpu::backward(qs, k, v, n, os, ds, dq, dk, dv);
    Ok(())
}
