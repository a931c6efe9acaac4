//! Branches, predication, barriers, ends.

use crate::common::{Lab, module, parse};

fn each(n: u32, f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..n).map(f).collect()
}

#[test]
fn predication() {
    let body = "setp.lt.u32 %p1, %t, 10;\nmov.u32 %r1, 1;\n@%p1 mov.u32 %r1, 2;\n@!%p1 add.u32 %r1, %r1, 4;\nst.global.u32 [%mine], %r1;";
    assert_eq!(Lab::new(body).run(), each(32, |i| if i < 10 { 2 } else { 5 }));
}

#[test]
fn loops_diverge_and_join() {
    // Each lane adds up 1..=lane; the lanes leave one by one and all meet for the vote.
    let body = "mov.u32 %r1, 0;\nmov.u32 %r2, %t;\nLOOP:\nsetp.eq.u32 %p1, %r2, 0;\n@%p1 bra DONE;\nadd.u32 %r1, %r1, %r2;\nsub.u32 %r2, %r2, 1;\n\
                bra.uni LOOP;\nDONE:\nsetp.ge.u32 %p2, %r1, 0;\nvote.sync.ballot.b32 %r3, %p2, -1;\nadd.u32 %r3, %r3, 1;\nadd.u32 %r1, %r1, %r3;\n\
                st.global.u32 [%mine], %r1;";
    assert_eq!(Lab::new(body).run(), each(32, |i| i * (i + 1) / 2));
}

#[test]
fn nested_branches() {
    let body = "mov.u32 %r1, 0;\nsetp.lt.u32 %p1, %t, 16;\nand.b32 %r2, %t, 1;\nsetp.eq.u32 %p2, %r2, 0;\n@%p1 bra LOW;\n@%p2 bra HE;\n\
                add.u32 %r1, %r1, 1;\nbra HJ;\nHE:\nadd.u32 %r1, %r1, 2;\nHJ:\nadd.u32 %r1, %r1, 10;\nbra END;\nLOW:\n@!%p2 bra LO;\n\
                add.u32 %r1, %r1, 3;\nbra END;\nLO:\nadd.u32 %r1, %r1, 4;\nEND:\nshfl.sync.idx.b32 %r4, %r1, 0, 31, -1;\nadd.u32 %r1, %r1, %r4;\n\
                st.global.u32 [%mine], %r1;";
    let value = |i: u32| match (i < 16, i.is_multiple_of(2)) {
        (true, true) => 3,
        (true, false) => 4,
        (false, true) => 12,
        (false, false) => 11,
    };
    assert_eq!(Lab::new(body).run(), each(32, |i| value(i) + 3));
}

#[test]
fn early_ends() {
    for end in ["ret", "exit", "ret.uni"] {
        let guard = if end == "ret.uni" { "" } else { "@%p1 " };
        let body = format!(
            "mov.u32 %r1, 1;\nst.global.u32 [%mine], %r1;\nsetp.ge.u32 %p1, %t, 8;\n{guard}{end};\nst.global.u32 [%mine], %t;"
        );
        let want = each(32, |i| if i < 8 && end != "ret.uni" { i } else { 1 });
        assert_eq!(Lab::new(&body).run(), want, "{end}");
    }
    // Whole warps that have ended are not missed at a barrier of the others.
    let body = "mov.u32 %r1, 3;\nst.global.u32 [%mine], %r1;\nsetp.ge.u32 %p1, %t, 32;\n@%p1 exit;\nbar.sync 0, 32;\nst.global.u32 [%mine], %t;";
    assert_eq!(Lab::new(body).threads(64).run(), each(64, |i| if i < 32 { i } else { 3 }));
}

/// Every warp writes, all wait, every thread reads its mirror image.
fn mirror(wait: &str) -> Vec<u32> {
    let body = format!(
        ".shared .align 4 .b8 s[512];\nmov.u32 %r1, s;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\nst.shared.u32 [%r3], %t;\n{wait}\n\
         sub.u32 %r4, 508, %r2;\nadd.u32 %r4, %r4, %r1;\nld.shared.u32 %r5, [%r4];\nst.global.u32 [%mine], %r5;"
    );
    Lab::new(&body).threads(128).run()
}

