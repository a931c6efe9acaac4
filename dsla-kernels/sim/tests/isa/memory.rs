//! Loads, stores, atomics, parameters, cp.async.

use crate::common::{Lab, module, parse, read32, words};
use ptxsim::{Launch, Memory, run};

const IN: [u32; 4] = [0x8899_aabb, 0xccdd_eeff, 0x0011_2233, 0x4455_6677];

/// One thread; `%r1..` results are stored by the body.
fn one(body: &str, output: usize) -> Vec<u32> {
    Lab::new(body).threads(1).input(&IN).output(output).run()
}

/// A load into a register wide enough, and what it reads from the eight bytes 0x88 0xbb.. (little-endian) at offset 0 or 4.
#[test]
fn loads_extend_by_their_sign() {
    let cases: [(&str, u64); 20] = [
        ("u8 [%in]", 0xbb),
        ("s8 [%in]", 0xffff_ffff_ffff_ffbb),
        ("b8 [%in+3]", 0x88),
        ("u16 [%in]", 0xaabb),
        ("s16 [%in]", 0xffff_ffff_ffff_aabb),
        ("b16 [%in+2]", 0x8899),
        ("u32 [%in]", 0x8899_aabb),
        ("s32 [%in]", 0xffff_ffff_8899_aabb),
        ("b32 [%in+4]", 0xccdd_eeff),
        ("u64 [%in]", 0xccdd_eeff_8899_aabb),
        ("s64 [%in]", 0xccdd_eeff_8899_aabb),
        ("b64 [%in+8]", 0x4455_6677_0011_2233),
        ("s8 [%in+8]", 0x33),
        ("s16 [%in+12]", 0x6677),
        ("u8 [%in+15]", 0x44),
        ("s32 [%in+8]", 0x0011_2233),
        ("u32 [%in+12]", 0x4455_6677),
        ("s16 [%in+6]", 0xffff_ffff_ffff_ccdd),
        ("b16 [%in+14]", 0x4455),
        ("b8 [%in+0]", 0xbb),
    ];
    let shared = ".shared .align 16 .b8 s[16];\nld.global.v4.u32 {%r10, %r11, %r12, %r13}, [%in];\n\
                  st.shared.v4.u32 [s], {%r10, %r11, %r12, %r13};\n";
    for (access, want) in cases {
        let (ty, address) = access.split_once(' ').expect("two words");
        for space in ["global", "shared"] {
            let (prologue, address) =
                if space == "shared" { (shared, address.replace("%in", "s")) } else { ("", address.into()) };
            let body = format!("{prologue}ld.{space}.{ty} %rd1, {address};\nst.global.u64 [%out], %rd1;");
            assert_eq!(one(&body, 2), [want as u32, (want >> 32) as u32], "{space} {access}");
            // Into 32 bits, where the type fits.
            if !ty.contains("64") {
                let body = format!("{prologue}ld.{space}.{ty} %r1, {address};\nst.global.u32 [%out], %r1;");
                assert_eq!(one(&body, 1), [want as u32], "{space} {access}");
            }
        }
    }
}

#[test]
fn stores_write_their_width() {
    for (ty, want) in [
        ("u8", 0xffff_ff44u32),
        ("s8", 0xffff_ff44),
        ("b8", 0xffff_ff44),
        ("u16", 0xffff_3344),
        ("s16", 0xffff_3344),
        ("b16", 0xffff_3344),
        ("u32", 0x1122_3344),
        ("s32", 0x1122_3344),
        ("b32", 0x1122_3344),
    ] {
        for (space, to) in [("global", "[%out]"), ("shared", "[s]")] {
            let body = format!(
                ".shared .align 4 .b8 s[4];\nmov.u32 %r1, -1;\nst.{space}.u32 {to}, %r1;\nmov.u32 %r2, 0x11223344;\n\
                 st.{space}.{ty} {to}, %r2;\nld.{space}.u32 %r3, {to};\nst.global.u32 [%out], %r3;"
            );
            assert_eq!(one(&body, 1), [want], "{space} {ty}");
        }
    }
    let floats = "mov.f32 %f1, 1.5;\nst.global.f32 [%out], %f1;\nmov.f64 %fd1, 2.5;\nst.global.f64 [%out+8], %fd1;\nst.global.f32 [%out+4], 0f40000000;";
    assert_eq!(one(floats, 4), [0x3fc0_0000, 0x4000_0000, 0, 0x4004_0000]);
}

