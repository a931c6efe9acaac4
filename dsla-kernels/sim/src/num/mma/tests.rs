use super::*;
use crate::num::mix;

const KINDS: [MmaKind; 6] = [
    MmaKind::M16N8K16F16,
    MmaKind::M16N8K16Bf16,
    MmaKind::M16N8K8F16,
    MmaKind::M16N8K8Bf16,
    MmaKind::M16N8K8Tf32,
    MmaKind::M16N8K4Tf32,
];
const MODES: [Mma; 3] = [Mma::Exact, Mma::Sequential, Mma::Truncate];

/// Row and column of element `i` of A, as the ISA's formulas for each shape have it.
fn a_position(kind: MmaKind, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    match kind {
        MmaKind::M16N8K16F16 | MmaKind::M16N8K16Bf16 => {
            let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
            let col = thread * 2 + (i & 1) + if i >= 4 { 8 } else { 0 };
            (row, col)
        }
        MmaKind::M16N8K8F16 | MmaKind::M16N8K8Bf16 => {
            (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
        }
        MmaKind::M16N8K8Tf32 => {
            let row = if i == 0 || i == 2 { group } else { group + 8 };
            (row, if i < 2 { thread } else { thread + 4 })
        }
        MmaKind::M16N8K4Tf32 => (if i == 0 { group } else { group + 8 }, thread),
    }
}

fn b_position(kind: MmaKind, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = match kind {
        MmaKind::M16N8K16F16 | MmaKind::M16N8K16Bf16 => thread * 2 + (i & 1) + if i < 2 { 0 } else { 8 },
        MmaKind::M16N8K8F16 | MmaKind::M16N8K8Bf16 => thread * 2 + i,
        MmaKind::M16N8K8Tf32 => {
            if i == 0 {
                thread
            } else {
                thread + 4
            }
        }
        MmaKind::M16N8K4Tf32 => thread,
    };
    (row, group)
}

fn c_position(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { lane >> 2 } else { (lane >> 2) + 8 }, (lane % 4) * 2 + (i & 1))
}

fn one(kind: MmaKind) -> u32 {
    match kind {
        MmaKind::M16N8K16F16 | MmaKind::M16N8K8F16 => 0x3c00,
        MmaKind::M16N8K16Bf16 | MmaKind::M16N8K8Bf16 => 0x3f80,
        _ => 0x3f80_0000,
    }
}

fn put(kind: MmaKind, regs: &mut [[u32; 32]], lane: usize, i: usize, bits: u32) {
    if kind.tf32() {
        regs[i][lane] = bits;
    } else {
        let shift = 16 * (i & 1);
        regs[i / 2][lane] = regs[i / 2][lane] & !(0xffff << shift) | bits << shift;
    }
}

fn elements(kind: MmaKind, regs: usize) -> usize {
    if kind.tf32() { regs } else { regs * 2 }
}

#[test]
fn sizes() {
    let want = [(4, 2, 4096), (4, 2, 4096), (2, 1, 2048), (2, 1, 2048), (4, 2, 2048), (2, 1, 1024)];
    for (k, w) in KINDS.into_iter().zip(want) {
        assert_eq!((k.a_regs(), k.b_regs(), k.flops()), w, "{k:?}");
    }
}

#[test]
fn one_hot_operands_land_where_the_isa_says() {
    for kind in KINDS {
        for lane in 0..32 {
            for i in 0..elements(kind, kind.a_regs()) {
                let (row, k) = a_position(kind, lane, i);
                for bl in 0..32 {
                    for bi in 0..elements(kind, kind.b_regs()) {
                        let mut a = vec![[0; 32]; kind.a_regs()];
                        let mut b = vec![[0; 32]; kind.b_regs()];
                        put(kind, &mut a, lane, i, one(kind));
                        put(kind, &mut b, bl, bi, one(kind));
                        let d = mma_f32(kind, Mma::Sequential, &a, &b, &[[0; 32]; 4]);
                        let (bk, col) = b_position(kind, bl, bi);
                        for dl in 0..32 {
                            for di in 0..4 {
                                let hit = k == bk && c_position(dl, di) == (row, col);
                                assert_eq!(d[di][dl], if hit { 0x3f80_0000 } else { 0 });
                            }
                        }
                    }
                }
            }
        }
    }
}

type Regs = Vec<[u32; 32]>;

