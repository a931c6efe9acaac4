//! Exchange inside a warp.

use crate::common::Lab;

/// `%r1` of every lane after the statements; `%r2` is `100 + lane`.
fn lanes(statements: &str) -> Vec<u32> {
    Lab::new(&format!("add.u32 %r2, %t, 100;\nmov.u32 %r3, -1;\n{statements}\nst.global.u32 [%mine], %r1;"))
        .run()
}

fn each(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

#[test]
fn shfl() {
    let one = |mode: &str, b: u32, c: u32| lanes(&format!("shfl.sync.{mode}.b32 %r1, %r2, {b}, {c}, -1;"));
    // c: clamp in bits 0..4, segment mask in bits 8..12.
    assert_eq!(one("up", 1, 0), each(|i| 100 + i.saturating_sub(1)));
    assert_eq!(one("down", 3, 31), each(|i| 100 + if i + 3 < 32 { i + 3 } else { i }));
    assert_eq!(one("bfly", 5, 31), each(|i| 100 + (i ^ 5)));
    assert_eq!(one("idx", 7, 31), each(|_| 107));
    // Segments of eight lanes: mask 0x18.
    assert_eq!(one("up", 1, 0x1800), each(|i| 100 + if i % 8 == 0 { i } else { i - 1 }));
    assert_eq!(one("down", 1, 0x181f), each(|i| 100 + if i % 8 == 7 { i } else { i + 1 }));
    assert_eq!(one("idx", 2, 0x181f), each(|i| 100 + i / 8 * 8 + 2));
    assert_eq!(one("bfly", 16, 0x181f), each(|i| 100 + if i ^ 16 <= i / 8 * 8 + 7 { i ^ 16 } else { i }));
    // A lane in a register, and the predicate: was the source in range?
    let with = lanes("xor.b32 %r4, %t, 1;\nshfl.sync.idx.b32 %r1|%p1, %r2, %r4, 31, %r3;");
    assert_eq!(with, each(|i| 100 + (i ^ 1)));
    let p = lanes("shfl.sync.up.b32 %r1|%p1, %r2, 4, 0, -1;\nselp.u32 %r1, 1, 0, %p1;");
    assert_eq!(p, each(|i| u32::from(i >= 4)));
    let p = lanes("shfl.sync.down.b32 %r1|%p1, %r2, 4, 31, -1;\nselp.u32 %r1, 1, 0, %p1;");
    assert_eq!(p, each(|i| u32::from(i < 28)));
    // Half a warp by itself.
    let half =
        lanes("mov.u32 %r1, 0;\nsetp.lt.u32 %p1, %t, 16;\n@%p1 shfl.sync.bfly.b32 %r1, %r2, 1, 31, 0xffff;");
    assert_eq!(half, each(|i| if i < 16 { 100 + (i ^ 1) } else { 0 }));
}

#[test]
fn vote() {
    let set = "setp.lt.u32 %p1, %t, 5;\nsetp.lt.u32 %p3, %t, 99;\n";
    let one = |mode: &str, p: &str| {
        lanes(&format!("{set}vote.sync.{mode}.pred %p2, {p}, -1;\nselp.u32 %r1, 1, 0, %p2;"))[9]
    };
    assert_eq!([one("all", "%p1"), one("all", "%p3"), one("all", "!%p3")], [0, 1, 0]);
    assert_eq!([one("any", "%p1"), one("any", "%p3"), one("any", "!%p3")], [1, 1, 0]);
    assert_eq!([one("uni", "%p1"), one("uni", "%p3"), one("uni", "!%p3")], [0, 1, 1]);
    assert_eq!(lanes(&format!("{set}vote.sync.ballot.b32 %r1, %p1, -1;")), each(|_| 0x1f));
    assert_eq!(lanes(&format!("{set}vote.sync.ballot.b32 %r1, !%p1, -1;")), each(|_| !0x1f));
    let half = format!(
        "{set}mov.u32 %r1, 0;\nsetp.ge.u32 %p2, %t, 4;\n@%p2 vote.sync.ballot.b32 %r1, %p1, 0xfffffff0;"
    );
    assert_eq!(lanes(&half), each(|i| if i >= 4 { 0x10 } else { 0 }));
}

#[test]
fn match_redux_activemask() {
    let groups = each(|i| (0..32).filter(|j| j / 8 == i / 8).fold(0, |m, j| m | 1 << j));
    assert_eq!(lanes("shr.u32 %r4, %t, 3;\nmatch.any.sync.b32 %r1, %r4, -1;"), groups);
    assert_eq!(
        lanes("shr.u32 %r4, %t, 3;\ncvt.u64.u32 %rd1, %r4;\nmatch.any.sync.b64 %r1, %rd1, -1;"),
        groups
    );
    assert_eq!(lanes("match.all.sync.b32 %r1, %t, -1;"), each(|_| 0));
    assert_eq!(lanes("mov.u32 %r4, 3;\nmatch.all.sync.b32 %r1|%p1, %r4, -1;"), each(|_| !0));
    assert_eq!(lanes("match.all.sync.b32 %r1|%p1, %t, -1;\nselp.u32 %r1, 7, 8, %p1;"), each(|_| 8));
    for (op, ty, want) in [
        ("add", "u32", (0..32u32).map(|i| i.wrapping_sub(5)).fold(0, u32::wrapping_add)),
        ("min", "u32", 0),
        ("max", "u32", u32::MAX),
        ("add", "s32", (0..32u32).map(|i| i.wrapping_sub(5)).fold(0, u32::wrapping_add)),
        ("min", "s32", -5i32 as u32),
        ("max", "s32", 26),
        ("and", "b32", 0),
        ("or", "b32", u32::MAX),
        ("xor", "b32", (0..32u32).map(|i| i.wrapping_sub(5)).fold(0, |a, b| a ^ b)),
    ] {
        let got = lanes(&format!("sub.u32 %r4, %t, 5;\nredux.sync.{op}.{ty} %r1, %r4, -1;"));
        assert_eq!(got, each(|_| want), "{op} {ty}");
    }
    assert_eq!(lanes("activemask.b32 %r1;"), each(|_| !0));
    let half = "mov.u32 %r1, 0;\nsetp.lt.u32 %p1, %t, 16;\n@!%p1 bra SKIP;\nactivemask.b32 %r1;\nSKIP:";
    assert_eq!(lanes(half), each(|i| if i < 16 { 0xffff } else { 0 }));
    // A warp cut off by the block's end has fewer lanes.
    let body = "activemask.b32 %r1;\nst.global.u32 [%mine], %r1;";
    assert_eq!(Lab::new(body).threads(40).run()[35], 0xff);
}
