//! ldmatrix, stmatrix, mma.

use crate::common::{Lab, options};
use ptxsim::{Mma, Options};

fn words_of(halves: &[u16]) -> Vec<u32> {
    halves.chunks(2).map(|c| u32::from(c[0]) | u32::from(c[1]) << 16).collect()
}

/// 32 rows of 8 halves, all different.
fn rows() -> Vec<u32> {
    words_of(&(0..256).map(|i| 0x100 + i).collect::<Vec<u16>>())
}

/// Copies the input's 32 rows to shared memory `s`, a row per lane; then `%r10` is the address of row `lane ^ 5`.
const FILL: &str = ".shared .align 16 .b8 s[512];\nmov.u32 %r9, s;\nmad.lo.u32 %r8, %t, 16, %r9;\nmad.wide.u32 %rd1, %t, 16, %in;\n\
     ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];\nst.shared.v4.u32 [%r8], {%r1, %r2, %r3, %r4};\nbar.sync 0;\n\
     xor.b32 %r10, %t, 5;\nmad.lo.u32 %r10, %r10, 16, %r9;\n";

#[test]
fn ldmatrix() {
    for (n, regs) in [(1, "%r1"), (2, "%r1, %r2"), (4, "%r1, %r2, %r3, %r4")] {
        for trans in ["", ".trans"] {
            let mut body =
                format!("{FILL}ldmatrix.sync.aligned.m8n8.x{n}{trans}.shared.b16 {{{regs}}}, [%r10];\n");
            for i in 0..n {
                body += &format!("st.global.u32 [%mine+{}], %r{};\n", 128 * i, i + 1);
            }
            let got = Lab::new(&body).input(&rows()).output(32 * n).run();
            for i in 0..n {
                for lane in 0..32 {
                    // Lanes 8i..8i+8 give the rows of matrix i. Lane 4r + c receives elements 2c and 2c + 1 of row r.
                    let element = |r: usize, c: usize| 0x100 + (((8 * i + r) ^ 5) * 8 + c) as u32;
                    let (r, c) = (lane / 4, 2 * (lane % 4));
                    let want = match trans {
                        "" => element(r, c) | element(r, c + 1) << 16,
                        _ => element(c, r) | element(c + 1, r) << 16,
                    };
                    assert_eq!(got[32 * i + lane], want, "x{n}{trans} matrix {i} lane {lane}");
                }
            }
        }
    }
    // x1 reads the addresses of lanes 0 to 7 alone.
    let body = format!(
        "{FILL}setp.ge.u32 %p1, %t, 8;\n@%p1 mov.u32 %r10, 0x7ffff003;\nldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r1}}, [%r10];\nst.global.u32 [%mine], %r1;"
    );
    assert_eq!(Lab::new(&body).input(&rows()).run()[0], 0x0129_0128);
}

#[test]
fn stmatrix() {
    for (n, regs) in [(1, "%r1"), (2, "%r1, %r2"), (4, "%r1, %r2, %r3, %r4")] {
        for trans in ["", ".trans"] {
            let mut body = String::from(FILL);
            for i in 0..n {
                body += &format!(
                    "shl.b32 %r{0}, %t, 1;\nadd.u32 %r{0}, %r{0}, {1};\nshl.b32 %r7, %r{0}, 16;\nadd.u32 %r7, %r7, 0x10000;\nor.b32 %r{0}, %r{0}, %r7;\n",
                    i + 1,
                    0x400 + 64 * i
                );
            }
            body += &format!(
                "stmatrix.sync.aligned.m8n8.x{n}{trans}.shared.b16 [%r10], {{{regs}}};\nbar.sync 0;\nld.shared.v4.u32 {{%r1, %r2, %r3, %r4}}, [%r8];\n\
                 mad.wide.u32 %rd2, %t, 16, %out;\nst.global.v4.u32 [%rd2], {{%r1, %r2, %r3, %r4}};"
            );
            let got = Lab::new(&body).input(&rows()).output(128).run();
            for row in 0..32 {
                for c in 0..8 {
                    let (lane_of_address, half) =
                        (row ^ 5, (got[row * 4 + c / 2] >> (16 * (c % 2))) as u16 as usize);
                    let (i, r) = (lane_of_address / 8, lane_of_address % 8);
                    let (fr, fc) = if trans.is_empty() { (r, c) } else { (c, r) };
                    // Element 2c of row r lies in lane 4r + c: numbered 2 * lane + half, that is 8 r + c.
                    let want = if i < n { 0x400 + 64 * i + 8 * fr + fc } else { 0x100 + 8 * row + c };
                    assert_eq!(half, want, "x{n}{trans} row {row} column {c}");
                }
            }
        }
    }
}

