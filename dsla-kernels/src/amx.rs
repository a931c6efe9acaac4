//! Products of bf16 on AMX tiles: C [16 rows, 16 columns] of f32 in a register, A [16 rows, 32] and B [16 pairs, 16 columns] of
//! bf16 in two more.
//!
//! A column is summed 32 at a time: the even and the odd products of 32 each in order, then both to the sum. So a row's bits do
//! not depend on the rows beside it, whatever the shape of the block.

use crate::gemm::Pairs;
use std::arch::asm;
use std::cell::Cell;

/// Pairs of bf16 along the sum that one tile has.
pub(crate) const PAIRS: usize = 16;

/// Pairs along the sum per pass over the rows at most: two panels of as many are 36 KB, which stay in the L1.
const DEPTH: usize = 18 * PAIRS;

/// What the eight tile registers hold (palette 1): bytes per row and rows of each.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

thread_local! {
    /// Rows and columns of every tile that this thread has loaded; none: zero.
    static LOADED: Cell<[(usize, usize); 8]> = const { Cell::new([(0, 0); 8]) };
}

/// The tile registers of this thread; given back on drop, so that context switches stay cheap. Whoever had them before asks for
/// his shapes again before he goes on.
pub(crate) struct Tiles {
    used: bool,
}

impl Drop for Tiles {
    fn drop(&mut self) {
        if self.used {
            LOADED.set([(0, 0); 8]);
            // SAFETY: there are tile registers, for they were used.
            unsafe { asm!("tilerelease", options(nostack, nomem)) }
        }
    }
}

impl Tiles {
    /// Nothing is done before the first product.
    pub fn new() -> Tiles {
        Tiles { used: false }
    }

    /// Loading shapes takes as long as twelve products of tiles.
    ///
    /// # Safety
    /// The level is AMX; 1 to 16 rows and columns.
    unsafe fn shape(&mut self, shapes: [(usize, usize); 8]) {
        self.used = true;
        if LOADED.replace(shapes) == shapes {
            return;
        }
        let mut s =
            Shapes { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row: [0; 16], rows: [0; 16] };
        for (i, (rows, columns)) in shapes.into_iter().enumerate() {
            (s.rows[i], s.bytes_per_row[i]) = (rows as u8, 4 * columns as u16);
        }
        // SAFETY: a valid configuration, by the caller.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &s, options(nostack, readonly)) };
    }

    /// Eight whole tiles, for who uses them by himself.
    ///
    /// # Safety
    /// The level is AMX.
    pub unsafe fn whole(&mut self) {
        // SAFETY: the caller's.
        unsafe { self.shape([(16, 16); 8]) }
    }