/// Random matrices of `kind` with exponents in a window of `2^spread`, and their values.
fn random(kind: MmaKind, seed: u64, spread: u64) -> (Regs, Regs, Regs) {
    let mut n = seed << 32;
    let mut next = |cd: bool| {
        n += 1;
        let r = mix(n);
        let e = (r >> 40) % (spread + 1);
        let x = r as u32;
        if cd {
            return x & 0x807f_ffff | ((127 + spread as u32) - e as u32) << 23;
        }
        match kind {
            MmaKind::M16N8K16F16 | MmaKind::M16N8K8F16 => x & 0x83ff | (15 + 8 - e.min(22) as u32) << 10,
            MmaKind::M16N8K16Bf16 | MmaKind::M16N8K8Bf16 => x & 0x807f | (127 + 8 - e as u32) << 7,
            _ => x & 0x807f_e000 | (127 + 8 - e as u32) << 23,
        }
    };
    let mut fill = |regs: usize, cd: bool| {
        (0..regs)
            .map(|_| {
                std::array::from_fn(|_| if cd || kind.tf32() { next(cd) } else { next(cd) | next(cd) << 16 })
            })
            .collect::<Vec<[u32; 32]>>()
    };
    (fill(kind.a_regs(), false), fill(kind.b_regs(), false), fill(4, true))
}

/// The exact sum in fixed point, rounded by the f32 cast of a sticky f64: another way than the one under test.
fn fixed_point(t: &Tile, i: usize, j: usize) -> f32 {
    const UNIT: i32 = 90;
    let mut sum = 0i128;
    let mut add = |x: f64| {
        let scaled = x * power(UNIT);
        assert!(scaled.fract() == 0.0 && scaled.abs() < 1e37, "{x}");
        sum += scaled as i128;
    };
    add(t.c[i][j] as f64);
    for k in 0..t.k {
        add(t.a[i][k] as f64 * t.b[k][j] as f64);
    }
    let (neg, mut m) = (sum < 0, sum.unsigned_abs());
    let mut e = -UNIT;
    while m >= 1 << 50 {
        m = m >> 1 | m & 1;
        e += 1;
    }
    let x = m as f64 * power(e);
    (if neg { -x } else { x }) as f32
}

#[test]
fn exact_is_the_once_rounded_sum() {
    for kind in KINDS {
        for spread in [0, 4, 12, 22] {
            for seed in 0..20 {
                let (a, b, c) = random(kind, seed, spread);
                let t = Tile::load(kind, &a, &b, &c);
                let d = mma_f32(kind, Mma::Exact, &a, &b, &c);
                for lane in 0..32 {
                    for r in 0..4 {
                        let (i, j) = c_position(lane, r);
                        assert_eq!(f32::from_bits(d[r][lane]), fixed_point(&t, i, j), "{kind:?} {spread}");
                    }
                }
            }
        }
    }
}

#[test]
fn modes_stay_close_and_differ() {
    for kind in KINDS {
        let mut differ = [0; 2];
        for seed in 0..50 {
            let (a, b, c) = random(kind, seed, 6);
            let t = Tile::load(kind, &a, &b, &c);
            let d = MODES.map(|m| mma_f32(kind, m, &a, &b, &c));
            for lane in 0..32 {
                for r in 0..4 {
                    let (i, j) = c_position(lane, r);
                    let size = (0..t.k).fold(t.c[i][j].abs(), |s, k| s + (t.a[i][k] * t.b[k][j]).abs());
                    let x = d.each_ref().map(|d| f32::from_bits(d[r][lane]));
                    for m in 1..3 {
                        assert!((x[m] - x[0]).abs() <= size * 1e-6, "{kind:?} {x:?}");
                        differ[m - 1] += usize::from(x[m] != x[0]);
                    }
                }
            }
        }
        assert!(differ.iter().all(|&n| n > 100), "{kind:?} {differ:?}");
    }
}

#[test]
fn small_integers_are_exact_in_all_modes() {
    for kind in KINDS {
        let small = |x: u64| {
            let v = (x % 9) as f32 - 4.0;
            match kind {
                MmaKind::M16N8K16F16 | MmaKind::M16N8K8F16 => half::f16::from_f32(v).to_bits() as u32,
                MmaKind::M16N8K16Bf16 | MmaKind::M16N8K8Bf16 => v.to_bits() >> 16,
                _ => v.to_bits(),
            }
        };
        let pair = |x: u64| if kind.tf32() { small(x) } else { small(x) | small(x >> 32) << 16 };
        let regs = |n: usize, s: u64| {
            (0..n as u64)
                .map(|r| std::array::from_fn(|l| pair(mix(s + r * 32 + l as u64))))
                .collect::<Vec<[u32; 32]>>()
        };
        let (a, b) = (regs(kind.a_regs(), 1000), regs(kind.b_regs(), 2000));
        let c = vec![[7f32.to_bits(); 32]; 4];
        let d = MODES.map(|m| mma_f32(kind, m, &a, &b, &c));
        assert_eq!(d[0], d[1]);
        assert_eq!(d[0], d[2]);
    }
}

