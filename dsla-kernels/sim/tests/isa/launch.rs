//! Launches that cannot be, and the host's use of memory.

use crate::common::{module, options, parse, words};
use ptxsim::FaultKind::{self, *};
use ptxsim::{Launch, Memory, Module, run};

fn kernel() -> Module {
    parse(&module(
        ".visible .entry k(.param .u64 out)\n.maxntid 64\n{\n.shared .align 4 .b8 s[1024];\n.reg .b64 %o;\nld.param.u64 %o, [out];\n\
         st.global.u32 [%o], 1;\nret;\n}\n.visible .entry fixed()\n.reqntid 32, 2\n{\nret;\n}\n",
    ))
}

fn launch(entry: &str, grid: [u32; 3], block: [u32; 3], shared: u32, params: &[u8]) -> Result<(), FaultKind> {
    let m = kernel();
    let mut mem = Memory::new(1 << 20);
    let out = mem.alloc(4).expect("room");
    let own = words(&[out]);
    let params = if params == b"out" { &own[..] } else { params };
    let l = Launch { entry, grid, block, shared, params };
    run(&m, &l, &mut mem, &options()).map(|_| ()).map_err(|e| e.kind)
}

#[test]
fn impossible_launches() {
    let (g, b) = ([1; 3], [1; 3]);
    assert_eq!(launch("k", g, b, 0, b"out"), Ok(()));
    assert_eq!(launch("k", g, [64, 1, 1], 0, b"out"), Ok(()));
    assert_eq!(launch("k", [70_000, 1, 1], b, 0, &[]), Err(FaultKind::Launch));
    for (why, r) in [
        ("no such kernel", launch("q", g, b, 0, b"out")),
        ("no blocks", launch("k", [0, 1, 1], b, 0, b"out")),
        ("no threads", launch("k", g, [1, 0, 1], 0, b"out")),
        ("more threads than .maxntid", launch("k", g, [65, 1, 1], 0, b"out")),
        ("more threads than a block holds", launch("fixed", g, [2048, 1, 1], 0, &[])),
        ("other threads than .reqntid", launch("fixed", g, [64, 1, 1], 0, &[])),
        ("a grid too high", launch("k", [1, 65_536, 1], b, 0, b"out")),
        ("a block too deep", launch("k", g, [1, 1, 65], 0, b"out")),
        ("too little for the parameters", launch("k", g, b, 0, &[0; 4])),
        ("too much for the parameters", launch("k", g, b, 0, &[0; 16])),
        ("more shared memory than there is", launch("k", g, b, 300_000, b"out")),
    ] {
        assert_eq!(r, Err(FaultKind::Launch), "{why}");
    }
    assert_eq!(launch("fixed", g, [32, 2, 1], 0, &[]), Ok(()));
}

#[test]
fn use_after_free_and_misuse_by_the_host() {
    let m = kernel();
    let mut mem = Memory::new(1 << 20);
    let out = mem.alloc(4).expect("room");
    let l = Launch { entry: "k", grid: [1; 3], block: [1; 3], shared: 0, params: &words(&[out]) };
    run(&m, &l, &mut mem, &options()).expect("alive");
    mem.free(out).expect("a live start");
    let e = run(&m, &l, &mut mem, &options()).expect_err("freed");
    assert_eq!(e.kind, OutOfBounds);
    // The same after another allocation: addresses are not given out again at once.
    let other = mem.alloc(4).expect("room");
    assert_ne!(other, out);
    assert_eq!(run(&m, &l, &mut mem, &options()).expect_err("freed").kind, OutOfBounds);
    // The host is checked as well.
    let mut b = [0; 8];
    assert_eq!(mem.free(out).expect_err("twice").kind, OutOfBounds);
    assert_eq!(mem.free(other + 1).expect_err("not a start").kind, OutOfBounds);
    assert_eq!(mem.read(out, &mut b[..4]).expect_err("freed").kind, OutOfBounds);
    assert_eq!(mem.read(other, &mut b[..4]).expect_err("fresh").kind, Uninitialised);
    assert_eq!(mem.write(other, &b).expect_err("too long").kind, OutOfBounds);
    assert_eq!(mem.fill(other, 0, 5).expect_err("too long").kind, OutOfBounds);
    mem.write(other, &b[..4]).expect("inside");
    mem.read(other, &mut b[..4]).expect("written");
    // Initialisation travels with copies.
    let (from, to) = (mem.alloc(8).expect("room"), mem.alloc(8).expect("room"));
    mem.fill(to, 1, 8).expect("inside");
    mem.fill(from, 2, 4).expect("inside");
    mem.copy(to, from, 8).expect("inside");
    assert_eq!(mem.read(to, &mut b).expect_err("half of it is fresh").kind, Uninitialised);
    mem.read(to, &mut b[..4]).expect("the other half");
    assert_eq!(b[..4], [2; 4]);
    assert_eq!((mem.live(), mem.allocations()), (20, 3));
    // Capacity.
    let mut small = Memory::new(1000);
    let a = small.alloc(600).expect("room");
    assert!(small.alloc(600).is_none());
    small.free(a).expect("live");
    assert!(small.alloc(600).is_some());
    assert_eq!(a % 256, 0);
}
