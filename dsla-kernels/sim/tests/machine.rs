//! Control flow, memory checks, barriers, copies, warp-wide instructions.

mod common;
use common::{Case, STORE};
use ptxsim::{FaultKind, Launch, Memory, Module, Options, run};

#[test]
fn diverged_lanes_meet_again() {
    // A loop of t trips, then a warp-wide sum: all lanes must be back.
    let y = Case::default().ok(&format!(
        "mov.u32 %r0, 0; mov.u32 %r1, %t;
        LOOP: setp.eq.u32 %p0, %r1, 0; @%p0 bra OUT; add.u32 %r0, %r0, %r1; sub.u32 %r1, %r1, 1; bra LOOP;
        OUT: and.b32 %r2, %t, 1; setp.eq.u32 %p1, %r2, 0; @%p1 bra EVEN; add.u32 %r0, %r0, 1000; bra JOIN;
        EVEN: add.u32 %r0, %r0, 2000;
        JOIN: redux.sync.add.u32 %r3, %r0, 0xffffffff; sub.u32 %r0, %r3, %r0; {STORE}"
    ));
    let own: Vec<u32> = (0..32).map(|t| t * (t + 1) / 2 + if t % 2 == 0 { 2000 } else { 1000 }).collect();
    let sum: u32 = own.iter().sum();
    assert_eq!(y[..32], own.iter().map(|o| sum - o).collect::<Vec<_>>());
}

#[test]
fn exits_and_guards() {
    let y = Case::default().ok(&format!(
        "setp.lt.u32 %p0, %t, 10; mov.u32 %r0, 1; @!%p0 mov.u32 %r0, 2; setp.ge.u32 %p1, %t, 20; @%p1 exit; {STORE}"
    ));
    assert_eq!(y[..32], [[1; 10].as_slice(), &[2; 10], &[!0; 12]].concat());
}

#[test]
fn memory_faults() {
    let c = Case::default();
    let f = c.fault(FaultKind::OutOfBounds, "ld.global.u32 %r0, [%x+1024]; ret;");
    assert_eq!((f.kernel.as_str(), f.line), ("k", 16));
    assert!(f.detail.contains("block (0,0,0) thread (0,0,0)"), "{f}");
    c.fault(FaultKind::OutOfBounds, "ld.global.u32 %r0, [%x+-4];");
    c.fault(FaultKind::OutOfBounds, "mov.u64 %d0, 0; ld.global.u32 %r0, [%d0];");
    c.fault(FaultKind::OutOfBounds, "st.shared.u32 [tile+1024], %t;");
    c.fault(FaultKind::OutOfBounds, "mov.u32 %r0, tile; sub.u32 %r0, %r0, 4; st.shared.u32 [%r0], %t;");
    c.fault(FaultKind::OutOfBounds, "prefetch.global.L2 [%x+4096];");
    c.fault(FaultKind::Misaligned, "ld.global.u32 %r0, [%x+2];");
    c.fault(FaultKind::Misaligned, "ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%x+8];");
    c.fault(FaultKind::Misaligned, "st.shared.v2.u32 [tile+4], {%t, %t};");
    c.fault(FaultKind::Uninitialised, "ld.global.u32 %r0, [%y];");
    c.fault(FaultKind::Uninitialised, "ld.shared.u32 %r0, [tile];");
    c.fault(FaultKind::Uninitialised, "add.u32 %r0, %r1, 1;");
    c.fault(FaultKind::Uninitialised, "@%p0 add.u32 %r0, %t, 1;");
    c.fault(FaultKind::Uninitialised, "setp.lt.u32 %p0, %t, 31; @%p0 mov.u32 %r1, 5; add.u32 %r0, %r1, 1;");
    // Half of what is read was written.
    c.fault(FaultKind::Uninitialised, "st.global.u16 [%y], %t; ld.global.u32 %r0, [%y];").detail.clear();
    // Only the operand that a select picks must have been written.
    c.ok("setp.lt.u32 %p0, %t, 31; @%p0 mov.u32 %r1, 5; selp.b32 %r0, %r1, 7, %p0;");
    c.fault(FaultKind::Trap, "setp.eq.u32 %p0, %t, 7; @%p0 trap;");
    c.fault(FaultKind::Budget, "L: bra L;");
}

