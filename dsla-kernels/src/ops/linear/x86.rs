//! bf16 dot products: AVX-512 for few rows (decode), AMX tiles for many (prefill, training).

use super::cpu::Sink;
use super::pack::{Line, LineBf16};
use crate::vec::narrow;
use half::slice::HalfBitsSliceExt;
use std::arch::asm;
use std::arch::x86_64::*;

/// Vector kernel over panels p0..p1 and the rows of the sink.
pub(super) fn bf16_block(t: &Tiles, lines: &[LineBf16], p0: usize, p1: usize, sink: &Sink) {
    let half_k = t.k_tiles * 16;
    assert!(p1 * half_k <= lines.len());
    // Few rows: many panels at once, to keep several streams in flight. Many rows: registers hold 8 x 2 sums.
    let step = if sink.rows.1 - sink.rows.0 >= 4 { 2 } else { 4 };
    let mut p = p0;
    while p < p1 {
        let wide = match (p1 - p).min(step) {
            3 => 2,
            w => w,
        };
        let mut r = sink.rows.0;
        while r < sink.rows.1 {
            // Blocks of rows never straddle a 16-row tile: 8 divides 16 and tasks start at multiples of 16.
            let many = match sink.rows.1 - r {
                8.. => 8,
                4.. => 4,
                _ => 1,
            };
            // SAFETY: avx512bf16 was detected; panels p..p+wide exist, and rows up to the padded end of `t`.
            unsafe {
                match (many, wide) {
                    (8, 2) => kernel::<8, 2>(t, lines, p, r, sink),
                    (8, _) => kernel::<8, 1>(t, lines, p, r, sink),
                    (4, 2) => kernel::<4, 2>(t, lines, p, r, sink),
                    (4, _) => kernel::<4, 1>(t, lines, p, r, sink),
                    (_, 4) => kernel::<1, 4>(t, lines, p, r, sink),
                    (_, 2) => kernel::<1, 2>(t, lines, p, r, sink),
                    _ => kernel::<1, 1>(t, lines, p, r, sink),
                }
            }
            r += many;
        }
        p += wide;
    }
}

/// R rows by P panels of 16 columns.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn kernel<const R: usize, const P: usize>(t: &Tiles, lines: &[LineBf16], p: usize, r: usize, sink: &Sink) {
    let half_k = t.k_tiles * 16;
    let mut acc = [[_mm512_setzero_ps(); P]; R];
    // SAFETY: a row of a tile is one line; its 16 pairs are 16 i32. All indices stay inside the padded arrays.
    unsafe {
        let a = t.lines.as_ptr().add(r / 16 * t.k_tiles * 16 + r % 16) as *const i32;
        let b = lines.as_ptr().add(p * half_k);
        for tile in 0..t.k_tiles {
            let at = a.add(tile * 256);
            for q in 0..16 {
                let mut bv = [_mm512_setzero_si512(); P];
                for c in 0..P {
                    bv[c] = _mm512_load_si512(b.add(c * half_k + tile * 16 + q) as *const __m512i);
                }
                for i in 0..R {
                    let av = _mm512_set1_epi32(*at.add(i * 16 + q));
                    for c in 0..P {
                        acc[i][c] = _mm512_dpbf16_ps(
                            acc[i][c],
                            std::mem::transmute::<__m512i, __m512bh>(av),
                            std::mem::transmute::<__m512i, __m512bh>(bv[c]),
                        );
                    }
                }
            }
        }
        for i in 0..R {
            for c in 0..P {
                let mut sums = [0.0f32; 16];
                _mm512_storeu_ps(sums.as_mut_ptr(), acc[i][c]);
                sink.put(r + i, (p + c) * 16, &sums);
            }
        }
    }
}

/// The tile configuration: eight tiles of 16 rows by 64 bytes (palette 1).
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

const TILES: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_per_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

#[repr(C, align(64))]
struct Block([f32; 32 * 32]);

