//! Decode of a batch: one token of each of B sequences, whose states, rings and sinks lie in pools of fixed size.

use super::{Args, Dims, Normalizer, OP, check_heads, cpu, cuda};
use crate::view::PlaceMut;
use crate::{DType, Device, Error, Result, Slice, SliceMut, Tensor, View, ViewMut};

/// The inputs of one call. Sequence b of the batch is `slot[b]` of the pools.
#[derive(Clone, Copy, Debug)]
pub struct BatchArgs<'a> {
    /// Rotated queries [B, H, D] f32; read only with a window.
    pub q: View<'a>,
    /// The tokens' window keys [B, G, D], f32, bf16 or f16.
    pub k: View<'a>,
    /// Their values [B, G, D], of the same type.
    pub v: View<'a>,
    /// Keys of each sequence's first N positions [SLOTS, N, G, D], of the same type.
    pub sink_k: View<'a>,
    /// Their values [SLOTS, N, G, D].
    pub sink_v: View<'a>,
    /// Where each sequence lies in the pools [B] u32, all different and below SLOTS.
    pub slot: View<'a>,
    /// Row of its ring that holds the oldest key [B] u32, below W; without a window not read.
    pub head: View<'a>,
    /// Position of its token [B] u32: the ring holds min(W, position) keys.
    pub position: View<'a>,
    /// Query features [B, H, F] f32.
    pub phi_q: View<'a>,
    /// Features of the key that leaves each window [B, G, F] f32; not read where position < W, when none leaves.
    pub phi_k: View<'a>,
    /// Its log decays [B, 2, G, E] f32, E = 1 or F, all <= 0.
    pub log_decay: View<'a>,
    /// Weights of the two states per query head [2, H] f32.
    pub gamma: View<'a>,
    /// Log weight of the states against the window [H] f32.
    pub mix: View<'a>,
    /// How much of the window's peak the states' weight follows [H] f32.
    pub slope: View<'a>,
    /// Window length W, 0: none.
    pub window: usize,
    /// Normaliser; a window needs [`Normalizer::Sum`].
    pub normalizer: Normalizer,
}

/// The pools, updated in place. A full ring (position >= W) loses its oldest key to the states and the token takes its row,
/// so that the next row is the oldest; in one that is not full the token takes row (head + position) mod W.
#[derive(Debug)]
pub struct Pool<'a> {
    /// S [SLOTS, 2 G, F, D] f32: both states of kv head 0.., history first.
    pub s: ViewMut<'a>,
    /// z [SLOTS, 2, G, F] f32.
    pub z: ViewMut<'a>,
    /// Keys of the windows [SLOTS, W, G, D], of the tokens' type.
    pub ring_k: ViewMut<'a>,
    /// Their values [SLOTS, W, G, D].
    pub ring_v: ViewMut<'a>,
}

/// Sizes of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchDims {
    /// Sequences.
    pub b: usize,
    /// Places in the pools.
    pub slots: usize,
    /// Sizes of one sequence's call; `r`, `l` and `position` are each sequence's own.
    pub one: Dims,
}

/// Where one sequence stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its slot.
    pub slot: usize,
    /// Row of the ring's oldest key.
    pub head: usize,
    /// Position of its token.
    pub position: usize,
}

impl Place {
    /// The sizes of this sequence's call of [`super::forward`].
    pub fn dims(&self, n: Dims) -> Dims {
        let r = self.position.min(n.w);
        Dims { t: 1, r, l: (r + 1).saturating_sub(n.w), position: self.position, ..n }
    }

    /// Rows of the ring, oldest key first, and the row that the token takes.
    pub fn rows(&self, w: usize) -> (impl Iterator<Item = usize>, Option<usize>) {
        let (head, r) = (self.head, self.position.min(w));
        ((0..r).map(move |i| (head + i) % w), (w > 0).then(|| (head + if r == w { 0 } else { r }) % w))
    }
}