/// (shape, type, K, registers of A and B)
const KINDS: [(&str, &str, usize, usize, usize); 6] = [
    ("m16n8k16", "f16", 16, 4, 2),
    ("m16n8k16", "bf16", 16, 4, 2),
    ("m16n8k8", "f16", 8, 2, 1),
    ("m16n8k8", "bf16", 8, 2, 1),
    ("m16n8k8", "tf32", 8, 4, 2),
    ("m16n8k4", "tf32", 4, 2, 1),
];

/// Row and column of element `i` of A, of B, of C: the formulas of the ISA's sections on matrix fragments.
fn a_at(shape: &str, ty: &str, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    match (shape, ty) {
        ("m16n8k16", _) => {
            let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
            (row, thread * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
        }
        ("m16n8k8", "tf32") => {
            (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 })
        }
        ("m16n8k8", _) => (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1)),
        _ => (if i == 0 { group } else { group + 8 }, thread),
    }
}

fn b_at(shape: &str, ty: &str, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = match (shape, ty) {
        ("m16n8k16", _) => thread * 2 + (i & 1) + if i < 2 { 0 } else { 8 },
        ("m16n8k8", "tf32") => thread + if i == 0 { 0 } else { 4 },
        ("m16n8k8", _) => thread * 2 + i,
        _ => thread,
    };
    (row, group)
}

fn c_at(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { lane >> 2 } else { (lane >> 2) + 8 }, (lane % 4) * 2 + (i & 1))
}

fn bits(ty: &str, x: f32) -> u32 {
    match ty {
        "f16" => u32::from(::half::f16::from_f32(x).to_bits()),
        "bf16" => x.to_bits() >> 16,
        _ => x.to_bits(),
    }
}

fn kernel(kind: usize) -> String {
    let (shape, ty, _, ar, br) = KINDS[kind];
    let mut s = String::new();
    let reg = |v: &str, n: usize| (0..n).map(|i| format!("%{v}{i}")).collect::<Vec<_>>().join(", ");
    s += "mad.wide.u32 %rd1, %t, 4, %in;\n";
    s += &format!(".reg .b32 %a<{ar}>, %b<{br}>;\n.reg .f32 %c<4>, %d<4>;\n");
    for (v, n, at) in [("a", ar, 0), ("b", br, ar), ("c", 4, ar + br)] {
        for i in 0..n {
            s += &format!("ld.global.b32 %{v}{i}, [%rd1+{}];\n", 128 * (at + i));
        }
    }
    s += &format!(
        "mma.sync.aligned.{shape}.row.col.f32.{ty}.{ty}.f32 {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
        reg("d", 4),
        reg("a", ar),
        reg("b", br),
        reg("c", 4)
    );
    for i in 0..4 {
        s += &format!("st.global.f32 [%mine+{}], %d{i};\n", 128 * i);
    }
    s
}

/// D = A B + C for matrices given by functions of row and column.
fn multiply(
    kind: usize,
    mma: Mma,
    a: &dyn Fn(usize, usize) -> f32,
    b: &dyn Fn(usize, usize) -> f32,
    c: &dyn Fn(usize, usize) -> f32,
) -> [[f32; 8]; 16] {
    let (shape, ty, _, ar, br) = KINDS[kind];
    let pack = if ty == "tf32" { 1 } else { 2 };
    let mut input = vec![0u32; 32 * (ar + br + 4)];
    for lane in 0..32 {
        for i in 0..ar * pack {
            let (row, col) = a_at(shape, ty, lane, i);
            input[32 * (i / pack) + lane] |= bits(ty, a(row, col)) << (16 * (i % pack));
        }
        for i in 0..br * pack {
            let (row, col) = b_at(shape, ty, lane, i);
            input[32 * (ar + i / pack) + lane] |= bits(ty, b(row, col)) << (16 * (i % pack));
        }
        for i in 0..4 {
            let (row, col) = c_at(lane, i);
            input[32 * (ar + br + i) + lane] = c(row, col).to_bits();
        }
    }
    let got = Lab::new(&kernel(kind)).input(&input).output(128).options(Options { mma, ..options() }).run();
    let mut d = [[0.0; 8]; 16];
    for lane in 0..32 {
        for i in 0..4 {
            let (row, col) = c_at(lane, i);
            d[row][col] = f32::from_bits(got[32 * i + lane]);
        }
    }
    d
}

