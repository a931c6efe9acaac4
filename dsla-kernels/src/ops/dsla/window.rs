//! The window of the forward pass: its keys packed once, read by every tile of queries.

use super::cpu::scaled_softmax;
use super::{Args, Dims};
use crate::bf16;
use crate::gemm::{Into, PairProducts};
use crate::host::Host;
use crate::pair_panels::{PairPanels, TILE};
use crate::panels::{Of, Panels};
use crate::vec::{SoftRow, head_rows, narrow};
use crate::{Slice, View};

/// The call's keys and the sinks.
pub struct Window {
    pub keys: Keys,
    /// The keys are moved by this, so that the first of a tile, a multiple of 16 queries from the call's first, begins a panel.
    pub lead: usize,
}

pub enum Keys {
    F32 { near: Panels, sinks: Panels },
    Pairs { near: PairPanels, sinks: PairPanels },
}

/// What the queries of a tile read: sums of values [rows, D] by weights e^(s - peak), and each row's peak and sum of weights.
pub type Read = (Host<f32>, Vec<(f32, f32)>);

impl Window {
    /// `exact`: nothing is rounded.
    pub fn new(x: &Args, n: Dims, exact: bool) -> Window {
        let first = (n.r + 1) as isize - n.w as isize;
        let lead = (-first).rem_euclid(16) as usize;
        let all = [x.k, x.v, x.sink_k, x.sink_v];
        // q and the weights are rounded, too, where this multiplies bf16, as in softmax attention.
        if !exact && n.d.is_multiple_of(16) && all.iter().all(|x| matches!(x.slice(), Slice::BF16(_))) {
            let near = pairs(x.k, x.v, n.g, n.d, lead);
            return Window { keys: Keys::Pairs { near, sinks: pairs(x.sink_k, x.sink_v, n.g, n.d, 0) }, lead };
        }
        let pack = |count, lead, [k, v]: [_; 2]| {
            Panels::new(n.g, count, n.d, lead, |of, g, j, out: &mut [f32]| {
                head_rows(if of == Of::Keys { k } else { v }, g, j, out.len() / n.d, out)
            })
        };
        let near = pack(n.r + n.t, lead, [&x.k, &x.v]);
        Window { keys: Keys::F32 { near, sinks: pack(n.n, 0, [&x.sink_k, &x.sink_v]) }, lead }
    }

    /// Row of the panels of the first key that query t sees; it may lie in the midst of one, where a sequence begins.
    pub fn place(&self, n: Dims, t: usize) -> usize {
        self.lead + (t + n.r + 1).saturating_sub(n.w)
    }

    /// Queries t0..t0 + m of kv head g, rows (head, query) of q [rows, D].
    pub fn tile(&self, n: Dims, g: usize, t0: usize, m: usize, q: Host<f32>) -> Read {
        let first = self.place(n, t0) / 16 * 16;
        let near = self.lead + t0 + m + n.r - first;
        // From `near` keys on and from the sinks on: what a row does not see is -inf.
        let hide = |a: &mut [f32], row: usize, sinks: usize| {
            let r = row % m;
            let (from, to) = (self.place(n, t0 + r) - first, self.lead + t0 + r + n.r + 1 - first);
            a[..from].fill(f32::NEG_INFINITY);
            a[to..sinks].fill(f32::NEG_INFINITY);
            a[sinks + n.sinks(t0 + r)..].fill(f32::NEG_INFINITY);
        };
        let (height, scale) = (q.len() / n.d.max(1), 1.0 / (n.d as f32).sqrt());
        match &self.keys {
            Keys::F32 { near: keys, sinks } => {
                let (cols, ld) = (near + n.n, (near + n.n).next_multiple_of(16));
                let mut a = Host::<f32>::scratch(height * ld);
                keys.scores(g, first, near, &q, &mut a, ld);
                sinks.scores(g, 0, n.n, &q, &mut a[near.min(height * ld)..], ld);
                let stats = a.chunks_exact_mut(ld.max(1)).enumerate().map(|(row, a)| {
                    hide(&mut a[..cols], row, near);
                    scaled_softmax(&mut a[..cols], scale)
                });
                let stats = stats.collect();
                let mut num = q;
                keys.weighted(Into::Store, g, first, near, &a, ld, &mut num);
                sinks.weighted(Into::Add, g, 0, n.n, &a[near.min(height * ld)..], ld, &mut num);
                (num, stats)
            }
            Keys::Pairs { near: keys, sinks } => {
                let whole = near.next_multiple_of(TILE);
                let ld = whole + n.n.next_multiple_of(TILE);
                let mut by = PairProducts::new();
                let mut rounded = Host::<bf16>::scratch(q.len());
                narrow(&q, &mut rounded);
                let (mut a, mut w) = (Host::<f32>::scratch(height * ld), Host::<bf16>::scratch(height * ld));
                keys.scores(&mut by, g, first, near, &rounded, &mut a, ld);
                sinks.scores(&mut by, g, 0, n.n, &rounded, &mut a[whole.min(height * ld)..], ld);
                let rows = a.chunks_exact_mut(ld).zip(w.chunks_exact_mut(ld)).enumerate();
                let stats = rows.map(|(row, (a, w))| {
                    hide(a, row, whole);
                    let (mut soft, scale2) = (SoftRow::NONE, scale * std::f32::consts::LOG2_E);
                    soft.raise(a, scale2);
                    soft.weigh(a, scale2, w);
                    (soft.peak * scale, soft.sum())
                });
                let stats = stats.collect();
                let mut num = q;
                num.fill(0.0);
                keys.weighted(&mut by, g, first, near, &w, ld, &mut num, 0..n.d);
                sinks.weighted(&mut by, g, 0, n.n, &w[whole.min(height * ld)..], ld, &mut num, 0..n.d);
                (num, stats)
            }
        }
    }
}

/// Keys and values [S, G, D] of bf16.
fn pairs(k: View, v: View, g: usize, d: usize, lead: usize) -> PairPanels {
    let (Slice::BF16(k), Slice::BF16(v)) = (k.slice(), v.slice()) else { unreachable!("the dtype was checked") };
    PairPanels::new(g, k.len() / (g * d).max(1), d, lead, |of, head, j| {
        &(if of == Of::Keys { k } else { v })[(j * g + head) * d..][..d]
    })
}