impl BatchArgs<'_> {
    fn dims(&self, pool: &Pool) -> Result<BatchDims> {
        let [b, h, d] = self.q.dims(OP, "q")?;
        let [_, g, _] = self.k.dims(OP, "k")?;
        let [_, _, f] = self.phi_q.dims(OP, "phi_q")?;
        let [_, _, _, e] = self.log_decay.dims(OP, "log_decay")?;
        let [slots, sinks, _, _] = self.sink_k.dims(OP, "sink_k")?;
        let w = self.window;
        let n = Dims { t: 1, r: 0, l: 1, h, g, d, f, e, w, n: sinks, position: 0 };
        check_heads(n, self.normalizer)?;
        for (x, arg, want) in [
            (self.k, "k", &[b, g, d][..]),
            (self.v, "v", &[b, g, d]),
            (self.sink_k, "sink_k", &[slots, sinks, g, d]),
            (self.sink_v, "sink_v", &[slots, sinks, g, d]),
            (pool.ring_k.as_view(), "ring_k", &[slots, w, g, d]),
            (pool.ring_v.as_view(), "ring_v", &[slots, w, g, d]),
        ] {
            x.expect_shape(OP, arg, want)?;
            crate::vec::expect_float(&x, OP, arg)?;
            if x.dtype() != self.v.dtype() && !(x.shape().is_empty()) {
                return Err(Error::DType { op: OP, arg, got: x.dtype(), want: self.v.dtype().name() });
            }
        }
        let device = self.q.device();
        for (x, arg, dtype, want) in [
            (self.q, "q", DType::F32, &[b, h, d][..]),
            (self.v, "v", self.v.dtype(), &[b, g, d]),
            (self.phi_q, "phi_q", DType::F32, &[b, h, f]),
            (self.phi_k, "phi_k", DType::F32, &[b, g, f]),
            (self.log_decay, "log_decay", DType::F32, &[b, 2, g, e]),
            (self.gamma, "gamma", DType::F32, &[2, h]),
            (self.mix, "mix", DType::F32, &[h]),
            (self.slope, "slope", DType::F32, &[h]),
            (self.slot, "slot", DType::U32, &[b]),
            (self.head, "head", DType::U32, &[b]),
            (self.position, "position", DType::U32, &[b]),
            (pool.s.as_view(), "s", DType::F32, &[slots, 2 * g, f, d]),
            (pool.z.as_view(), "z", DType::F32, &[slots, 2, g, f]),
        ] {
            x.expect_on(OP, arg, device, dtype, want)?;
        }
        Ok(BatchDims { b, slots, one: n })
    }

    fn places(&self, n: BatchDims) -> Result<Vec<Place>> {
        let slots = self.slot.expect_u32(OP, "slot", &[n.b])?;
        let heads = self.head.expect_u32(OP, "head", &[n.b])?;
        let positions = self.position.expect_u32(OP, "position", &[n.b])?;
        let mut taken = vec![false; n.slots];
        let mut places = Vec::with_capacity(n.b);
        for i in 0..n.b {
            let p = Place { slot: slots[i] as usize, head: heads[i] as usize, position: positions[i] as usize };
            if p.slot >= n.slots || std::mem::replace(&mut taken[p.slot], true) {
                return Err(Error::Argument { op: OP, arg: "slot", got: p.slot.to_string(), want: format!("different ones below {}", n.slots) });
            }
            if n.one.w > 0 && p.head >= n.one.w {
                return Err(Error::Argument { op: OP, arg: "head", got: p.head.to_string(), want: format!("below {}", n.one.w) });
            }
            places.push(p);
        }
        Ok(places)
    }
}

