//! Keys and values of one sequence in one softmax layer, on the host, in pages that sequences share: a clone copies none of
//! them, and whoever appends to a shared page takes a copy of that page first.

use super::{KvCache, Projected, turn};
use crate::Heads;
use dsla_kernels::ops::copy;
use dsla_kernels::ops::rope::Table;
use dsla_kernels::ops::softmax_attention as op;
use dsla_kernels::{DType, Device, Result, Tensor, View, ViewMut};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tokens of a page. A prompt may be cut at multiples of it without changing a bit (`dsla-model/src/llama.rs`), so a prefix
/// that ends there ends with a full page.
pub const PAGE: usize = 64;

/// The pages of all sequences of a model: how many there are, each counted once however many sequences share it.
///
/// Memory that pages let go of stays with the thread that dropped them for the next ones (up to 128 MB; not counted here).
#[derive(Debug, Default)]
pub struct PagePool {
    pages: AtomicUsize,
    bytes: AtomicUsize,
}

impl PagePool {
    /// Pages that some sequence holds.
    pub fn live_pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Their bytes.
    pub fn live_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

thread_local! {
    /// The lists of pages that attention reads, kept from call to call: a decode step allocates nothing.
    static VIEWS: RefCell<[Vec<View<'static>>; 2]> = const { RefCell::new([vec![], vec![]]) };
}

/// The same memory without its views. (Collecting what was a vector's takes its memory, where elements are as large.)
fn emptied<'a>(mut views: Vec<View<'_>>) -> Vec<View<'a>> {
    views.clear();
    views.into_iter().map(|_| -> View<'a> { unreachable!("none is left") }).collect()
}

/// What pages hold.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Float(DType),
    /// Bytes with a scale per token and head ([`op::Int8Rows`]): half of bf16.
    Int8,
}

#[derive(Clone, Debug)]
enum Rows {
    /// Keys, then values [2 PAGE, G, D].
    Float(Tensor),
    Int8 {
        k: op::Int8Rows,
        v: op::Int8Rows,
    },
}

#[derive(Debug)]
struct Page {
    rows: Rows,
    bytes: usize,
    pool: Arc<PagePool>,
}

impl Page {
    fn new(rows: Rows, bytes: usize, pool: Arc<PagePool>) -> Page {
        pool.pages.fetch_add(1, Ordering::Relaxed);
        pool.bytes.fetch_add(bytes, Ordering::Relaxed);
        Page { rows, bytes, pool }
    }
}