#[test]
fn barriers() {
    let want = each(128, |i| 127 - i);
    for wait in [
        "bar.sync 0;",
        "bar.sync 3;",
        "bar.sync 0, 128;",
        "bar.cta.sync 0;",
        "barrier.sync 0;",
        "barrier.sync.aligned 0;",
        "barrier.cta.sync.aligned 0;",
        "mov.u32 %r9, 2;\nbar.sync %r9;",
        "mov.u32 %r9, 128;\nbar.sync 1, %r9;",
        "bar.sync 0;\nmembar.cta;\nbar.sync 0;",
    ] {
        assert_eq!(mirror(wait), want, "{wait}");
    }
    // Producers arrive, consumers wait.
    let body = ".shared .align 4 .b8 s[128];\nmov.u32 %r1, s;\nand.b32 %r6, %t, 31;\nshl.b32 %r2, %r6, 2;\nadd.u32 %r3, %r1, %r2;\n\
                setp.lt.u32 %p1, %t, 32;\n@%p1 bra PRODUCE;\nbar.sync 1, 64;\nld.shared.u32 %r4, [%r3];\nst.global.u32 [%mine], %r4;\nret;\n\
                PRODUCE:\nadd.u32 %r5, %t, 7;\nst.shared.u32 [%r3], %r5;\nbar.arrive 1, 64;\nst.global.u32 [%mine], %t;";
    assert_eq!(Lab::new(body).threads(64).run(), each(64, |i| if i < 32 { i } else { i - 32 + 7 }));
    // Inside a warp.
    let body = ".shared .align 4 .b8 s[128];\nmov.u32 %r1, s;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\nst.shared.u32 [%r3], %t;\n\
                bar.warp.sync -1;\nsub.u32 %r4, 124, %r2;\nadd.u32 %r4, %r4, %r1;\nld.shared.u32 %r5, [%r4];\nst.global.u32 [%mine], %r5;";
    assert_eq!(Lab::new(body).run(), each(32, |i| 31 - i));
}

#[test]
fn fences_and_sleep() {
    for f in [
        "membar.cta",
        "membar.gl",
        "membar.sys",
        "fence.sc.cta",
        "fence.acq_rel.gpu",
        "fence.sc.sys",
        "nanosleep.u32 100",
    ] {
        let body = format!("{f};\nst.global.u32 [%mine], %t;");
        assert_eq!(Lab::new(&body).run(), each(32, |i| i), "{f}");
    }
    let body = "mov.u32 %r1, %clock;\nmov.u64 %rd1, %clock64;\nst.global.u32 [%mine], %t;";
    assert_eq!(Lab::new(body).run(), each(32, |i| i));
}

#[test]
fn scopes_of_names() {
    // A block's registers and labels hide those outside.
    let body = "mov.u32 %r1, 1;\n{\n.reg .b32 %r1;\nmov.u32 %r1, 50;\nbra L;\nL:\nadd.u32 %r2, %r1, 1;\n}\n{\nbra L;\nL:\nadd.u32 %r2, %r2, %r1;\n}\n\
                st.global.u32 [%mine], %r2;";
    assert_eq!(Lab::new(body).run(), vec![52; 32]);
}

#[test]
fn entries() {
    let text = module(
        ".visible .entry one(.param .u64 .ptr .global .align 16 x)\n.maxntid 128, 2, 1\n.minnctapersm 2\n{\n.shared .align 16 .b8 s[100];\n\
         .reg .b64 %x;\nld.param.u64 %x, [x];\nst.shared.u8 [s], 1;\nret;\n}\n\
         .entry two()\n.reqntid 64\n{\nret;\n}\n.visible .entry three(.param .u32 n)\n{\n/* comment */ // another\nret;\n}\n",
    );
    let m = parse(&text);
    let names: Vec<_> =
        m.entries().iter().map(|e| (e.name.as_str(), e.params.len(), e.max_threads)).collect();
    assert_eq!(names, [("one", 1, Some(256)), ("two", 0, Some(64)), ("three", 1, None)]);
    assert!(m.entries()[0].shared_bytes >= 100);
    assert_eq!(m.entries()[1].shared_bytes, 0);
}
