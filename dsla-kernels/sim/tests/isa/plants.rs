//! Kernels with one fault each, and their correct twins.

use ptxsim::FaultKind::{self, *};

/// A kernel with one part that is wrong and the same part set right. `@@` in the body stands for it; the fault must lie on a line that
/// the wrong part holds, or the one marked `// here`.
pub struct Plant<'a> {
    pub name: &'a str,
    pub kind: FaultKind,
    pub body: &'a str,
    pub bad: &'a str,
    pub good: &'a str,
    pub threads: u32,
    pub blocks: u32,
}

pub const ONE: Plant =
    Plant { name: "", kind: OutOfBounds, body: "@@", bad: "", good: "", threads: 32, blocks: 1 };

/// `%r3` is the address of this thread's word of a shared array `s` of 64 words.
pub const SHARED: &str =
    ".shared .align 16 .b8 s[256];\nmov.u32 %r1, s;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\n@@";

pub const PLANTS: &[Plant] = &[
    // Bounds.
    Plant {
        name: "store past the end",
        bad: "st.global.u32 [%mine+4], %t;",
        good: "st.global.u32 [%mine+0], %t;",
        ..ONE
    },
    Plant {
        name: "store before the start",
        bad: "st.global.u32 [%mine+-4], %t;",
        good: "st.global.u32 [%mine], %t;",
        ..ONE
    },
    Plant {
        name: "load past the end",
        bad: "ld.global.u32 %r1, [%in+128];",
        good: "ld.global.u32 %r1, [%in+124];",
        ..ONE
    },
    Plant {
        name: "load across the end",
        bad: "ld.global.v2.u32 {%r1, %r2}, [%in+128];",
        good: "ld.global.v2.u32 {%r1, %r2}, [%in+120];",
        ..ONE
    },
    Plant {
        name: "null pointer",
        bad: "mov.u64 %rd1, 0;\nld.global.u32 %r1, [%rd1]; // here",
        good: "mov.u64 %rd1, %in;\nld.global.u32 %r1, [%rd1];",
        ..ONE
    },
    Plant {
        name: "edge without its guard",
        bad: "st.global.u32 [%mine+64], %t;",
        good: "setp.lt.u32 %p1, %t, 16;\n@%p1 st.global.u32 [%mine+64], %t;",
        ..ONE
    },
    Plant {
        name: "atomic past the end",
        bad: "red.global.add.u32 [%out+128], 1;",
        good: "st.global.u32 [%mine], 0;\nred.global.add.u32 [%mine], 1;",
        ..ONE
    },
    Plant {
        name: "shared store past the end",
        body: SHARED,
        bad: "st.shared.u32 [%r3+132], %t;",
        good: "st.shared.u32 [%r3+128], %t;",
        ..ONE
    },
    Plant {
        name: "shared load past the end",
        body: SHARED,
        bad: "ld.shared.u32 %r4, [%r3+256];",
        good: "st.shared.u32 [%r3], %t;\nld.shared.u32 %r4, [%r3];",
        ..ONE
    },
    Plant {
        name: "shared address below",
        body: SHARED,
        bad: "st.shared.u32 [%r3+-4], %t;",
        good: "st.shared.u32 [%r3+4], %t;",
        ..ONE
    },
    Plant {
        name: "cp.async past the source",
        body: SHARED,
        bad: "cp.async.ca.shared.global [%r3], [%in+128], 4; // here\ncp.async.wait_all;",
        good: "cp.async.ca.shared.global [%r3], [%in+124], 4;\ncp.async.wait_all;",
        ..ONE
    },
    Plant {
        name: "ldmatrix row past the end",
        body: ".shared .align 16 .b8 s[128];\nmov.u32 %r1, s;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\nst.shared.u32 [%r3], %t;\nbar.sync 0;\n\
               and.b32 %r4, %t, 7;\nshl.b32 %r4, %r4, 4;\nadd.u32 %r4, %r4, %r1;\n@@",
        bad: "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r4+16];",
        good: "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r4];",
        ..ONE
    },
    // Alignment.
    Plant {
        name: "misaligned load",
        kind: Misaligned,
        bad: "ld.global.u32 %r1, [%in+2];",
        good: "ld.global.u16 %r1, [%in+2];",
        ..ONE
    },
    Plant {
        name: "misaligned vector",
        kind: Misaligned,
        bad: "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%in+8];",
        good: "ld.global.v2.u32 {%r1, %r2}, [%in+8];",
        ..ONE
    },
    Plant {
        name: "misaligned store",
        kind: Misaligned,
        bad: "st.global.u64 [%out+4], 1;",
        good: "st.global.u32 [%out+4], 1;",
        ..ONE
    },
    Plant {
        name: "misaligned shared",
        kind: Misaligned,
        body: SHARED,
        bad: "st.shared.u32 [%r3+1], %t;",
        good: "st.shared.u32 [%r3], %t;",
        ..ONE
    },
    Plant {
        name: "misaligned shared vector",
        kind: Misaligned,
        body: SHARED,
        bad: "st.shared.v2.u32 [s+4], {%t, %t};",
        good: "setp.eq.u32 %p1, %t, 0;\n@%p1 st.shared.v2.u32 [s+8], {%t, %t};",
        ..ONE
    },
    Plant {
        name: "misaligned cp.async",
        kind: Misaligned,
        body: SHARED,
        bad: "setp.eq.u32 %p1, %t, 0;\n@%p1 cp.async.cg.shared.global [s], [%in+4], 16; // here",
        good: "setp.eq.u32 %p1, %t, 0;\n@%p1 cp.async.cg.shared.global [s], [%in+16], 16;",
        ..ONE
    },
    Plant {
        name: "misaligned atomic",
        kind: Misaligned,
        bad: "red.global.add.u32 [%in+2], 1;",
        good: "red.global.add.u32 [%in+4], 1;",
        ..ONE
    },
    // Initialisation.
    Plant {
        name: "register",
        kind: Uninitialised,
        bad: "add.u32 %r1, %r2, 1;",
        good: "mov.u32 %r2, 5;\nadd.u32 %r1, %r2, 1;",
        ..ONE
    },
    Plant {
        name: "register in some lanes",
        kind: Uninitialised,
        bad: "setp.lt.u32 %p1, %t, 31;\n@%p1 mov.u32 %r2, 5;\nadd.u32 %r1, %r2, 1; // here",
        good: "setp.lt.u32 %p1, %t, 31;\n@%p1 mov.u32 %r2, 5;\n@%p1 add.u32 %r1, %r2, 1;",
        ..ONE
    },
    Plant {
        name: "predicate",
        kind: Uninitialised,
        bad: "@%p1 st.global.u32 [%mine], %t;",
        good: "setp.eq.u32 %p1, %t, %t;\n@%p1 st.global.u32 [%mine], %t;",
        ..ONE
    },
    Plant {
        name: "64-bit register",
        kind: Uninitialised,
        bad: "add.u64 %rd1, %rd2, 1;",
        good: "mov.u64 %rd2, 5;\nadd.u64 %rd1, %rd2, 1;",
        ..ONE
    },
    Plant {
        name: "stored register",
        kind: Uninitialised,
        bad: "st.global.f32 [%mine], %f1;",
        good: "mov.f32 %f1, 0f00000000;\nst.global.f32 [%mine], %f1;",
        ..ONE
    },
    Plant {
        name: "shared memory",
        kind: Uninitialised,
        body: SHARED,
        bad: "ld.shared.u32 %r4, [%r3];",
        good: "st.shared.u32 [%r3], %t;\nld.shared.u32 %r4, [%r3];",
        ..ONE
    },
    Plant {
        name: "shared memory in part",
        kind: Uninitialised,
        body: SHARED,
        bad: "st.shared.u16 [%r3], 1;\nld.shared.u32 %r4, [%r3]; // here",
        good: "st.shared.u16 [%r3], 1;\nst.shared.u16 [%r3+2], 1;\nld.shared.u32 %r4, [%r3];",
        ..ONE
    },
    Plant {
        name: "global memory",
        kind: Uninitialised,
        bad: "ld.global.u32 %r1, [%mine];",
        good: "st.global.u32 [%mine], 1;\nld.global.u32 %r1, [%mine];",
        ..ONE
    },
    Plant {
        name: "atomic on fresh memory",
        kind: Uninitialised,
        bad: "red.global.add.u32 [%mine], 1;",
        good: "st.global.u32 [%mine], 1;\nred.global.add.u32 [%mine], 1;",
        ..ONE
    },
    Plant {
        name: "mma operand",
        kind: Uninitialised,
        body: "mov.u32 %r1, 0;\nmov.f32 %f1, 0f00000000;\n@@",
        bad: "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f2, %f3, %f4, %f5}, {%r1, %r2}, {%r1}, {%f1, %f1, %f1, %f1};",
        good: "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f2, %f3, %f4, %f5}, {%r1, %r1}, {%r1}, {%f1, %f1, %f1, %f1};",
        ..ONE
    },
    // Races in shared memory.
    Plant {
        name: "two warps write one word",
        kind: SharedRace,
        body: SHARED,
        bad: "st.shared.u32 [s], %t;",
        good: "setp.eq.u32 %p1, %t, 0;\n@%p1 st.shared.u32 [s], %t;",
        threads: 64,
        ..ONE
    },
    Plant {
        name: "two lanes write one word",
        kind: SharedRace,
        body: SHARED,
        bad: "st.shared.u32 [s], %t;",
        good: "setp.eq.u32 %p1, %t, 0;\n@%p1 st.shared.u32 [s], %t;",
        ..ONE
    },
    Plant {
        name: "missing barrier",
        kind: SharedRace,
        body: "@here",
        bad: "",
        good: "bar.sync 0;",
        threads: 64,
        ..ONE
    },
    Plant {
        name: "missing barrier inside a warp",
        kind: SharedRace,
        body: "@here",
        bad: "",
        good: "bar.warp.sync -1;",
        ..ONE
    },
    Plant {
        name: "write after read",
        kind: SharedRace,
        body: ".shared .align 16 .b8 s[256];\nmov.u32 %r1, s;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\nst.shared.u32 [%r3], %t;\nbar.sync 0;\n\
               sub.u32 %r4, 252, %r2;\nadd.u32 %r4, %r4, %r1;\nld.shared.u32 %r5, [%r4]; // here\n@@\nst.shared.u32 [%r3], %r5; // here",
        bad: "",
        good: "bar.sync 0;",
        threads: 64,
        ..ONE
    },
    Plant {
        name: "atomics and a plain read",
        kind: SharedRace,
        body: ".shared .align 4 .u32 s;\nsetp.eq.u32 %p1, %t, 0;\n@%p1 st.shared.u32 [s], 0;\nbar.sync 0;\nred.shared.add.u32 [s], 1;\n@@\nld.shared.u32 %r1, [s]; // here",
        bad: "",
        good: "bar.sync 0;",
        threads: 64,
        ..ONE
    },
    // Races in global memory.
    Plant {
        name: "two blocks write one word",
        kind: GlobalRace,
        bad: "st.global.u32 [%mine], %t;",
        good: "mov.u32 %r1, %ctaid.x;\nmad.wide.u32 %rd1, %r1, 128, %mine;\nst.global.u32 [%rd1], %t;",
        blocks: 2,
        ..ONE
    },
    Plant {
        name: "one block reads another's word",
        kind: GlobalRace,
        body: "mov.u32 %r1, %ctaid.x;\nsetp.eq.u32 %p1, %r1, 0;\nmad.wide.u32 %rd1, %t, 4, %in;\n@%p1 st.global.u32 [%rd1], %t; // here\n@@",
        bad: "ld.global.u32 %r2, [%rd1]; // here",
        good: "@%p1 ld.global.u32 %r2, [%rd1];",
        blocks: 2,
        ..ONE
    },
    Plant {
        name: "a plain write beside atomics",
        kind: GlobalRace,
        body: "@@",
        bad: "st.global.u32 [%in], 1;",
        good: "red.global.add.u32 [%in], 1;",
        blocks: 2,
        ..ONE
    },
    // Barriers and warp-wide instructions.
    Plant {
        name: "barrier in half a warp",
        kind: DivergentBarrier,
        body: "setp.lt.u32 %p1, %t, 16;\n@@",
        bad: "@%p1 bar.sync 0;",
        good: "bar.sync 0;",
        ..ONE
    },
    Plant {
        name: "barrier in a branch",
        kind: DivergentBarrier,
        body: "setp.lt.u32 %p1, %t, 16;\n@!%p1 bra SKIP;\n@@\nSKIP:",
        bad: "bar.sync 0;",
        good: "bar.warp.sync 0xffff;",
        ..ONE
    },
    Plant {
        name: "barrier after an exit",
        kind: DivergentBarrier,
        body: "setp.lt.u32 %p1, %t, 32;\n@%p1 exit; // here\n@@",
        bad: "bar.sync 0; // here",
        good: "bar.sync 0, 32;",
        threads: 64,
        ..ONE
    },
    Plant {
        name: "barrier counts differ",
        kind: DivergentBarrier,
        body: "setp.lt.u32 %p1, %t, 32;\n@@",
        bad: "@%p1 bar.sync 1, 64; // here\n@!%p1 bar.sync 1, 96; // here",
        good: "@%p1 bar.sync 1, 64;\n@!%p1 bar.sync 1, 64;",
        threads: 64,
        ..ONE
    },
    Plant {
        name: "shfl names an absent lane",
        kind: DivergentBarrier,
        body: "setp.lt.u32 %p1, %t, 16;\n@@",
        bad: "@%p1 shfl.sync.bfly.b32 %r1, %t, 1, 31, -1;",
        good: "@%p1 shfl.sync.bfly.b32 %r1, %t, 1, 31, 0xffff;",
        ..ONE
    },
    Plant {
        name: "shfl without itself",
        kind: DivergentBarrier,
        bad: "shfl.sync.bfly.b32 %r1, %t, 1, 31, 0xffff;",
        good: "shfl.sync.bfly.b32 %r1, %t, 1, 31, -1;",
        ..ONE
    },
    Plant {
        name: "vote in half a warp",
        kind: DivergentBarrier,
        body: "setp.lt.u32 %p1, %t, 16;\n@@",
        bad: "@%p1 vote.sync.ballot.b32 %r1, %p1, -1;",
        good: "vote.sync.ballot.b32 %r1, %p1, -1;",
        ..ONE
    },
    Plant {
        name: "mma in half a warp",
        kind: DivergentBarrier,
        body: "mov.u32 %r1, 0;\nmov.f32 %f1, 0f00000000;\nsetp.lt.u32 %p1, %t, 16;\n@@",
        bad: "@%p1 mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f2, %f3, %f4, %f5}, {%r1, %r1}, {%r1}, {%f1, %f1, %f1, %f1};",
        good: "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f2, %f3, %f4, %f5}, {%r1, %r1}, {%r1}, {%f1, %f1, %f1, %f1};",
        ..ONE
    },
    Plant {
        name: "ldmatrix in half a warp",
        kind: DivergentBarrier,
        body: ".shared .align 16 .b8 s[256];\nmov.u32 %r1, s;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\nst.shared.u32 [%r3], %t;\nbar.sync 0;\nsetp.lt.u32 %p1, %t, 16;\n@@",
        bad: "@%p1 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [s];",
        good: "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [s];",
        ..ONE
    },
    Plant {
        name: "two barriers crossed",
        kind: Deadlock,
        body: "setp.lt.u32 %p1, %t, 32;\n@%p1 bra A;\nbar.sync 2; // here\nbra B;\nA:\n@@\nB:",
        bad: "bar.sync 1; // here",
        good: "bar.sync 2;",
        threads: 64,
        ..ONE
    },
    Plant {
        name: "too few for the barrier",
        kind: Deadlock,
        body: "setp.lt.u32 %p1, %t, 32;\n@@",
        bad: "@%p1 bar.sync 1, 64; // here",
        good: "bar.sync 1, 64;",
        threads: 64,
        ..ONE
    },
    // cp.async.
    Plant {
        name: "cp.async read before its wait",
        kind: AsyncPending,
        body: SHARED,
        bad: "cp.async.ca.shared.global [%r3], [%in], 4;\nld.shared.u32 %r4, [%r3]; // here",
        good: "cp.async.ca.shared.global [%r3], [%in], 4;\ncp.async.wait_all;\nld.shared.u32 %r4, [%r3];",
        ..ONE
    },
    Plant {
        name: "cp.async commit is no wait",
        kind: AsyncPending,
        body: SHARED,
        bad: "cp.async.ca.shared.global [%r3], [%in], 4;\ncp.async.commit_group;\nld.shared.u32 %r4, [%r3]; // here",
        good: "cp.async.ca.shared.global [%r3], [%in], 4;\ncp.async.commit_group;\ncp.async.wait_group 0;\nld.shared.u32 %r4, [%r3];",
        ..ONE
    },
    Plant {
        name: "one group too many left over",
        kind: AsyncPending,
        body: SHARED,
        bad: "cp.async.ca.shared.global [%r3], [%in], 4;\ncp.async.commit_group;\ncp.async.wait_group 1;\nld.shared.u32 %r4, [%r3]; // here",
        good: "cp.async.ca.shared.global [%r3], [%in], 4;\ncp.async.commit_group;\ncp.async.commit_group;\ncp.async.wait_group 1;\nld.shared.u32 %r4, [%r3];",
        ..ONE
    },
    Plant {
        name: "store under a cp.async",
        kind: AsyncPending,
        body: SHARED,
        bad: "cp.async.ca.shared.global [%r3], [%in], 4;\nst.shared.u32 [%r3], 1; // here\ncp.async.wait_all;",
        good: "cp.async.ca.shared.global [%r3], [%in], 4;\ncp.async.wait_all;\nst.shared.u32 [%r3], 1;",
        ..ONE
    },
    Plant {
        name: "cp.async waited for, no barrier",
        kind: AsyncPending,
        body: ".shared .align 16 .b8 s[256];\nmov.u32 %r1, s;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\nst.shared.u32 [%r3], 0;\nbar.sync 0;\ncp.async.ca.shared.global [%r3], [%in], 4; // here\ncp.async.wait_all; // here\n@@\nsub.u32 %r4, 252, %r2;\nadd.u32 %r4, %r4, %r1;\nld.shared.u32 %r5, [%r4]; // here",
        bad: "",
        good: "bar.sync 0;",
        threads: 64,
        ..ONE
    },
    // Ends.
    Plant {
        name: "endless loop",
        kind: Budget,
        bad: "L:\nadd.u32 %r1, %t, 1; // here\nbra L; // here",
        good: "add.u32 %r1, %t, 1;",
        ..ONE
    },
    Plant {
        name: "trap",
        kind: Trap,
        body: "setp.gt.u32 %p1, %t, 99;\n@@",
        bad: "@!%p1 trap;",
        good: "@%p1 trap;",
        ..ONE
    },
];

/// Each thread writes its word, then reads its mirror image's; the fault is at that read.
pub const MIRROR: &str = ".shared .align 16 .b8 s[256];\nmov.u32 %r1, s;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\nst.shared.u32 [%r3], 0;\nbar.sync 0;\nst.shared.u32 [%r3], %t; // here\n@@\n\
     mov.u32 %r6, %ntid.x;\nshl.b32 %r6, %r6, 2;\nsub.u32 %r6, %r6, 4;\nsub.u32 %r4, %r6, %r2;\nadd.u32 %r4, %r4, %r1;\nld.shared.u32 %r5, [%r4]; // here";