#[test]
fn host_memory() {
    let mut m = Memory::new(1000);
    let (a, b) = (m.alloc(600).unwrap(), m.alloc(400).unwrap());
    assert!(a % 256 == 0 && b % 256 == 0 && m.alloc(1).is_none());
    assert_eq!((m.live(), m.allocations()), (1000, 2));
    let kind = |r: Result<(), ptxsim::Fault>| r.unwrap_err().kind;
    assert_eq!(kind(m.read(a, &mut [0; 4])), FaultKind::Uninitialised);
    m.fill(a, 7, 600).unwrap();
    m.copy(b + 4, a + 100, 8).unwrap();
    let mut got = [0; 8];
    m.read(b + 4, &mut got).unwrap();
    assert_eq!(got, [7; 8]);
    assert_eq!(kind(m.read(b, &mut [0; 12])), FaultKind::Uninitialised);
    m.copy(a, b, 8).unwrap();
    assert_eq!(kind(m.read(a, &mut [0; 5])), FaultKind::Uninitialised);
    m.read(a + 4, &mut [0; 4]).unwrap();
    assert_eq!(kind(m.write(a + 597, &[0; 4])), FaultKind::OutOfBounds);
    assert_eq!(kind(m.free(a + 4)), FaultKind::OutOfBounds);
    m.free(a).unwrap();
    assert_eq!(kind(m.free(a)), FaultKind::OutOfBounds);
    assert_eq!(kind(m.write(a, &[0])), FaultKind::OutOfBounds);
    assert_eq!((m.live(), m.allocations()), (400, 1));
    assert!(m.alloc(600).is_some_and(|c| c != a));
}

#[test]
fn launches_are_checked() {
    let m = Module::parse(&common::text("ret;").replace("n)\n{", "n)\n.maxntid 64\n{")).unwrap();
    let mut mem = Memory::new(1000);
    let mut go = |entry: &str, grid, block, shared, params: usize| {
        let l = Launch { entry, grid, block, shared, params: &vec![0; params] };
        run(&m, &l, &mut mem, &Options::default()).map(drop).map_err(|f| f.kind)
    };
    assert_eq!(go("k", [1; 3], [64, 1, 1], 0, 20), Ok(()));
    for bad in [
        go("other", [1; 3], [64, 1, 1], 0, 20),
        go("k", [1; 3], [65, 1, 1], 0, 20),
        go("k", [1; 3], [0, 1, 1], 0, 20),
        go("k", [0, 1, 1], [1; 3], 0, 20),
        go("k", [1, 65536, 1], [1; 3], 0, 20),
        go("k", [1; 3], [1; 3], 300_000, 20),
        go("k", [1; 3], [1; 3], 0, 16),
    ] {
        assert_eq!(bad, Err(FaultKind::Launch));
    }
}

