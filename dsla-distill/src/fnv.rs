//! What names data: FNV-1a over whole values. Not against an adversary.

/// The hash of a sequence of values.
#[derive(Clone, Copy, Debug)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Extend<u32> for Fnv {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, values: I) {
        self.0 = values.into_iter().fold(self.0, |h, v| (h ^ v as u64).wrapping_mul(0x100_0000_01b3));
    }
}

/// Sixteen hexadecimal digits.
impl std::fmt::Display for Fnv {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Fnv;

    /// The published value for "foobar", by bytes.
    #[test]
    fn is_fnv_1a() {
        let mut h = Fnv::default();
        h.extend(b"foo".iter().map(|&b| b as u32));
        h.extend(b"bar".iter().map(|&b| b as u32));
        assert_eq!(h.to_string(), "85944171f73967e8");
    }
}
