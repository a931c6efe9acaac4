//! The draws, part of the op's contract: specification and fast path share them.

/// Draw number `index` of the sequence named `seed`: uniform in [0, 1), a multiple of 2^-53.
///
/// A counter in, a hash out (the finaliser of SplitMix64: Steele, Lea, Flood 2014): no state to carry, so the batch a
/// sequence runs in cannot matter. The seed is hashed before the index is added: otherwise neighbouring seeds of the
/// underlying sequence would be the same draws, shifted.
pub fn uniform(seed: u64, index: u64) -> f64 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let key = mix(seed.wrapping_add(GOLDEN));
    let bits = mix(key.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
