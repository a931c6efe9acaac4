//! Every op on `Device::Cuda` through cudarc, unmodified, over the fake driver, which executes the PTX: conformance by
//! the 2x rule under every numerics mode and several schedules, gradients against the CPU's, no leaks.
//!
//! `DSLA_OP=rms_norm cargo test -p dsla-kernels --test cuda` runs one op.

mod common;
#[path = "common/cuda.rs"]
mod cuda;
use common::*;
use cuda::*;
use dsla_kernels::Device;
use ptxsim::Mma;
use ptxsim_cuda::Options;

fn wanted(op: &str) -> bool {
    std::env::var("DSLA_OP").map_or(true, |o| o.split(',').any(|o| o == op))
}

fn conform(options: &Options) {
    let _lock = serial();
    let driver = Driver::install(options);
    for (op, cases) in dsla_kernels::ops::all() {
        if !wanted(op) {
            continue;
        }
        let (mut ran, mut left) = (0, vec![]);
        for case in cases.iter().filter(|c| !c.bench) {
            match forward(case) {
                Outcome::Right => ran += 1,
                Outcome::Refused => left.push(case.id.clone()),
                Outcome::Wrong(e) => panic!("{op} {}: {e}{}", case.id, driver.faults()),
            }
        }
        println!("{op}: {ran} cases ran, {} refused: {left:?}", left.len());
        assert!(ran >= left.len(), "{op}: {ran} cases ran, {} were refused", left.len());
    }
    assert_eq!(driver.faults(), "");
}

#[test]
fn conformance_exact() {
    conform(&Options { mma: Mma::Exact, ..Options::default() });
}

#[test]
fn conformance_sequential_perturbed() {
    conform(&Options { mma: Mma::Sequential, perturb: Some(1), schedule: 1, ..Options::default() });
}

#[test]
fn conformance_truncating_perturbed_reordered() {
    conform(&Options { mma: Mma::Truncate, perturb: Some(2), schedule: 2, reorder: 1, ..Options::default() });
}

#[test]
fn gradients_are_those_of_the_cpu() {
    let _lock = serial();
    let driver = Driver::install(&Options { perturb: Some(3), schedule: 3, ..Options::default() });
    for (op, cases) in dsla_kernels::ops::all() {
        for case in cases.iter().filter(|c| !c.bench && wanted(op)) {
            if let Some(Outcome::Wrong(e)) = backward(case) {
                panic!("{op} {}: {e}{}", case.id, driver.faults());
            }
        }
    }
}

#[test]
fn no_memory_is_left_behind() {
    let _lock = serial();
    let driver = Driver::install(&Options::default());
    let before = driver.live();
    for (op, cases) in dsla_kernels::ops::all() {
        for case in cases.iter().filter(|c| !c.bench && wanted(op)).take(2) {
            forward(case);
            backward(case);
        }
    }
    Device::Cuda(0).synchronize().unwrap();
    assert_eq!(driver.live(), before);
}