#[test]
fn barriers() {
    let c = |block| Case { block, ..Case::default() };
    // Reverse 100 words through shared memory: the last warp has four lanes.
    let reverse = format!(
        "shl.b32 %r1, %t, 2; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2; st.shared.u32 [%r1], %t; bar.sync 0;
        sub.u32 %r3, 396, %r1; ld.shared.u32 %r0, [%r3]; {STORE}"
    );
    assert_eq!(c(100).ok(&reverse)[..100], (0..100).rev().collect::<Vec<_>>());
    let half = "setp.lt.u32 %p0, %t, 16; @%p0 bar.sync 0;";
    let f = c(64).fault(FaultKind::DivergentBarrier, half);
    assert!(f.detail.contains("0x0000ffff"), "{f}");
    // One warp skips: nobody comes.
    let f = c(64).fault(FaultKind::DivergentBarrier, "setp.lt.u32 %p0, %t, 32; @%p0 bar.sync 0;");
    assert!(f.detail.contains("barrier 0"), "{f}");
    c(64).fault(FaultKind::DivergentBarrier, "setp.lt.u32 %p0, %t, 32; @%p0 exit; bar.sync 0;");
    let f = c(96)
        .fault(FaultKind::Deadlock, "setp.lt.u32 %p0, %t, 32; @%p0 bar.sync 1, 64; @!%p0 bar.sync 2, 96;");
    assert!(
        f.detail.contains("warp 0 waits at barrier 1") && f.detail.contains("warp 2 waits at barrier 2"),
        "{f}"
    );
    c(64).fault(
        FaultKind::DivergentBarrier,
        "setp.lt.u32 %p0, %t, 32; @%p0 bar.sync 1, 32; @!%p0 bar.sync 1, 128;",
    );
    // Producer and consumer.
    c(64).ok("setp.lt.u32 %p0, %t, 32; @!%p0 bra CONSUME; st.shared.u32 [tile], 5; bar.arrive 3, 64; ret;
        CONSUME: bar.sync 3, 64; ld.shared.u32 %r0, [tile];"
        .replace("st.shared.u32 [tile], 5;", "setp.eq.u32 %p1, %t, 0; @%p1 st.shared.u32 [tile], 5;")
        .as_str());
}

#[test]
fn warp_wide_instructions_want_their_lanes() {
    let c = Case::default();
    let div = FaultKind::DivergentBarrier;
    c.fault(div, "setp.lt.u32 %p0, %t, 16; @%p0 shfl.sync.idx.b32 %r0, %t, 0, 31, 0xffffffff;");
    c.fault(div, "setp.lt.u32 %p0, %t, 16; @%p0 exit; shfl.sync.idx.b32 %r0, %t, 20, 31, 0xffffffff;");
    c.ok("setp.lt.u32 %p0, %t, 16; @%p0 exit; shfl.sync.idx.b32 %r0, %t, 20, 31, 0xffff0000;");
    c.fault(div, "setp.lt.u32 %p0, %t, 16; @%p0 bra A; bar.warp.sync 0xffffffff; A: ret;");
    c.fault(div, "setp.lt.u32 %p0, %t, 16; @%p0 bra.uni A; ret; A: ret;");
    let lm = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [tile];";
    c.fault(div, &format!("setp.lt.u32 %p0, %t, 16; @%p0 {lm}"));
    Case { block: 31, ..Case::default() }.fault(div, lm);
    // What comes from a lane that takes no part is nothing.
    c.ok("setp.ge.u32 %p0, %t, 16; @%p0 bra A; shfl.sync.down.b32 %r0, %t, 8, 31, 0xffff; A: ret;");
    c.fault(
        FaultKind::Uninitialised,
        "setp.ge.u32 %p0, %t, 16; @%p0 bra A; shfl.sync.down.b32 %r0, %t, 8, 31, 0xffff; add.u32 %r0, %r0, 1; A: ret;",
    );
}