#[test]
fn truncation_drops_what_lies_below_two_extra_bits() {
    let kind = MmaKind::M16N8K8Bf16;
    let dot = |mode, terms: &[(f32, f32)], c: f32| {
        let (mut a, mut b) = (vec![[0; 32]; 2], vec![[0; 32]; 1]);
        for lane in 0..32 {
            for i in 0..4 {
                let (row, k) = a_position(kind, lane, i);
                if row == 0 && k < terms.len() {
                    put(kind, &mut a, lane, i, terms[k].0.to_bits() >> 16);
                }
            }
            for i in 0..2 {
                let (k, col) = b_position(kind, lane, i);
                if col == 0 && k < terms.len() {
                    put(kind, &mut b, lane, i, terms[k].1.to_bits() >> 16);
                }
            }
        }
        f32::from_bits(mma_f32(kind, mode, &a, &b, &[[c.to_bits(); 32]; 4])[0][0])
    };
    let ulp = 2f32.powi(-23);
    // 1 + 0.75 ulp: truncated to 1, rounded to 1 + ulp.
    let terms = [(1.0, 0.75 * ulp)];
    assert_eq!(dot(Mma::Truncate, &terms, 1.0), 1.0);
    assert_eq!(dot(Mma::Exact, &terms, 1.0), 1.0 + ulp);
    // Four quarters of an ulp survive in the two extra bits, eight eighths do not.
    assert_eq!(dot(Mma::Truncate, &[(1.0, 0.25 * ulp); 4], 1.0), 1.0 + ulp);
    assert_eq!(dot(Mma::Truncate, &[(1.0, 0.125 * ulp); 8], 1.0), 1.0);
    assert_eq!(dot(Mma::Exact, &[(1.0, 0.125 * ulp); 8], 1.0), 1.0 + ulp);
    assert_eq!(dot(Mma::Sequential, &[(1.0, 0.125 * ulp); 8], 1.0), 1.0);
    // Toward zero for negatives too.
    assert_eq!(dot(Mma::Truncate, &[(-1.0, 0.75 * ulp)], -1.0), -1.0);
    // Cancellation far above a small term.
    let big = 2f32.powi(60);
    assert_eq!(dot(Mma::Exact, &[(big, 1.0), (-big, 1.0), (1.0, 3.0)], 0.0), 3.0);
    assert_eq!(dot(Mma::Exact, &[(big, big), (1.0, 3.0), (-big, big)], 0.5), 3.5);
    assert_eq!(dot(Mma::Truncate, &[(big, 1.0), (-big, 1.0), (1.0, 3.0)], 0.0), 0.0);
    // Subnormal and extreme results.
    let tiny = 2f32.powi(-75);
    for m in MODES {
        assert_eq!(dot(m, &[(tiny, 2f32.powi(-74))], 0.0), f32::from_bits(1), "{m:?}");
        assert_eq!(dot(m, &[(big, 2f32.powi(67)), (big, 2f32.powi(67))], 0.0), f32::INFINITY, "{m:?}");
        assert!(dot(m, &[(f32::INFINITY, 0.0)], 0.0).is_nan());
        assert_eq!(dot(m, &[(f32::INFINITY, 2.0)], 1.0), f32::INFINITY);
        assert!(dot(m, &[(f32::INFINITY, 2.0)], f32::NEG_INFINITY).is_nan());
        assert_eq!(dot(m, &[(1.0, 2.0)], f32::NEG_INFINITY), f32::NEG_INFINITY);
    }
}

#[test]
fn f16_values() {
    for b in 0..=0xffffu16 {
        let (x, y) = (f16_value(b as u32), half::f16::from_bits(b).to_f32());
        assert!(x == y && x.is_sign_negative() == y.is_sign_negative() || x.is_nan() && y.is_nan());
    }
}

#[test]
#[ignore = "a timing, for reading"]
fn speed() {
    for (kind, spread) in [(MmaKind::M16N8K16Bf16, 8), (MmaKind::M16N8K16F16, 8), (MmaKind::M16N8K16F16, 22)]
    {
        let (a, b, c) = random(kind, 1, spread);
        for m in MODES {
            let start = std::time::Instant::now();
            let mut sum = 0u32;
            for _ in 0..200_000 {
                sum ^= mma_f32(kind, m, std::hint::black_box(&a), &b, &c)[0][0];
            }
            let s = start.elapsed().as_secs_f64();
            println!("{kind:?} {spread} {m:?}: {:.2} M/s {sum}", 0.2 / s);
        }
    }
}