const MODES: [Mma; 3] = [Mma::Exact, Mma::Sequential, Mma::Truncate];

#[test]
fn identity_matrices_pass_the_other_operand_through() {
    for kind in 0..KINDS.len() {
        let k = KINDS[kind].2;
        for mma in MODES {
            // A picks row i % K of B, whose elements are all different.
            let d =
                multiply(kind, mma, &|i, l| f32::from(i % k == l), &|l, j| (l * 8 + j) as f32, &|_, _| 0.0);
            for i in 0..16 {
                for j in 0..8 {
                    assert_eq!(d[i][j], (i % k * 8 + j) as f32, "{:?} {mma:?}", KINDS[kind]);
                }
            }
            // B picks eight of A's columns, from each start.
            for start in (0..k).step_by(8) {
                let d = multiply(
                    kind,
                    mma,
                    &|i, l| (i * k + l) as f32,
                    &|l, j| f32::from(l == start + j),
                    &|_, _| 0.0,
                );
                for i in 0..16 {
                    for j in 0..8 {
                        let want = if start + j < k { (i * k + start + j) as f32 } else { 0.0 };
                        assert_eq!(d[i][j], want, "{:?} {mma:?}", KINDS[kind]);
                    }
                }
            }
            // C alone.
            let d = multiply(kind, mma, &|_, _| 0.0, &|_, _| 1.0, &|i, j| (i * 8 + j) as f32 + 0.5);
            assert_eq!(d[9][3], 75.5);
            assert_eq!(d[0][1], 1.5);
        }
    }
}

#[test]
fn small_integers_agree_with_the_definition_in_all_modes() {
    let a = |i: usize, l: usize| ((i * 7 + l * 5) % 17) as f32 - 8.0;
    let b = |l: usize, j: usize| ((l * 3 + j * 11) % 13) as f32 - 6.0;
    let c = |i: usize, j: usize| (i + j) as f32;
    for kind in 0..KINDS.len() {
        for mma in MODES {
            let d = multiply(kind, mma, &a, &b, &c);
            for i in 0..16 {
                for j in 0..8 {
                    let want = (0..KINDS[kind].2).fold(c(i, j), |s, l| s + a(i, l) * b(l, j));
                    assert_eq!(d[i][j], want, "{:?} {mma:?}", KINDS[kind]);
                }
            }
        }
    }
}

#[test]
fn modes_differ_where_they_should() {
    let ulp = f32::EPSILON;
    let at = |kind, mma, b: &dyn Fn(usize) -> f32, c: f32| {
        multiply(kind, mma, &|_, _| 1.0, &|l, _| b(l), &|_, _| c)[3][5]
    };
    for (kind, k) in [(1, 16), (3, 8), (4, 8)] {
        let all = |b: &dyn Fn(usize) -> f32| MODES.map(|m| at(kind, m, b, 1.0));
        // One addend of 0.75 ulp: rounded up, or cut off.
        let first = |l: usize| if l == 0 { 0.75 * ulp } else { 0.0 };
        assert_eq!(all(&first), [1.0 + ulp, 1.0 + ulp, 1.0], "{k}");
        // k addends of 1/8 ulp: each lost by itself, k / 8 ulp together.
        assert_eq!(all(&|_| 0.125 * ulp), [1.0 + k as f32 / 8.0 * ulp, 1.0, 1.0], "{k}");
        // Three addends of 1/4 ulp survive in the extra bits, and are cut off at the end.
        assert_eq!(all(&|l| if l < 3 { 0.25 * ulp } else { 0.0 }), [1.0 + ulp, 1.0, 1.0], "{k}");
        assert_eq!(all(&|l| if l < 4 { 0.25 * ulp } else { 0.0 }), [1.0 + ulp, 1.0, 1.0 + ulp], "{k}");
    }
}