/// AMX for any number of rows, so that a row's sums do not depend on how many rows come with it: 32 rows by 32 columns
/// at a time with four accumulator tiles, or 16 rows by 64 columns when there are no more rows (decode: one pass over
/// the weights at memory speed).
pub(super) fn amx_block(t: &Tiles, lines: &[LineBf16], p0: usize, p1: usize, sink: &Sink) {
    let half_k = t.k_tiles * 16;
    assert!(p1 * half_k <= lines.len());
    let tile_rows = sink.rows.1.div_ceil(16);
    assert!(tile_rows * t.k_tiles * 16 <= t.lines.len());
    let mut block = Block([0.0; 1024]);
    // SAFETY: AMX was detected and permitted; the configuration is valid for palette 1.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &TILES, options(nostack, readonly)) };
    if tile_rows - sink.rows.0 / 16 == 1 {
        for p in (p0..p1).step_by(4) {
            let panel = |c: usize| lines[(p + c).min(p1 - 1) * half_k..].as_ptr();
            // SAFETY: one stream of rows and four of panels, k_tiles tiles of 1 KB each, inside their arrays.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{a} + {s}]",
                    "tileloadd tmm5, [{b0} + {s}]",
                    "tdpbf16ps tmm0, tmm4, tmm5",
                    "tileloadd tmm6, [{b1} + {s}]",
                    "tdpbf16ps tmm1, tmm4, tmm6",
                    "tileloadd tmm7, [{b2} + {s}]",
                    "tdpbf16ps tmm2, tmm4, tmm7",
                    "tileloadd tmm5, [{b3} + {s}]",
                    "tdpbf16ps tmm3, tmm4, tmm5",
                    "add {a}, 1024",
                    "add {b0}, 1024",
                    "add {b1}, 1024",
                    "add {b2}, 1024",
                    "add {b3}, 1024",
                    "dec {n}",
                    "jnz 2b",
                    "tilestored [{c} + {s}], tmm0",
                    "tilestored [{c} + {s} + 1024], tmm1",
                    "tilestored [{c} + {s} + 2048], tmm2",
                    "tilestored [{c} + {s} + 3072], tmm3",
                    a = inout(reg) t.lines.as_ptr().add(sink.rows.0 / 16 * half_k) => _,
                    b0 = inout(reg) panel(0) => _,
                    b1 = inout(reg) panel(1) => _,
                    b2 = inout(reg) panel(2) => _,
                    b3 = inout(reg) panel(3) => _,
                    n = inout(reg) t.k_tiles => _,
                    c = in(reg) block.0.as_mut_ptr(),
                    s = in(reg) 64usize,
                    options(nostack),
                );
            }
            for c in 0..4.min(p1 - p) {
                for row in sink.rows.0..sink.rows.1 {
                    let at = c * 256 + (row - sink.rows.0) * 16;
                    sink.put(row, (p + c) * 16, &block.0[at..at + 16]);
                }
            }
        }
        // SAFETY: gives the tile registers back, so that context switches stay cheap.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
        return;
    }
    for p in (p0..p1).step_by(2) {
        let q = (p + 1).min(p1 - 1);
        for i in (sink.rows.0 / 16..tile_rows).step_by(2) {
            let j = (i + 1).min(tile_rows - 1);
            // SAFETY: four streams of k_tiles tiles of 1 KB each, inside `t.lines` and `lines` by the asserts;
            // the compiler itself never touches tile registers, so they need no clobbers.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{a0} + {s}]",
                    "tileloadd tmm6, [{b0} + {s}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b1} + {s}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a1} + {s}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a0}, 1024",
                    "add {a1}, 1024",
                    "add {b0}, 1024",
                    "add {b1}, 1024",
                    "dec {n}",
                    "jnz 2b",
                    "tilestored [{c} + {two}], tmm0",
                    "tilestored [{c} + {two} + 64], tmm1",
                    "tilestored [{c} + {two} + 2048], tmm2",
                    "tilestored [{c} + {two} + 2112], tmm3",
                    a0 = inout(reg) t.lines.as_ptr().add(i * half_k) => _,
                    a1 = inout(reg) t.lines.as_ptr().add(j * half_k) => _,
                    b0 = inout(reg) lines.as_ptr().add(p * half_k) => _,
                    b1 = inout(reg) lines.as_ptr().add(q * half_k) => _,
                    n = inout(reg) t.k_tiles => _,
                    c = in(reg) block.0.as_mut_ptr(),
                    s = in(reg) 64usize,
                    two = in(reg) 128usize,
                    options(nostack),
                );
            }
            let cols = if q > p { 32 } else { 16 };
            for r in 0..if j > i { 32 } else { 16 } {
                let row = i * 16 + r;
                if row < sink.rows.1 {
                    sink.put(row, p * 16, &block.0[r * 32..r * 32 + cols]);
                }
            }
        }
    }
    // SAFETY: gives the tile registers back, so that context switches stay cheap.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// x [M, K] rounded to bf16 in tiles [M/16][K/32][16 rows][32 k], zero-padded: contiguous for AMX, and a broadcast
/// of two consecutive k for the vector kernels.
pub(super) struct Tiles {
    pub lines: Vec<LineBf16>,
    pub k_tiles: usize,
}

impl Tiles {
    pub fn new(x: &[f32], m: usize, k: usize) -> Tiles {
        let k_tiles = k.div_ceil(32);
        let mut lines = vec![Line([0u16; 32]); m.div_ceil(16) * k_tiles * 16];
        let per = if m >= 64 { k_tiles * 16 } else { lines.len() };
        let fill = |t: usize, tiles: &mut [LineBf16]| {
            let first = t * (per / (k_tiles * 16)) * 16;
            for (q, line) in tiles.iter_mut().enumerate() {
                let (row, col) = (first + q / (k_tiles * 16) * 16 + q % 16, q / 16 % k_tiles * 32);
                if row < m {
                    let len = 32.min(k - col);
                    narrow(&x[row * k + col..row * k + col + len], line.0[..len].reinterpret_cast_mut());
                }
            }
        };
        crate::par::for_each_chunk(&mut lines, per, fill);
        Tiles { lines, k_tiles }
    }
}