/// Attend with one token of each of B sequences: out [B, H, D] f32 is what [`super::forward`] gives for each alone, whatever
/// the batch. Slots that are not named stay as they are.
///
/// Errors: shapes and types that do not fit; on the host also slots that are not different or not there (on a device they
/// are not looked at: the caller made them).
pub fn decode_batch(args: &BatchArgs, pool: Pool, out: ViewMut) -> Result<()> {
    let n = args.dims(&pool)?;
    if args.q.device() != Device::Cpu {
        return cuda::decode_batch(args, n, pool, out);
    }
    let Dims { h, g, d, f, e, w, n: sinks, .. } = n.one;
    let places = args.places(n)?;
    let q = args.q.expect_f32(OP, "q", &[n.b, h, d])?;
    let phi_q = args.phi_q.expect_f32(OP, "phi_q", &[n.b, h, f])?;
    let phi_k = args.phi_k.expect_f32(OP, "phi_k", &[n.b, g, f])?;
    let log_decay = args.log_decay.expect_f32(OP, "log_decay", &[n.b, 2, g, e])?;
    args.gamma.expect_f32(OP, "gamma", &[2, h])?;
    args.mix.expect_f32(OP, "mix", &[h])?;
    args.slope.expect_f32(OP, "slope", &[h])?;
    let s = pool.s.expect_f32(OP, "s", &[n.slots, 2 * g, f, d])?;
    let z = pool.z.expect_f32(OP, "z", &[n.slots, 2, g, f])?;
    let out = out.expect_f32(OP, "out", &[n.b, h, d])?;
    let mut rings = [pool.ring_k, pool.ring_v];
    for (i, place) in places.iter().enumerate() {
        let one = place.dims(n.one);
        let (rows, row) = place.rows(w);
        let rows: Vec<usize> = rows.map(|r| place.slot * w + r).collect();
        let [k, v] = [(&rings[0], args.k), (&rings[1], args.v)].map(|(ring, new)| {
            let mut x = Tensor::empty([0, g, d], new.dtype());
            let ring = ring.as_view().reshape([n.slots * w, g, d]);
            rows.iter().try_for_each(|&r| x.extend(ring.rows(r, r + 1)))?;
            x.extend(new.rows(i, i + 1))?;
            Ok(x)
        });
        let (k, v): (Tensor, Tensor) = (k?, v?);
        let l = one.l;
        let call = Args {
            q: View::from_f32([1, h, d], &q[i * h * d..(i + 1) * h * d]),
            k: k.view(),
            v: v.view(),
            sink_k: args.sink_k.rows(place.slot, place.slot + 1).reshape([sinks, g, d]),
            sink_v: args.sink_v.rows(place.slot, place.slot + 1).reshape([sinks, g, d]),
            position: place.position,
            phi_q: View::from_f32([1, h, f], &phi_q[i * h * f..(i + 1) * h * f]),
            phi_k: View::from_f32([l, g, f], &phi_k[i * g * f..][..l * g * f]),
            log_decay: View::from_f32([l, 2, g, e], &log_decay[i * 2 * g * e..][..l * 2 * g * e]),
            gamma: args.gamma,
            mix: args.mix,
            slope: args.slope,
            window: w,
            normalizer: args.normalizer,
        };
        let (states, sums) = (2 * g * f * d, 2 * g * f);
        let s = &mut s[place.slot * states..(place.slot + 1) * states];
        let z = &mut z[place.slot * sums..(place.slot + 1) * sums];
        cpu::forward(&call, one, s, z, None, SliceMut::F32(&mut out[i * h * d..(i + 1) * h * d]));
        if let Some(row) = row {
            let at = (place.slot * w + row) * g * d;
            put(&mut rings[0], at, args.k.rows(i, i + 1));
            put(&mut rings[1], at, args.v.rows(i, i + 1));
        }
    }
    Ok(())
}

/// Elements from `at` on of a host tensor from another of its type.
fn put(to: &mut ViewMut, at: usize, from: View) {
    let PlaceMut::Host(to) = &mut to.place else { unreachable!("the device was checked") };
    match (to, from.slice()) {
        (SliceMut::F32(a), Slice::F32(b)) => a[at..at + b.len()].copy_from_slice(b),
        (SliceMut::BF16(a), Slice::BF16(b)) => a[at..at + b.len()].copy_from_slice(b),
        (SliceMut::F16(a), Slice::F16(b)) => a[at..at + b.len()].copy_from_slice(b),
        _ => unreachable!("dtypes were checked"),
    }
}