#[test]
fn vectors() {
    let body = "ld.global.v2.u32 {%r1, %r2}, [%in+8];\nld.global.v4.u32 {%r3, _, %r4, %r5}, [%in];\n\
                st.global.v4.u32 [%out], {%r1, %r2, %r3, %r4};\nst.global.v2.b32 [%out+16], {%r5, %r1};\n\
                ld.global.v2.u64 {%rd1, %rd2}, [%in];\nst.global.v2.u64 [%out+32], {%rd1, %rd2};\n\
                ld.global.v4.u8 {%r6, %r7, %r8, %r9}, [%in];\nst.global.v4.u8 [%out+24], {%r9, %r8, %r7, %r6};\n\
                ld.global.v2.u16 {%r6, %r7}, [%in+4];\nst.global.v2.u16 [%out+28], {%r7, %r6};\n\
                ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%in];\nst.global.v4.f32 [%out+48], {%f4, %f3, %f2, %f1};\n\
                ld.global.v2.f64 {%fd1, %fd2}, [%in];\nst.global.v2.f64 [%out+64], {%fd2, %fd1};\n\
                ld.global.v4.u16 {%h1, %h2, %h3, %h4}, [%in];\nst.global.v4.u16 [%out+80], {%h4, %h3, %h2, %h1};";
    let want = [
        IN[2],
        IN[3],
        IN[0],
        IN[2],
        IN[3],
        IN[2],
        0xbbaa_9988,
        0xeeff_ccdd,
        IN[0],
        IN[1],
        IN[2],
        IN[3],
        IN[3],
        IN[2],
        IN[1],
        IN[0],
        IN[2],
        IN[3],
        IN[0],
        IN[1],
        0xeeff_ccdd,
        0xaabb_8899,
    ];
    assert_eq!(one(body, 22), want);
}

#[test]
fn cache_hints_and_orders_change_nothing() {
    for m in [
        ".ca",
        ".cg",
        ".cs",
        ".lu",
        ".cv",
        ".nc",
        ".L1::no_allocate",
        ".L1::evict_first",
        ".L1::evict_last",
        ".nc.L1::no_allocate",
        ".L2::128B",
        ".nc.L1::no_allocate.L2::256B",
        ".L2::64B",
    ] {
        let body = format!("ld.global{m}.u32 %r1, [%in+4];\nst.global.u32 [%out], %r1;");
        assert_eq!(one(&body, 1), [IN[1]], "{m}");
    }
    for m in ["weak", "volatile", "relaxed.cta", "relaxed.gpu", "acquire.gpu", "acquire.sys"] {
        let body = format!("ld.{m}.global.u32 %r1, [%in+4];\nst.global.u32 [%out], %r1;");
        assert_eq!(one(&body, 1), [IN[1]], "{m}");
    }
    for m in [".wb", ".cg", ".cs", ".wt", ".L1::no_allocate"] {
        let body = format!("st.global{m}.u32 [%out], 5;");
        assert_eq!(one(&body, 1), [5], "{m}");
    }
    for m in ["weak", "volatile", "relaxed.gpu", "release.cta", "release.gpu"] {
        let body = format!("st.{m}.global.u32 [%out], 5;");
        assert_eq!(one(&body, 1), [5], "{m}");
    }
    let body = "prefetch.global.L1 [%in];\nprefetch.global.L2 [%in];\nst.global.u32 [%out], 5;";
    assert_eq!(one(body, 1), [5]);
    let body = ".shared .u32 s;\nst.volatile.shared.u32 [s], 7;\nld.volatile.shared.u32 %r1, [s];\nst.shared::cta.u32 [s], %r1;\n\
                ld.shared::cta.u32 %r1, [s];\nst.global.u32 [%out], %r1;";
    assert_eq!(one(body, 1), [7]);
}

