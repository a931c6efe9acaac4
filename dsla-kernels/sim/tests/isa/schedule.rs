//! Orders of warps and blocks.

use crate::common::{Lab, options};
use ptxsim::{FaultKind, Options};

const SEEDS: std::ops::Range<u64> = 0..6;

fn at(schedule: u64, races: bool) -> Options {
    Options { schedule, races, ..options() }
}

/// A tree in shared memory over 128 threads, per block.
const TREE: &str = ".shared .align 4 .b8 s[512];\nmov.u32 %r1, s;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\nmov.u32 %r9, %ctaid.x;\n\
     mad.lo.u32 %r4, %r9, 1000, %t;\nst.shared.u32 [%r3], %r4;\nmov.u32 %r5, 64;\nLOOP:\nbar.sync 0;\nsetp.lt.u32 %p1, %t, %r5;\n\
     shl.b32 %r6, %r5, 2;\nadd.u32 %r7, %r3, %r6;\n@%p1 ld.shared.u32 %r8, [%r7];\n@%p1 ld.shared.u32 %r4, [%r3];\n@%p1 add.u32 %r4, %r4, %r8;\n\
     @%p1 st.shared.u32 [%r3], %r4;\nshr.u32 %r5, %r5, 1;\nsetp.ne.u32 %p2, %r5, 0;\n@%p2 bra LOOP;\nsetp.eq.u32 %p3, %t, 0;\n\
     mad.wide.u32 %rd1, %r9, 4, %out;\n@%p3 st.global.u32 [%rd1], %r4;";

#[test]
fn a_race_free_kernel_has_one_result() {
    let lab = || Lab { grid: 8, ..Lab::new(TREE).threads(128).output(8) };
    let want: Vec<u32> = (0..8).map(|b| 128 * 1000 * b + 127 * 64).collect();
    for seed in SEEDS {
        assert_eq!(lab().options(at(seed, true)).run(), want, "schedule {seed}");
    }
}

#[test]
fn a_racy_kernel_is_reported_in_every_order() {
    let racy = TREE.replace("bar.sync 0;", "");
    for seed in SEEDS {
        let e = Lab::new(&racy).threads(128).output(1).options(at(seed, true)).fault();
        assert!(matches!(e.kind, FaultKind::SharedRace | FaultKind::Uninitialised), "{e}");
    }
}

/// Blocks write one word, the last one wins.
#[test]
fn orders_of_blocks_differ_by_seed_and_are_repeatable() {
    let body = "mov.u32 %r1, %ctaid.x;\nst.global.u32 [%mine], %r1;";
    let lab = || Lab { grid: 16, ..Lab::new(body) };
    let last = |seed| lab().options(at(seed, false)).run()[0];
    assert_eq!(last(0), 15, "in order");
    assert!((1..9).any(|s| last(s) != 15), "no seed changes the order of blocks");
    for seed in SEEDS {
        assert_eq!(last(seed), last(seed));
        assert_eq!(lab().options(at(seed, true)).fault().kind, FaultKind::GlobalRace);
    }
}

/// Tickets by an atomic: each is drawn once in any order of warps; the order differs.
#[test]
fn orders_of_warps_differ_by_seed() {
    let body = ".shared .u32 s;\nsetp.eq.u32 %p1, %t, 0;\n@%p1 st.shared.u32 [s], 0;\nbar.sync 0;\natom.shared.add.u32 %r1, [s], 1;\nst.global.u32 [%mine], %r1;";
    let tickets = |seed| Lab::new(body).threads(256).options(at(seed, true)).run();
    let mut seen = std::collections::HashSet::new();
    for seed in SEEDS {
        let t = tickets(seed);
        let mut sorted = t.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..256).collect::<Vec<_>>());
        assert_eq!(t, tickets(seed), "schedule {seed} again");
        seen.insert(t);
    }
    assert!(seen.len() > 1, "all schedules are the same");
}

/// The last block to finish adds up what the others left, ordered by a fence and an atomic.
#[test]
fn a_fence_and_a_ticket_order_blocks() {
    let part = |fence: &str| {
        format!(
            "mov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %nctaid.x;\nmad.wide.u32 %rd1, %r1, 4, %out;\nadd.u32 %r3, %r1, 1;\nst.global.u32 [%rd1+4], %r3;\n{fence}\n\
             atom.global.add.u32 %r4, [%in], 1;\nsub.u32 %r5, %r2, 1;\nsetp.ne.u32 %p1, %r4, %r5;\n@%p1 ret;\n{fence}\nmov.u32 %r6, 0;\nmov.u32 %r7, 0;\nL:\n\
             mad.wide.u32 %rd2, %r7, 4, %out;\nld.global.u32 %r8, [%rd2+4];\nadd.u32 %r6, %r6, %r8;\nadd.u32 %r7, %r7, 1;\nsetp.lt.u32 %p2, %r7, %r2;\n\
             @%p2 bra L;\nst.global.u32 [%out], %r6;"
        )
    };
    let (fenced, body) = (part("membar.gl;"), part(""));
    for seed in SEEDS {
        let lab =
            Lab { grid: 10, ..Lab::new(&fenced).threads(1).input(&[0]).output(11).options(at(seed, true)) };
        assert_eq!(lab.run()[0], 55, "schedule {seed}");
        let lab =
            Lab { grid: 10, ..Lab::new(&body).threads(1).input(&[0]).output(11).options(at(seed, true)) };
        assert_eq!(lab.fault().kind, FaultKind::GlobalRace, "without the fence, schedule {seed}");
    }
}