#[test]
fn tf32_ignores_the_low_bits() {
    let low = f32::from_bits(1.5f32.to_bits() | 0x1fff);
    for mma in MODES {
        assert_eq!(
            multiply(4, mma, &|i, l| if i == l { low } else { 0.0 }, &|_, _| 1.0, &|_, _| 0.0)[2][3],
            1.5
        );
    }
}

/// A 16x8x16 product from shared memory the way kernels do it: A row by row, B as [n][k] without and as [k][n] with `.trans`.
#[test]
fn ldmatrix_feeds_mma() {
    let a = |i: usize, l: usize| ((i * 5 + l * 3) % 11) as f32 - 5.0;
    let b = |l: usize, j: usize| ((l * 7 + j * 2) % 9) as f32 - 4.0;
    for trans in [false, true] {
        let mut halves: Vec<u16> = Vec::new();
        for i in 0..16 {
            halves.extend((0..16).map(|l| bits("f16", a(i, l)) as u16));
        }
        match trans {
            false => (0..8).for_each(|j| halves.extend((0..16).map(|l| bits("f16", b(l, j)) as u16))),
            true => (0..16).for_each(|l| halves.extend((0..8).map(|j| bits("f16", b(l, j)) as u16))),
        }
        let load_b = match trans {
            // Lanes 0..8: row n = lane, k from 0; lanes 8..16: the same rows, k from 8.
            false => {
                "and.b32 %r5, %t, 7;\nshl.b32 %r5, %r5, 5;\nand.b32 %r6, %t, 8;\nshl.b32 %r6, %r6, 1;\nadd.u32 %r5, %r5, %r6;\nadd.u32 %r5, %r5, %r9;\n\
                      ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r15, %r16}, [%r5+512];\n"
            }
            // Rows k = lane.
            true => {
                "and.b32 %r5, %t, 15;\nmad.lo.u32 %r5, %r5, 16, %r9;\nldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r15, %r16}, [%r5+512];\n"
            }
        };
        let body = format!(
            ".shared .align 16 .b8 s[768];\nmov.u32 %r9, s;\nmad.lo.u32 %r8, %t, 24, %r9;\nmad.wide.u32 %rd1, %t, 24, %in;\n\
             ld.global.v2.u32 {{%r1, %r2}}, [%rd1];\nst.shared.v2.u32 [%r8], {{%r1, %r2}};\nld.global.v2.u32 {{%r1, %r2}}, [%rd1+8];\nst.shared.v2.u32 [%r8+8], {{%r1, %r2}};\n\
             ld.global.v2.u32 {{%r1, %r2}}, [%rd1+16];\nst.shared.v2.u32 [%r8+16], {{%r1, %r2}};\nbar.sync 0;\n\
             // Rows lane % 16, column 0 for the first sixteen lanes, 8 for the others.\n\
             and.b32 %r5, %t, 15;\nshl.b32 %r5, %r5, 5;\nand.b32 %r6, %t, 16;\nadd.u32 %r5, %r5, %r6;\nadd.u32 %r5, %r5, %r9;\n\
             ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r11, %r12, %r13, %r14}}, [%r5];\n{load_b}\
             mov.f32 %f1, 0f00000000;\n\
             mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f4, %f5, %f6, %f7}}, {{%r11, %r12, %r13, %r14}}, {{%r15, %r16}}, {{%f1, %f1, %f1, %f1}};\n\
             st.global.f32 [%mine], %f4;\nst.global.f32 [%mine+128], %f5;\nst.global.f32 [%mine+256], %f6;\nst.global.f32 [%mine+384], %f7;"
        );
        let got = Lab::new(&body).input(&words_of(&halves)).output(128).run();
        for lane in 0..32 {
            for r in 0..4 {
                let (i, j) = c_at(lane, r);
                let want: f32 = (0..16).map(|l| a(i, l) * b(l, j)).sum();
                assert_eq!(f32::from_bits(got[32 * r + lane]), want, "trans {trans} row {i} column {j}");
            }
        }
    }
}