impl Clone for Page {
    fn clone(&self) -> Page {
        let mut rows = self.rows.clone();
        if let Rows::Int8 { k, v } = &mut rows {
            k.reserve(PAGE);
            v.reserve(PAGE);
        }
        Page::new(rows, self.bytes, self.pool.clone())
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.pool.pages.fetch_sub(1, Ordering::Relaxed);
        self.pool.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Rotated keys and values of one sequence in one layer, on the host.
#[derive(Clone, Debug)]
pub struct KvPages {
    heads: Heads,
    kind: Kind,
    pool: Arc<PagePool>,
    /// All full but the last.
    pages: Vec<Arc<Page>>,
    len: usize,
}

impl KvPages {
    /// Empty, to hold floats of this dtype.
    pub fn new(heads: Heads, dtype: DType, pool: &Arc<PagePool>) -> KvPages {
        KvPages { heads, kind: Kind::Float(dtype), pool: pool.clone(), pages: vec![], len: 0 }
    }

    /// Empty, to hold bytes with a scale per token and head: half of bf16.
    pub fn int8(heads: Heads, pool: &Arc<PagePool>) -> KvPages {
        KvPages { kind: Kind::Int8, ..KvPages::new(heads, DType::F32, pool) }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No tokens held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of its pages, shared ones too: whole pages.
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.page_bytes()
    }

    /// What tells its pages from others while they live, and their bytes: sequences that share one name the same.
    pub fn pages(&self) -> impl Iterator<Item = (usize, usize)> {
        self.pages.iter().map(|page| (Arc::as_ptr(page).addr(), page.bytes))
    }

    fn page_bytes(&self) -> usize {
        let (g, d) = (self.heads.kv_heads, self.heads.head_dim);
        match self.kind {
            Kind::Float(dtype) => 2 * PAGE * g * d * dtype.size(),
            Kind::Int8 => 2 * PAGE * op::Int8Rows::row_bytes(g, d),
        }
    }

    fn fresh(&self) -> Page {
        let (g, d) = (self.heads.kv_heads, self.heads.head_dim);
        let rows = match self.kind {
            Kind::Float(dtype) => Rows::Float(Tensor::empty([2 * PAGE, g, d], dtype)),
            Kind::Int8 => {
                let mut k = op::Int8Rows::new(g, d);
                k.reserve(PAGE);
                let mut v = op::Int8Rows::new(g, d);
                v.reserve(PAGE);
                Rows::Int8 { k, v }
            }
        };
        Page::new(rows, self.page_bytes(), self.pool.clone())
    }

    /// Append the new tokens' keys, which it rotates in place, and values.
    ///
    /// Errors: a shape, dtype or device that does not fit.
    pub fn take_in(&mut self, x: &mut Projected, table: &Table) -> Result<()> {
        turn(&mut x.k, self.len(), table, false)?;
        self.extend(x.k.view(), x.v.view())
    }

    /// Append rotated keys and values [T, G, D] f32.
    ///
    /// Errors: a shape, dtype or device that does not fit.
    pub fn extend(&mut self, k: View, v: View) -> Result<()> {
        let [t, g, d] = k.dims("pages", "k")?;
        k.expect_f32("pages", "k", &[t, self.heads.kv_heads, self.heads.head_dim])?;
        v.expect_f32("pages", "v", &[t, g, d])?;
        let mut done = 0;
        while done < t {
            let row = self.len % PAGE;
            if row == 0 {
                self.pages.push(Arc::new(self.fresh()));
            }
            let Some(page) = self.pages.last_mut() else { unreachable!("row 0 pushes one") };
            let end = t.min(done + PAGE - row);
            let (n, k, v) = (end - done, k.rows(done, end), v.rows(done, end));
            match &mut Arc::make_mut(page).rows {
                Rows::Float(rows) => {
                    copy::cast(k, rows.view_mut().rows(row, row + n))?;
                    copy::cast(v, rows.view_mut().rows(PAGE + row, PAGE + row + n))?;
                }
                Rows::Int8 { k: keys, v: values } => {
                    keys.extend(k)?;
                    values.extend(v)?;
                }
            }
            self.len += n;
            done = end;
        }
        Ok(())
    }

    /// Pages with the rows in use of each.
    fn used(&self) -> impl Iterator<Item = (&Rows, usize)> {
        self.pages.iter().enumerate().map(|(i, page)| (&page.rows, PAGE.min(self.len - i * PAGE)))
    }

    /// Softmax attention of queries [T, H, D], whose keys are the last ones appended, into out [T, H, D] f32.
    fn attend(&self, q: View, out: ViewMut) -> Result<()> {
        match self.kind {
            Kind::Float(_) => {
                let [mut k, mut v]: [Vec<View>; 2] = VIEWS.take();
                for (rows, n) in self.used() {
                    if let Rows::Float(rows) = rows {
                        k.push(rows.rows(0, n));
                        v.push(rows.rows(PAGE, PAGE + n));
                    }
                }
                let done = op::forward_pages(q, &k, &v, out);
                VIEWS.set([emptied(k), emptied(v)]);
                done
            }
            Kind::Int8 => {
                let (mut keys, mut values) = (vec![], vec![]);
                for (rows, _) in self.used() {
                    if let Rows::Int8 { k, v } = rows {
                        keys.push(k);
                        values.push(v);
                    }
                }
                op::forward_int8(q, &keys, &values, out)
            }
        }
    }

    /// A copy in one piece, in this dtype: what a fold reads.
    ///
    /// Errors: none on the host.
    pub fn to_cache(&self, dtype: DType) -> Result<KvCache> {
        let make = || Tensor::empty([self.len, self.heads.kv_heads, self.heads.head_dim], dtype);
        let (mut k, mut v) = (make(), make());
        for (i, (rows, n)) in self.used().enumerate() {
            let (a, b) = (i * PAGE, i * PAGE + n);
            let (to_k, to_v) = (k.view_mut().rows(a, b), v.view_mut().rows(a, b));
            match rows {
                Rows::Float(rows) => {
                    copy::cast(rows.rows(0, n), to_k)?;
                    copy::cast(rows.rows(PAGE, PAGE + n), to_v)?;
                }
                Rows::Int8 { k, v } => {
                    copy::cast(k.to_tensor().view(), to_k)?;
                    copy::cast(v.to_tensor().view(), to_v)?;
                }
            }
        }
        Ok(KvCache { k, v })
    }
}

/// [`softmax_attention`](super::softmax_attention) over pages, with its bits where they hold floats: [T, H, D] f32.
///
/// Errors: as there.
pub fn softmax_attention_pages(mut x: Projected, table: &Table, cache: &mut KvPages) -> Result<Tensor> {
    turn(&mut x.q, cache.len(), table, false)?;
    cache.take_in(&mut x, table)?;
    let mut out = Tensor::empty_on(Device::Cpu, x.q.shape(), DType::F32)?;
    cache.attend(x.q.view(), out.view_mut())?;
    Ok(out)
}
