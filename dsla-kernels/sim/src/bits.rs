//! One bit per byte of memory.

/// A bitmap over byte offsets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    /// All clear, over `n` bytes.
    pub fn new(n: usize) -> Bits {
        Bits(vec![0; n.div_ceil(64)])
    }

    /// Words and masks that cover `n` bits from `at`.
    fn spans(at: usize, n: usize) -> impl Iterator<Item = (usize, u64)> {
        let end = at + n;
        (at / 64..end.div_ceil(64)).map(move |w| {
            let low = at.saturating_sub(w * 64);
            let high = (end - w * 64).min(64);
            let ones = if high - low == 64 { !0 } else { ((1u64 << (high - low)) - 1) << low };
            (w, ones)
        })
    }

    /// One mask when `n` bits from `at` lie in one word: every naturally aligned access.
    #[inline]
    fn short(at: usize, n: usize) -> Option<(usize, u64)> {
        (n < 64 && at % 64 + n <= 64).then(|| (at / 64, ((1u64 << n) - 1) << (at % 64)))
    }

    /// Set `n` bits.
    #[inline]
    pub fn set(&mut self, at: usize, n: usize) {
        if let Some((w, m)) = Bits::short(at, n) {
            self.0[w] |= m;
            return;
        }
        for (w, m) in Bits::spans(at, n) {
            self.0[w] |= m;
        }
    }

    /// Clear `n` bits.
    pub fn clear(&mut self, at: usize, n: usize) {
        for (w, m) in Bits::spans(at, n) {
            self.0[w] &= !m;
        }
    }

    /// Clear all.
    pub fn reset(&mut self) {
        self.0.fill(0);
    }

    /// All of `n` bits are set.
    #[inline]
    pub fn all(&self, at: usize, n: usize) -> bool {
        if let Some((w, m)) = Bits::short(at, n) {
            return self.0[w] & m == m;
        }
        Bits::spans(at, n).all(|(w, m)| self.0[w] & m == m)
    }

    /// Any of `n` bits is set.
    #[inline]
    pub fn any(&self, at: usize, n: usize) -> bool {
        Bits::spans(at, n).any(|(w, m)| self.0[w] & m != 0)
    }

    /// The first clear bit among `n`.
    pub fn first_clear(&self, at: usize, n: usize) -> Option<usize> {
        (at..at + n).find(|&i| self.0[i / 64] >> (i % 64) & 1 == 0)
    }

    /// Bits set in all.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Bit `i`.
    pub fn get(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }
}
