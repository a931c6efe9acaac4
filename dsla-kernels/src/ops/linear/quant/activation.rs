//! Rows of x as int8 with a scale per block of 32.

use super::BLOCK;
use crate::par::{self, SendPtr};

/// What a block of x contributes besides its bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct Scale {
    /// x is about d q.
    pub d: f32,
    /// What the kernel's sum is too high by: the offset of its unsigned weights times the sum of q.
    pub minus: i32,
    /// d times the sum of q: what a block's minimum is multiplied with.
    pub sum: f32,
}

/// x [M, K] quantised.
pub(super) struct Rows {
    pub k: usize,
    /// [M][K]
    pub q: Vec<i8>,
    /// [M][K/32]
    pub scales: Vec<Scale>,
}

impl Rows {
    /// `offset` is what the kernel's weights are too high by.
    pub fn new(x: &[f32], m: usize, k: usize, offset: i32) -> Rows {
        let mut rows = Rows { k, q: vec![0; m * k], scales: vec![Scale::default(); m * k / BLOCK] };
        // Tasks of about 16 Ki elements: one row of decode is quantised here and now.
        let per = (16_384 / k.max(1)).max(1);
        let (q, scales) = (SendPtr(rows.q.as_mut_ptr()), SendPtr(rows.scales.as_mut_ptr()));
        par::for_each(m.div_ceil(per), |task| {
            let (a, b) = (task * per * k, ((task + 1) * per).min(m) * k);
            // SAFETY: elements a..b and their blocks belong to this task alone, inside both vectors.
            let (q, scales) = unsafe {
                (
                    std::slice::from_raw_parts_mut(q.get().add(a), b - a),
                    std::slice::from_raw_parts_mut(scales.get().add(a / BLOCK), (b - a) / BLOCK),
                )
            };
            quantise(&x[a..b], offset, q, scales);
        });
        rows
    }
}

crate::multiversion! {
    /// d = max |x| / 127, q = x / d to the nearest even. A block with a NaN or an infinity gets it as its scale, so that
    /// its products are not finite either; one of values below 1e-30 counts as zero, as 1 / d would overflow.
    fn quantise<const FMA: bool>(x: &[f32], offset: i32, q: &mut [i8], scales: &mut [Scale]) {
        let _ = FMA;
        const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
        for ((x, q), scale) in x.chunks_exact(BLOCK).zip(q.chunks_exact_mut(BLOCK)).zip(scales) {
            // Bits of absolute values order as the values do, and NaN above all.
            let most = f32::from_bits(x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)));
            let zero = most < 1e-30;
            let (d, inverse) = if zero { (0.0, 0.0) } else { (most / 127.0, 127.0 / most) };
            let mut sum = 0i32;
            for (q, x) in q.iter_mut().zip(x) {
                let i = ((x * inverse + MAGIC).to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
                *q = i as i8;
                sum = sum.wrapping_add(i);
            }
            *scale = Scale { d, minus: offset.wrapping_mul(sum), sum: d * sum as f32 };
        }
    }
}
