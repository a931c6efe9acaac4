//! Races in shared memory between threads, in global memory between CTAs.

mod common;
use common::{Case, STORE};
use ptxsim::{FaultKind, Options};

/// %r1: this thread's word of the tile.
const MINE: &str = "shl.b32 %r1, %t, 2; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2;";
const RACE: FaultKind = FaultKind::SharedRace;

fn case(block: u32) -> Case {
    Case { block, ..Case::default() }
}

#[test]
fn a_barrier_orders_warps() {
    let body = |between: &str| {
        format!("{MINE} st.shared.u32 [%r1], %t; {between} xor.b32 %r3, %r1, 128; ld.shared.u32 %r0, [%r3];")
    };
    case(64).ok(&body("bar.sync 0;"));
    case(64).ok(&body("bar.sync 1, 64;"));
    for schedule in 0..4 {
        let options = Options { schedule, ..Options::default() };
        // In some orders the read comes first, which is no less wrong.
        let f = Case { block: 64, options, ..Case::default() }.run(&body("")).unwrap_err();
        assert!(matches!(f.kind, FaultKind::SharedRace | FaultKind::Uninitialised), "{f}");
    }
    // A barrier of one warp with itself orders nothing between two.
    case(64).fault(
        RACE,
        &body(
            "setp.lt.u32 %p0, %t, 32; @%p0 bar.sync 1, 32; @!%p0 bar.sync 2, 32; bar.warp.sync 0xffffffff;",
        ),
    );
    let options = Options { races: false, ..Options::default() };
    Case { block: 64, options, ..Case::default() }
        .ok(&body("mov.u32 %r5, 0;").replace("xor.b32 %r3, %r1, 128", "mov.u32 %r3, %r1"));
}

#[test]
fn write_after_read() {
    let body = |between: &str| {
        format!(
            "{MINE} st.shared.u32 [%r1], %t; bar.sync 0; xor.b32 %r3, %r1, 128; ld.shared.u32 %r0, [%r3]; {between}
            st.shared.u32 [%r1], %r0;"
        )
    };
    case(64).ok(&body("bar.sync 0;"));
    case(64).fault(RACE, &body(""));
    // Many read one word, one of them writes it later: others' reads of the past do not count.
    case(96).ok(&format!(
        "{MINE} st.shared.u32 [%r1], %t; bar.sync 0; ld.shared.u32 %r0, [tile]; bar.sync 0;
        setp.eq.u32 %p0, %t, 0; @%p0 ld.shared.u32 %r4, [tile]; @%p0 st.shared.u32 [tile], 9;"
    ));
}

