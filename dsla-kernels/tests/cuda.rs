//! Every op on `Device::Cuda` through cudarc, unmodified, over the fake driver, which executes the PTX: conformance by
//! the 2x rule under every numerics mode and several schedules, gradients against the CPU's, no leaks.
//!
//! `DSLA_OP=rms_norm cargo test -p dsla-kernels --test cuda` runs one op.

mod common;
use common::*;
use dsla_kernels::case::{Case, Precision, Rng};
use dsla_kernels::{DType, Device, Error, Tensor};
use ptxsim::Mma;
use ptxsim_cuda::{Fake, Options};

/// Ops that have no kernels yet.
const ABSENT: &[&str] = &[];

fn fake() -> Fake {
    Fake::install().expect("the fake driver is built beside this test")
}

fn wanted(op: &str) -> bool {
    std::env::var("DSLA_OP").map_or(true, |o| o.split(',').any(|o| o == op)) && !ABSENT.contains(&op)
}

fn upload(x: &[Tensor]) -> Vec<Tensor> {
    x.iter().map(|t| t.to_device(Device::Cuda(0)).expect("upload")).collect()
}

fn download(x: Vec<Tensor>) -> Result<Vec<Tensor>, Error> {
    x.into_iter().map(|t| t.to_device(Device::Cpu)).collect()
}

/// A typed refusal of a size that has no kernel: not a failure, but each op must run most of its cases.
fn refused(e: &Error) -> bool {
    matches!(e, Error::Argument { want, .. } if want.contains("on cuda"))
}

fn precision(case: &Case) -> Precision {
    let has = |d| case.inputs.iter().any(|i| i.tensor.dtype() == d);
    match (has(DType::BF16), has(DType::F16)) {
        (true, _) => Precision::Bf16,
        (_, true) => Precision::F16,
        _ => Precision::Same,
    }
}

fn say(fake: &Fake, op: &str, case: &Case, what: &str, e: impl std::fmt::Display) -> ! {
    panic!("{op} {}: {what}: {e}\nfaults: {:#?}", case.id, fake.take_faults())
}

fn conform(options: &Options) {
    let _lock = serial();
    let fake = fake();
    fake.set(options);
    for (op, cases) in dsla_kernels::ops::all() {
        if !wanted(op) {
            continue;
        }
        let (mut ran, mut left) = (0, vec![]);
        for case in cases.iter().filter(|c| !c.bench) {
            let got = (case.run)(&upload(&tensors(case))).and_then(download);
            match got {
                Ok(got) => {
                    let x = inputs_f64(case);
                    let truth = (case.spec)(Precision::F64, &x);
                    let same = (case.spec)(precision(case), &x);
                    compare(op, case, "cuda", &got, &truth, &same);
                    ran += 1;
                }
                Err(e) if refused(&e) => left.push(case.id.clone()),
                Err(e) => say(&fake, op, case, "forward", e),
            }
        }
        println!("{op}: {ran} cases ran, {} refused: {left:?}", left.len());
        assert!(ran > 0, "{op}: no case ran");
    }
    assert!(fake.take_faults().is_empty());
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
    let fake = fake();
    fake.set(&Options { perturb: Some(3), schedule: 3, ..Options::default() });
    for (op, cases) in dsla_kernels::ops::all() {
        for case in cases.iter().filter(|c| !c.bench && wanted(op)) {
            let Some(backward) = &case.backward else { continue };
            let x = tensors(case);
            let mut rng = Rng::new(7);
            let outs = (case.run)(&x).expect("the CPU runs every case");
            let douts: Vec<Tensor> = outs.iter().map(|t| rng.tensor(t.dims(), 1.0, DType::F32)).collect();
            let want = backward(&x, &douts).expect("the CPU runs every case");
            let got = match backward(&upload(&x), &upload(&douts)) {
                Ok(got) => got,
                Err(e) if refused(&e) => continue,
                Err(e) => say(&fake, op, case, "backward", e),
            };
            for ((got, want), input) in got.into_iter().zip(want).zip(&case.inputs) {
                let (Some(got), Some(want)) = (got, want) else { continue };
                let got = got.to_device(Device::Cpu).unwrap_or_else(|e| say(&fake, op, case, "download", e));
                let (got, want) = (as_f64(&got), as_f64(&want));
                let rms = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
                let error = rms(&mut got.iter().zip(&want).map(|(a, b)| a - b));
                let scale = rms(&mut want.iter().copied());
                // Half precision: operands of the tensor cores carry 8 bits, and errors add up over a row.
                let most = if precision(case) == Precision::Same { 2e-4 } else { 2e-2 };
                assert!(
                    error <= most * scale + 1e-6 && got.iter().all(|v| v.is_finite()),
                    "{op} {}: gradient of {}: error {error:e}, norm {scale:e}",
                    case.id,
                    input.name
                );
            }
        }
    }
}

#[test]
fn no_memory_is_left_behind() {
    let _lock = serial();
    let fake = fake();
    fake.set(&Options::default());
    let before = (fake.live_bytes(), fake.live_allocations());
    for (op, cases) in dsla_kernels::ops::all() {
        for case in cases.iter().filter(|c| !c.bench && wanted(op)).take(2) {
            let _ = (case.run)(&upload(&tensors(case)));
        }
    }
    Device::Cuda(0).synchronize().unwrap();
    assert_eq!((fake.live_bytes(), fake.live_allocations()), before);
}