#[test]
fn addresses() {
    // Shared variables lie apart, arrays index in bytes, the dynamic window follows the static variables.
    let body = ".extern .shared .align 16 .b8 dyn[];\n.shared .u32 a;\n.shared .align 8 .b32 b[4];\n\
                st.shared.u32 [a], 1;\nst.shared.u32 [b], 2;\nst.shared.u32 [b+12], 3;\nmov.u32 %r9, dyn;\nst.shared.u32 [%r9], 4;\n\
                st.shared.u32 [dyn+4], 5;\nmov.u32 %r8, b;\nst.shared.u32 [%r8+4], 6;\n\
                ld.shared.u32 %r1, [a];\nld.shared.u32 %r2, [b];\nld.shared.u32 %r3, [b+12];\nld.shared.u32 %r4, [dyn];\n\
                ld.shared.u32 %r5, [%r9+4];\nadd.u32 %r7, %r9, 8;\nld.shared.u32 %r6, [%r7+-4];\nld.shared.u32 %r7, [b+4];\n\
                st.global.v4.u32 [%out], {%r1, %r2, %r3, %r4};\nst.global.v2.u32 [%out+16], {%r5, %r6};\nst.global.u32 [%out+24], %r7;";
    assert_eq!(Lab::new(body).threads(1).shared(8).output(7).run(), [1, 2, 3, 4, 5, 5, 6]);
    let body = "add.u64 %rd1, %in, 8;\nld.global.u32 %r1, [%rd1+-4];\nld.global.u32 %r2, [%rd1+-8];\nst.global.v2.u32 [%out], {%r1, %r2};";
    assert_eq!(one(body, 2), [IN[1], IN[0]]);
}

#[test]
fn parameters() {
    let text = module(
        ".visible .entry k(.param .u64 out, .param .u8 a, .param .u16 b, .param .f32 c, .param .align 16 .b8 s[32], .param .s8 d)\n{\n\
         .reg .b64 %out, %l;\n.reg .b32 %r<9>;\n.reg .f32 %f;\nld.param.u64 %out, [out];\nld.param.u8 %r1, [a];\nld.param.u16 %r2, [b];\n\
         ld.param.f32 %f, [c];\nld.param.u32 %r3, [s+4];\nld.param.v2.u32 {%r4, %r5}, [s+16];\nld.param.s8 %r6, [d];\nld.param.u64 %l, [s+24];\n\
         st.global.v4.u32 [%out], {%r1, %r2, %r3, %r4};\nst.global.u32 [%out+16], %r5;\nst.global.f32 [%out+20], %f;\n\
         st.global.u64 [%out+24], %l;\nst.global.u32 [%out+32], %r6;\nret;\n}\n",
    );
    let m = parse(&text);
    let e = &m.entries()[0];
    let seen: Vec<_> = e.params.iter().map(|p| (p.name.as_str(), p.ty.as_str(), p.size, p.offset)).collect();
    let want = [
        ("out", "u64", 8, 0),
        ("a", "u8", 1, 8),
        ("b", "u16", 2, 10),
        ("c", "f32", 4, 12),
        ("s", "b8", 32, 16),
        ("d", "s8", 1, 48),
    ];
    assert_eq!(seen, want);
    let mut mem = Memory::new(1 << 20);
    let out = mem.alloc(36).expect("room");
    let mut params = words(&[out]);
    params.extend([7, 0, 0x34, 0x12]);
    params.extend(1.5f32.to_le_bytes());
    params.extend((0..32u8).map(|i| i + 1));
    params.push(0xfe);
    let l = Launch { entry: "k", grid: [1; 3], block: [1; 3], shared: 0, params: &params };
    run(&m, &l, &mut mem, &crate::common::options()).unwrap_or_else(|e| panic!("{e}"));
    let want = [
        7,
        0x1234,
        0x0807_0605,
        0x1413_1211,
        0x1817_1615,
        0x3fc0_0000,
        0x1c1b_1a19,
        0x201f_1e1d,
        -2i32 as u32,
    ];
    assert_eq!(read32(&mem, out, 9), want);
}