#[test]
fn within_a_warp_too() {
    let body = |between: &str| {
        format!("{MINE} st.shared.u32 [%r1], %t; {between} xor.b32 %r3, %r1, 4; ld.shared.u32 %r0, [%r3];")
    };
    case(32).fault(RACE, &body(""));
    case(32).ok(&body("bar.warp.sync 0xffffffff;"));
    case(32).ok(&body("shfl.sync.idx.b32 %r5, %t, 0, 31, 0xffffffff;"));
    case(32).fault(RACE, "st.shared.u32 [tile], %t;");
    case(32).ok(&format!("{MINE} st.shared.u32 [%r1], %t; ld.shared.u32 %r0, [%r1];"));
    // Neighbouring halves of a word are no conflict.
    case(32).ok("shl.b32 %r1, %t, 1; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2; st.shared.u16 [%r1], %t;
        ld.shared.u16 %r0, [%r1];");
}

#[test]
fn a_pipeline_with_named_barriers() {
    // Warp 0 fills a slot, warps 1 and 2 read it at different times, and hand it back.
    let body = "setp.ge.u32 %p0, %t, 32; mov.u32 %r9, 0; and.b32 %r6, %t, 31; shl.b32 %r1, %r6, 2; mov.u32 %r2, tile;
        add.u32 %r1, %r1, %r2; @%p0 bra READ;
        WRITE: st.shared.u32 [%r1], %r9; bar.arrive 1, 96; bar.sync 2, 96; add.u32 %r9, %r9, 1;
        setp.lt.u32 %p1, %r9, 4; @%p1 bra WRITE; ret;
        READ: bar.sync 1, 96; xor.b32 %r3, %r1, 4; ld.shared.u32 %r0, [%r3]; bar.arrive 2, 96; add.u32 %r9, %r9, 1;
        setp.lt.u32 %p1, %r9, 4; @%p1 bra READ; ret;";
    for schedule in 0..8 {
        let options = Options { schedule, ..Options::default() };
        Case { block: 96, options, ..Case::default() }.ok(body);
    }
    // The writer runs ahead; the readers hand back too early.
    case(96).fault(FaultKind::DivergentBarrier, &body.replace("bar.sync 2, 96;", ""));
    let early = body.replace(
        "ld.shared.u32 %r0, [%r3]; bar.arrive 2, 96;",
        "bar.arrive 2, 96; bar.warp.sync 0xffffffff; ld.shared.u32 %r0, [%r3];",
    );
    assert_ne!(early, body);
    case(96).fault(RACE, &early);
}

#[test]
fn atomics_are_exempt() {
    let y = case(64).ok(
        "setp.eq.u32 %p0, %t, 0; @%p0 st.shared.u32 [tile], 0; bar.sync 0; red.shared.add.u32 [tile], 1;
        atom.shared.add.u32 %r0, [tile], 1; bar.sync 0; ld.shared.u32 %r0, [tile]; @%p0 st.global.u32 [%y], %r0;",
    );
    assert_eq!(y[0], 128);
    case(64).fault(
        RACE,
        "setp.eq.u32 %p0, %t, 0; @%p0 st.shared.u32 [tile], 0; bar.sync 0; red.shared.add.u32 [tile], 1;
        ld.shared.u32 %r0, [tile];",
    );
}

#[test]
fn ctas_may_not_meet() {
    let two = Case { grid: 2, ..Case::default() };
    two.fault(FaultKind::GlobalRace, "mov.u32 %r0, 1; setp.eq.u32 %p0, %t, 0; @%p0 st.global.u32 [%y], %r0;");
    two.fault(
        FaultKind::GlobalRace,
        "mov.u32 %r0, %ctaid.x; setp.eq.u32 %p0, %r0, 0; @%p0 ld.global.u32 %r1, [%x]; @!%p0 st.global.u32 [%x], 1;",
    );
    two.ok("red.global.add.u32 [%x], 1; ld.global.u32 %r0, [%x+4];");
    two.fault(FaultKind::GlobalRace, "red.global.add.u32 [%x], 1; ld.global.u32 %r0, [%x];");
    // Each its own half of a word.
    two.ok("mov.u32 %r0, %ctaid.x; mul.wide.u32 %d0, %r0, 2; add.u64 %d0, %d0, %y; setp.eq.u32 %p0, %t, 0;
        @%p0 st.global.u16 [%d0], %r0;");
}

#[test]
fn the_last_block_sums_up() {
    // Partial results at y[1 + cta], a ticket at x[0]; the last block adds.
    let body = |fence: &str| {
        format!(
            "setp.ne.u32 %p0, %t, 0; @%p0 exit; mov.u32 %r1, %ctaid.x; mul.wide.u32 %d0, %r1, 4; add.u64 %d0, %d0, %y;
            st.global.u32 [%d0+4], 5; {fence} atom.global.add.u32 %r2, [%x], 1; setp.ne.u32 %p1, %r2, 3; @%p1 exit;
            mov.u32 %r0, 0; mov.u32 %r3, 0; mov.u64 %d1, %y;
            SUM: ld.global.u32 %r4, [%d1+4]; add.u32 %r0, %r0, %r4; add.u64 %d1, %d1, 4; add.u32 %r3, %r3, 1;
            setp.lt.u32 %p2, %r3, 4; @%p2 bra SUM; st.global.u32 [%y], %r0;"
        )
    };
    let go = |schedule, fence: &str| {
        let options = Options { schedule, ..Options::default() };
        Case { grid: 4, options, ..Case::default() }.run(&body(fence))
    };
    for seed in 0..4 {
        assert_eq!(go(seed, "membar.gl;").unwrap().0[0], 20);
        assert_eq!(go(seed, "").unwrap_err().kind, FaultKind::GlobalRace);
        assert_eq!(go(seed, "membar.cta;").unwrap_err().kind, FaultKind::GlobalRace);
    }
    let release = body("").replace("atom.global", "atom.acq_rel.gpu.global");
    let four = Case { grid: 4, ..Case::default() };
    assert_eq!(four.ok(&release)[0], 20);
    // A fence before the partial result covers nothing.
    let early = body("").replace("st.global.u32 [%d0+4], 5;", "membar.gl; st.global.u32 [%d0+4], 5;");
    four.fault(FaultKind::GlobalRace, &early);
    let _ = STORE;
}
