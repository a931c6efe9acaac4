//! A cache of bytes: half the memory of bf16, and half of what a decode step reads.

use super::{Dims, OP, cpu, sizes};
use crate::cache::{Rows, WIDE};
use crate::{Device, Error, Result, Tensor, View, ViewMut, par};

/// Keys or values [S, G, D] of one sequence as int8, each head of each token with its own scale, max |x| / 127.
#[derive(Clone, Debug)]
pub struct Int8Rows {
    /// [S, G, D up to a multiple of 32]
    data: Vec<i8>,
    /// [S, G]
    scales: Vec<f32>,
    heads: usize,
    dim: usize,
}

impl Int8Rows {
    /// No rows yet, of `heads` kv heads of size `dim`.
    pub fn new(heads: usize, dim: usize) -> Int8Rows {
        Int8Rows { data: vec![], scales: vec![], heads, dim }
    }

    /// Bytes of a row with its scales.
    pub fn row_bytes(heads: usize, dim: usize) -> usize {
        heads * (dim.next_multiple_of(WIDE) + 4)
    }

    /// Make room for `rows` rows in all, exactly.
    pub fn reserve(&mut self, rows: usize) {
        let more = rows.saturating_sub(self.len()) * self.heads;
        self.scales.reserve_exact(more);
        self.data.reserve_exact(more * self.wide());
    }

    /// Append rows [T, G, D] f32.
    ///
    /// Errors: a shape, dtype or device that does not fit.
    pub fn extend(&mut self, rows: View) -> Result<()> {
        let [t, _, _] = rows.dims(OP, "rows")?;
        let x = rows.expect_f32(OP, "rows", &[t, self.heads, self.dim])?;
        let (wide, old) = (self.wide(), self.scales.len());
        self.scales.resize(old + t * self.heads, 0.0);
        self.data.resize(self.scales.len() * wide, 0);
        for (i, x) in x.chunks_exact(self.dim.max(1)).enumerate() {
            let peak = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let scale = peak / 127.0;
            let inv = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let out = &mut self.data[(old + i) * wide..][..wide];
            out.iter_mut().zip(x).for_each(|(o, x)| *o = (x * inv).round() as i8);
            self.scales[old + i] = scale;
        }
        Ok(())
    }

    /// Rows held.
    pub fn len(&self) -> usize {
        self.scales.len() / self.heads.max(1)
    }

    /// No rows held.
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len() + 4 * self.scales.len()
    }

    /// What they stand for, [S, G, D] f32.
    pub fn to_tensor(&self) -> Tensor {
        let mut x = Tensor::empty([self.len(), self.heads, self.dim], crate::DType::F32);
        let (heads, dim) = (self.heads, self.dim);
        par::for_each_chunk(x.f32_mut(), heads * dim, |j, row| {
            for (g, row) in row.chunks_exact_mut(dim).enumerate() {
                self.head(j, g, row);
            }
        });
        x
    }

    /// Row j of head g as f32.
    pub(crate) fn head(&self, j: usize, g: usize, out: &mut [f32]) {
        let (data, scale) = self.run(j, g);
        out.iter_mut().zip(data).for_each(|(o, x)| *o = *x as f32 * scale[0]);
    }

    /// Bytes and scales from row j of head g on.
    pub(crate) fn run(&self, j: usize, g: usize) -> (&[i8], &[f32]) {
        let at = j * self.heads + g;
        (&self.data[at * self.wide()..], &self.scales[at..])
    }

    /// Columns of a row, padding included.
    pub(crate) fn wide(&self) -> usize {
        self.dim.next_multiple_of(WIDE)
    }

    /// Kv heads and their size.
    pub(crate) fn sizes(&self) -> [usize; 2] {
        [self.heads, self.dim]
    }
}

/// [`forward_pages`](super::forward_pages) over a cache of bytes: keys and values are what they stand for. q, out: [T, H, D]
/// f32 on the host; query t is position S - T + t.
///
/// Errors: no pages, shapes that do not fit; another device (GPUs have no kernel for it).
pub fn forward_int8(q: View, k: &[&Int8Rows], v: &[&Int8Rows], out: ViewMut) -> Result<()> {
    let [t, h, d] = q.dims(OP, "q")?;
    if q.device() != Device::Cpu {
        return Err(Error::Device { op: OP, arg: "q", got: q.device(), want: Device::Cpu });
    }
    let wrong = |got, want| Err(Error::Argument { op: OP, arg: "k", got, want });
    let (Some(first), Some(last)) = (k.first(), k.last()) else {
        return wrong("no pages".into(), "at least one".into());
    };
    let ([g, _], page) = (first.sizes(), first.len());
    let whole = |i: usize, x: &Int8Rows| x.len() == page || (i + 1 == k.len() && x.len() < page);
    let fits = |(i, (k, v)): (usize, (&&Int8Rows, &&Int8Rows))| {
        whole(i, k) && v.len() == k.len() && [k.sizes(), v.sizes()] == [[g, d]; 2]
    };
    if k.len() != v.len() || !k.iter().zip(v).enumerate().all(fits) {
        let held = |x: &[&Int8Rows]| x.iter().map(|x| (x.len(), x.sizes())).collect::<Vec<_>>();
        return wrong(format!("keys {:?}, values {:?}", held(k), held(v)), format!("heads of {d}, alike, in equal pages"));
    }
    let n = sizes(Dims { t, s: (k.len() - 1) * page + last.len(), h, g, d })?;
    let (qs, outs) = (q.expect_f32(OP, "q", &[t, h, d])?, out.expect_f32(OP, "out", &[t, h, d])?);
    cpu::forward(qs, Rows::Int8(k), Rows::Int8(v), n, outs);
    Ok(())
}