#[test]
fn copies_land_at_the_wait() {
    let c = Case { block: 32, ..Case::default() };
    let copy = "shl.b32 %r1, %t, 4; mul.wide.u32 %d0, %t, 16; add.u64 %d0, %x, %d0; mov.u32 %r2, tile; add.u32 %r2, %r2, %r1;
        cp.async.cg.shared.global [%r2], [%d0], 16; cp.async.commit_group;";
    let y = c.ok(&format!("{copy} cp.async.wait_group 0; ld.shared.u32 %r0, [%r2+4]; {STORE}"));
    assert_eq!(y[..3], [1, 5, 9]);
    let pending = FaultKind::AsyncPending;
    c.fault(pending, &format!("{copy} ld.shared.u32 %r0, [%r2+4];"));
    c.fault(pending, &format!("{copy} st.shared.u32 [%r2+4], %t;"));
    c.fault(pending, &format!("{copy} cp.async.wait_group 1; ld.shared.u32 %r0, [%r2+4];"));
    c.fault(pending, &format!("{copy} {copy}"));
    // Not committed: only wait_all waits for it.
    let bare = copy.replace("cp.async.commit_group;", "");
    c.fault(pending, &format!("{bare} cp.async.wait_group 0; ld.shared.u32 %r0, [%r2+4];"));
    c.ok(&format!("{bare} cp.async.wait_all; ld.shared.u32 %r0, [%r2+4];"));
    // A neighbour's copy needs a barrier after its wait.
    let other = "xor.b32 %r3, %r2, 16;";
    c.fault(pending, &format!("{copy} cp.async.wait_all; {other} ld.shared.u32 %r0, [%r3];"));
    c.fault(pending, &format!("{copy} bar.sync 0; {other} ld.shared.u32 %r0, [%r3];"));
    c.ok(&format!("{copy} cp.async.wait_all; bar.sync 0; {other} ld.shared.u32 %r0, [%r3];"));
    // A short source is filled with zeros; size 0 reads nothing.
    let y = c.ok(&format!(
        "setp.lt.u32 %p0, %t, 8; selp.u32 %r5, 4, 0, %p0; add.u64 %d1, %x, 0; mul.wide.u32 %d0, %t, 1024; add.u64 %d0, %d0, %x;
        setp.eq.u32 %p1, %t, 0; shl.b32 %r1, %t, 4; mov.u32 %r2, tile; add.u32 %r2, %r2, %r1; selp.u32 %r5, 8, 0, %p1;
        cp.async.ca.shared.global [%r2], [%d0], 16, %r5; cp.async.wait_all;
        ld.shared.v4.u32 {{%r6, %r0, %r7, %r8}}, [%r2]; add.u32 %r0, %r0, %r7; {STORE}"
    ));
    assert_eq!(y[..4], [1, 0, 0, 0]);
}

#[test]
fn every_schedule_gives_the_same() {
    let body = format!(
        "shl.b32 %r1, %t, 2; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2; mov.u32 %r9, 0;
        AGAIN: st.shared.u32 [%r1], %t; bar.sync 0; xor.b32 %r3, %r1, 64; ld.shared.u32 %r0, [%r3]; bar.sync 0;
        add.u32 %r9, %r9, 1; setp.lt.u32 %p0, %r9, 5; @%p0 bra AGAIN;
        mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ntid.x; mad.lo.u32 %t, %r4, %r5, %t; {STORE}"
    );
    let go = |schedule| {
        let options = Options { schedule, ..Options::default() };
        Case { grid: 3, block: 64, options, ..Case::default() }.ok(&body)
    };
    let first = go(0);
    assert_eq!(first[64], 16);
    for seed in 1..6 {
        assert_eq!(go(seed), first);
    }
}

#[test]
fn special_registers() {
    let names = [
        "%ntid.x",
        "%ctaid.x",
        "%nctaid.x",
        "%laneid",
        "%warpid",
        "%lanemask_lt",
        "%lanemask_le",
        "%lanemask_eq",
        "%lanemask_ge",
        "%lanemask_gt",
        "%tid.y",
        "%ntid.z",
    ];
    let mut body = "setp.ne.u32 %p0, %t, 37; @%p0 exit;".to_string();
    for (i, n) in names.iter().enumerate() {
        body += &format!("mov.u32 %r0, {n}; st.global.u32 [%y+{}], %r0;", 4 * i);
    }
    let y = Case { block: 40, ..Case::default() }.ok(&body);
    assert_eq!(y[..12], [40, 0, 1, 5, 1, 31, 63, 32, !31, !63, 0, 1]);
}