/// (op, type, old, operand, second operand, new)
const ATOMICS: [(&str, &str, u64, u64, Option<u64>, u64); 32] = [
    ("add", "u32", 5, 7, None, 12),
    ("add", "s32", 5, -7i32 as u32 as u64, None, -2i32 as u32 as u64),
    ("add", "u64", u32::MAX as u64, 1, None, 1 << 32),
    ("add", "f32", 0x3fc0_0000, 0x4000_0000, None, 0x4060_0000),
    ("add", "f64", 0x3ff8_0000_0000_0000, 0x4000_0000_0000_0000, None, 0x400c_0000_0000_0000),
    ("add.noftz", "f16x2", 0x3c00_4000, 0x3c00_3c00, None, 0x4000_4200),
    ("add.noftz", "bf16x2", 0x3f80_4000, 0x3f80_3f80, None, 0x4000_4040),
    ("and", "b32", 0b1100, 0b1010, None, 0b1000),
    ("or", "b32", 0b1100, 0b1010, None, 0b1110),
    ("xor", "b32", 0b1100, 0b1010, None, 0b0110),
    ("and", "b64", 0b1100 << 40, 0b1010 << 40, None, 0b1000 << 40),
    ("or", "b64", 0b1100 << 40, 0b1010 << 40, None, 0b1110 << 40),
    ("xor", "b64", 0b1100 << 40, 0b1010 << 40, None, 0b0110 << 40),
    ("min", "u32", 5, 0xffff_ffff, None, 5),
    ("max", "u32", 5, 0xffff_ffff, None, 0xffff_ffff),
    ("min", "s32", 5, 0xffff_ffff, None, 0xffff_ffff),
    ("max", "s32", 5, 0xffff_ffff, None, 5),
    ("min", "u64", 5, u64::MAX, None, 5),
    ("max", "u64", 5, u64::MAX, None, u64::MAX),
    ("min", "s64", 5, u64::MAX, None, u64::MAX),
    ("max", "s64", 5, u64::MAX, None, 5),
    // inc: old >= b ? 0 : old + 1; dec: old == 0 || old > b ? b : old - 1.
    ("inc", "u32", 5, 5, None, 0),
    ("inc", "u32", 4, 5, None, 5),
    ("dec", "u32", 0, 5, None, 5),
    ("dec", "u32", 6, 5, None, 5),
    ("dec", "u32", 4, 5, None, 3),
    ("exch", "b32", 5, 9, None, 9),
    ("exch", "b64", 5, 9 << 40, None, 9 << 40),
    ("cas", "b32", 5, 5, Some(9), 9),
    ("cas", "b32", 5, 6, Some(9), 5),
    ("cas", "b64", 5 << 40, 5 << 40, Some(9), 9),
    ("cas", "b16", 5, 5, Some(9), 9),
];