    /// C [m, n] = A B, or added to, for k a multiple of [`PAIRS`] and any m and n; B has whole panels.
    ///
    /// # Safety
    /// The level is AMX; A, B and C hold what is addressed.
    pub unsafe fn product(&mut self, p: Pairs, m: usize, n: usize) {
        debug_assert!(p.k.is_multiple_of(PAIRS));
        // Few rows: one tile of rows against four panels, which is one pass over B. Many: two by two.
        let (down, across) = if m <= 16 { (16, 64) } else { (32, 32) };
        let depth = p.k.div_ceil(p.k.div_ceil(DEPTH).max(1)).next_multiple_of(PAIRS).max(PAIRS);
        // Whole tiles first, then those that the edges cut: every region has one shape.
        let cuts = |all: usize| [(0, all / 16 * 16, 16), (all / 16 * 16, all, all % 16)];
        for (j0, j1, columns) in cuts(n).into_iter().filter(|c| c.0 < c.1) {
            for (i0, i1, rows) in cuts(m).into_iter().filter(|c| c.0 < c.1) {
                let (a, b, c) = ((rows, 16), (16, columns), (rows, columns));
                // SAFETY: the caller's; blocks lie inside m and n.
                unsafe {
                    self.shape(if down == 16 { [c, c, c, c, a, b, b, b] } else { [c, c, c, c, a, a, b, b] });
                    for j in (j0..j1).step_by(across) {
                        for t in (0..p.k.max(1)).step_by(depth) {
                            let last = t + depth >= p.k;
                            let part = Pairs {
                                k: depth.min(p.k - t),
                                add: p.add || t > 0,
                                next: match (down, last) {
                                    _ if p.next == 0 => 0,
                                    (_, false) => depth * p.ldb,
                                    (16, true) => (4 * p.panel).wrapping_sub(t * p.ldb),
                                    (_, true) => p.next.wrapping_sub(t * p.ldb),
                                },
                                ..p
                            };
                            for i in (i0..i1).step_by(down) {
                                let at = Pairs {
                                    a: part.a.add(i * p.lda + 2 * t),
                                    b: part.b.add(j / 16 * p.panel + t * p.ldb),
                                    c: part.c.add(i * p.ldc + j),
                                    ..part
                                };
                                // Tiles of the block that are there; others repeat the last.
                                let (high, broad) = ((i1 - i).div_ceil(16), (j1 - j).div_ceil(16));
                                if down == 16 { row(at, broad) } else { square(at, i / 32, high, broad) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The accumulators tmm0 to tmm3 from C, or zero.
#[inline(always)]
unsafe fn begin(c: [*mut f32; 4], stride: usize, add: bool) {
    // SAFETY: the caller's. The compiler itself never touches tile registers, so they need no clobbers.
    unsafe {
        match add {
            true => asm!(
                "tileloadd tmm0, [{c0} + {s}]",
                "tileloadd tmm1, [{c1} + {s}]",
                "tileloadd tmm2, [{c2} + {s}]",
                "tileloadd tmm3, [{c3} + {s}]",
                c0 = in(reg) c[0], c1 = in(reg) c[1], c2 = in(reg) c[2], c3 = in(reg) c[3], s = in(reg) stride,
                options(nostack, readonly),
            ),
            false => asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem)
            ),
        }
    }
}

/// The first n accumulators to C.
#[inline(always)]
unsafe fn end(c: [*mut f32; 4], stride: usize, n: usize) {
    macro_rules! store {
        ($i:literal, $tile:literal) => {
            if n > $i {
                asm!(concat!("tilestored [{c} + {s}], ", $tile), c = in(reg) c[$i], s = in(reg) stride, options(nostack));
            }
        };
    }
    // SAFETY: the caller's.
    unsafe {
        store!(0, "tmm0");
        store!(1, "tmm1");
        store!(2, "tmm2");
        store!(3, "tmm3");
    }
}

/// Two tiles of rows by two panels.
#[inline(always)]
unsafe fn square(p: Pairs, strip: usize, high: usize, broad: usize) {
    // SAFETY: the caller's; where a second tile is not there, the first is computed twice.
    unsafe {
        let next = p.b.wrapping_add(p.next).wrapping_add(strip % 8 * 4 * p.k);
        let (down, right) = (if high > 1 { 16 } else { 0 }, if broad > 1 { 1 } else { 0 });
        let c = [(0, 0), (0, right), (down, 0), (down, right)].map(|(r, q)| p.c.add(r * p.ldc + 16 * q));
        begin(c, 4 * p.ldc, p.add);
        if p.k > 0 {
            asm!(
                "2:",
                "tileloaddt1 tmm4, [{a0} + {sa}]",
                "tileloadd tmm6, [{b0} + {sb}]",
                "prefetcht1 [{n0}]",
                "prefetcht1 [{n0} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1} + {sb}]",
                "prefetcht1 [{n1}]",
                "prefetcht1 [{n1} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloaddt1 tmm5, [{a1} + {sa}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 64",
                "add {a1}, 64",
                "add {b0}, {db}",
                "add {b1}, {db}",
                "add {n0}, 128",
                "add {n1}, 128",
                "dec {n}",
                "jnz 2b",
                n0 = inout(reg) next => _,
                n1 = inout(reg) next.wrapping_add(p.panel) => _,
                a0 = inout(reg) p.a => _,
                a1 = inout(reg) p.a.add(down * p.lda) => _,
                b0 = inout(reg) p.b => _,
                b1 = inout(reg) p.b.add(right * p.panel) => _,
                n = inout(reg) p.k / PAIRS => _,
                sa = in(reg) 2 * p.lda,
                sb = in(reg) 2 * p.ldb,
                db = in(reg) 2 * PAIRS * p.ldb,
                options(nostack, readonly),
            );
        }
        end(c, 4 * p.ldc, 4);
    }
}

/// One more tile of one of the panels, and sixteen lines of what is read next.
macro_rules! tile_of_panel {
    ($sum:literal, $tile:literal, $b:expr, $sb:expr, $ahead:expr) => {
        match $ahead {
            Some(ahead) => asm!(
                concat!("tileloadd ", $tile, ", [{b} + {sb}]"),
                "prefetcht0 [{n}]", "prefetcht0 [{n} + 64]", "prefetcht0 [{n} + 128]", "prefetcht0 [{n} + 192]",
                "prefetcht0 [{n} + 256]", "prefetcht0 [{n} + 320]", "prefetcht0 [{n} + 384]", "prefetcht0 [{n} + 448]",
                "prefetcht0 [{n} + 512]", "prefetcht0 [{n} + 576]", "prefetcht0 [{n} + 640]", "prefetcht0 [{n} + 704]",
                "prefetcht0 [{n} + 768]", "prefetcht0 [{n} + 832]", "prefetcht0 [{n} + 896]", "prefetcht0 [{n} + 960]",
                concat!("tdpbf16ps ", $sum, ", tmm4, ", $tile),
                b = in(reg) $b, n = in(reg) $b.wrapping_add(ahead), sb = in(reg) $sb, options(nostack, readonly),
            ),
            None => asm!(
                concat!("tileloadd ", $tile, ", [{b} + {sb}]"),
                concat!("tdpbf16ps ", $sum, ", tmm4, ", $tile),
                b = in(reg) $b, sb = in(reg) $sb, options(nostack, readonly),
            ),
        }
    };
}

/// One tile of rows by up to four panels, one pass over those: what counts is how they come from memory. The tile unit's own loads
/// leave it half idle; a tile ahead of every panel's is asked for, and at the end of the panels the next ones.
#[inline(always)]
unsafe fn row(p: Pairs, broad: usize) {
    // SAFETY: the caller's.
    unsafe {
        let c = [0, 1, 2, 3].map(|q| p.c.add(16 * q.min(broad - 1)));
        begin(c, 4 * p.ldc, p.add);
        let (steps, step) = (p.k / PAIRS, PAIRS * p.ldb);
        // (Two panels are two streams that go on in their neighbours.)
        let asks = p.next > 0 && p.ldb == 32;
        let ahead = if broad > 2 { step } else { 2 * step };
        for s in 0..steps {
            let ahead = match asks {
                true if s + 1 == steps && broad > 2 => Some(p.next.wrapping_sub(s * step)),
                true => Some(ahead),
                false => None,
            };
            let b = |q: usize| p.b.add(q * p.panel + s * step);
            asm!("tileloadd tmm4, [{a} + {sa}]", a = in(reg) p.a.add(2 * PAIRS * s), sa = in(reg) 2 * p.lda,
                options(nostack, readonly));
            tile_of_panel!("tmm0", "tmm5", b(0), 2 * p.ldb, ahead);
            if broad > 1 {
                tile_of_panel!("tmm1", "tmm6", b(1), 2 * p.ldb, ahead);
            }
            if broad > 2 {
                tile_of_panel!("tmm2", "tmm7", b(2), 2 * p.ldb, ahead);
            }
            if broad > 3 {
                tile_of_panel!("tmm3", "tmm5", b(3), 2 * p.ldb, ahead);
            }
        }
        end(c, 4 * p.ldc, broad);
    }
}