#[test]
fn atomics() {
    for (op, ty, old, b, c, new) in ATOMICS {
        let (w, reg) = match ty {
            "b16" => (16, "%h"),
            "u64" | "b64" | "s64" => (64, "%rd"),
            "f64" => (64, "%fd"),
            "f32" => (32, "%f"),
            _ => (32, "%r"),
        };
        let bits = if w == 64 {
            "%rd"
        } else if w == 16 {
            "%h"
        } else {
            "%r"
        };
        let konst = |i: usize, v: u64| format!("mov.b{w} {bits}{i}, {v};\nmov.b{w} {reg}{i}, {bits}{i};\n");
        let third = c.map_or(String::new(), |_| format!(", {reg}3"));
        for (space, to) in [("global", "[%out]"), ("shared", "[s]")] {
            let prologue = format!(
                ".shared .align 8 .b8 s[8];\nst.{space}.b64 {to}, 0;\n{}st.{space}.b{w} {to}, {bits}1;\n{}{}",
                konst(1, old),
                konst(2, b),
                konst(3, c.unwrap_or(0))
            );
            let epilogue = format!(
                "ld.{space}.b64 %rd7, {to};\nst.global.b64 [%out], %rd7;\nst.global.b64 [%out+8], 0;\n"
            );
            let body = format!(
                "{prologue}atom.{space}.{op}.{ty} {reg}4, {to}, {reg}2{third};\n{epilogue}st.global.b{w} [%out+8], {reg}4;"
            );
            let want = [new as u32, (new >> 32) as u32, old as u32, (old >> 32) as u32];
            assert_eq!(one(&body, 4), want, "{space} {op} {ty}");
            if !matches!(op, "cas" | "exch") {
                let body = format!("{prologue}red.{space}.{op}.{ty} {to}, {reg}2;\n{epilogue}");
                assert_eq!(one(&body, 4)[..2], want[..2], "red {space} {op} {ty}");
            }
        }
    }
    for m in ["relaxed.gpu", "acquire.gpu", "release.gpu", "acq_rel.gpu", "acq_rel.cta", "relaxed.sys"] {
        let body = format!(
            "st.global.u32 [%out], 1;\natom.{m}.global.add.u32 %r1, [%out], 2;\nst.global.u32 [%out+4], %r1;"
        );
        assert_eq!(one(&body, 2), [3, 1], "{m}");
    }
    for m in ["relaxed.gpu", "release.gpu"] {
        assert_eq!(
            one(&format!("st.global.u32 [%out], 1;\nred.{m}.global.add.u32 [%out], 2;"), 1),
            [3],
            "{m}"
        );
    }
    assert_eq!(one("st.global.u32 [%out], 1;\natom.gpu.global.add.u32 _, [%out], 2;", 1), [3]);
    // All lanes of all CTAs count.
    let body = "ld.global.u32 %r1, [%in];\natom.global.add.u32 %r2, [%in+4], 1;\nst.global.u32 [%mine], %r1;";
    let lab = Lab::new(body).input(&[1, 0]);
    let m = parse(&lab.text());
    let mut mem = Memory::new(1 << 20);
    let a = mem.alloc(4096).expect("room");
    mem.fill(a, 0, 4096).expect("live");
    let lab = Lab { grid: 1, block: [64, 1, 1], ..lab };
    lab.launch(&m, &mut mem, &words(&[a, a + 2048])).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(read32(&mem, a + 2052, 1), [64]);
}

#[test]
fn cp_async() {
    for (how, n) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
        for wait in ["cp.async.wait_all;", "cp.async.commit_group;\ncp.async.wait_group 0;"] {
            let body = format!(
                ".shared .align 16 .b8 s[16];\nst.shared.v4.u32 [s], {{%t, %t, %t, %t}};\ncp.async.{how}.shared.global [s], [%in], {n};\n\
                 {wait}\nld.shared.v4.u32 {{%r1, %r2, %r3, %r4}}, [s];\nst.global.v4.u32 [%out], {{%r1, %r2, %r3, %r4}};"
            );
            let want: Vec<u32> = (0..4).map(|i| if i < n / 4 { IN[i] } else { 0 }).collect();
            assert_eq!(one(&body, 4), want, "{how} {n} {wait}");
        }
    }
    // A source size below the copy's fills up with zeros; nothing past it is read.
    for (size, want) in [(16, IN), (8, [IN[0], IN[1], 0, 0]), (5, [IN[0], 0xff, 0, 0]), (0, [0; 4])] {
        let body = format!(
            ".shared .align 16 .b8 s[16];\nmov.u32 %r9, {size};\ncp.async.cg.shared.global [s], [%in], 16, %r9;\ncp.async.wait_all;\n\
             ld.shared.v4.u32 {{%r1, %r2, %r3, %r4}}, [s];\nst.global.v4.u32 [%out], {{%r1, %r2, %r3, %r4}};"
        );
        assert_eq!(one(&body, 4), want, "{size}");
    }
    // wait_group 1 waits for all but the newest group.
    let body = ".shared .align 16 .b8 s[32];\ncp.async.cg.shared.global.L2::128B [s], [%in], 16;\ncp.async.commit_group;\n\
                cp.async.ca.shared.global [s+16], [%in+4], 4;\ncp.async.commit_group;\ncp.async.wait_group 1;\n\
                ld.shared.u32 %r1, [s+12];\ncp.async.wait_group 0;\nld.shared.u32 %r2, [s+16];\nst.global.v2.u32 [%out], {%r1, %r2};";
    assert_eq!(one(body, 2), [IN[3], IN[1]]);
}
