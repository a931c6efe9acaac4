//! What an op on `Device::Cuda` refuses, it refuses with a typed error before anything is launched: an input on another
//! device, of another dtype, of another shape, at an address that the kernel's accesses do not allow.

mod common;
#[path = "common/cuda.rs"]
mod cuda;
use common::*;
use cuda::*;
use dsla_kernels::case::Case;
use dsla_kernels::ops::axpby;
use dsla_kernels::{DType, Device, Error, Tensor, ops};
use ptxsim_cuda::{Fake, Options};

const GPU: Device = Device::Cuda(0);

/// Ops look these up on the host too, check them there and take them along.
const INDICES: [&str; 4] = ["ids", "positions", "rows", "targets"];

fn fake() -> Fake {
    let fake = Fake::install().expect("the fake driver is built beside this test");
    fake.set(&Options::default());
    fake
}

/// Run the case with input `i` replaced; the error, if any, and the launches there were.
fn with(fake: &Fake, case: &Case, i: usize, bad: Tensor) -> (Result<Vec<Tensor>, Error>, u64) {
    let mut x = upload(&tensors(case)).expect("upload");
    x[i] = bad;
    GPU.synchronize().expect("a device");
    let before = fake.launches();
    let result = (case.run)(&x);
    GPU.synchronize().expect("a device");
    (result, fake.launches() - before)
}

#[test]
fn an_input_on_another_device_or_of_another_dtype_or_shape() {
    let _lock = serial();
    let fake = fake();
    let (mut tried, mut wrong) = (0, vec![]);
    for (op, cases) in ops::all() {
        // A case that the device runs.
        let case = cases.iter().filter(|c| !c.bench).find(|c| matches!(forward(c), Outcome::Right));
        let case = case.unwrap_or_else(|| panic!("{op}: no case runs"));
        for (i, input) in case.inputs.iter().enumerate().filter(|(_, i)| !i.tensor.is_empty()) {
            let t = &input.tensor;
            let other = if t.dtype() == DType::U32 { DType::F32 } else { DType::U32 };
            let mut dims = t.dims().to_vec();
            *dims.last_mut().expect("a dimension") += 1;
            let on_gpu = |dims: &[usize], dtype| Tensor::zeros_on(GPU, dims, dtype).expect("memory");
            // Of `y` a case that overwrites it takes the size alone; a case of one input may as well run on the host.
            let optional = INDICES.contains(&input.name) || input.name == "y" || unread(&fake, case, i);
            let alone = case.inputs.len() == 1;
            // The cases of `linear` pack their weight first.
            let prelude = u64::from(op == "linear");
            for (what, bad) in [
                ("on the host", t.clone()),
                ("dtype", on_gpu(t.dims(), other)),
                ("shape", on_gpu(&dims, t.dtype())),
            ] {
                let (result, launches) = with(&fake, case, i, bad);
                let fits = match (&result, what) {
                    // A case may take its sizes from this input.
                    (Ok(_), "shape") => true,
                    (Ok(_), "on the host") if alone => true,
                    (Ok(_), _) => optional,
                    (Err(Error::Device { .. }), "on the host") | (Err(Error::DType { .. }), "dtype") => {
                        launches <= prelude
                    }
                    (Err(Error::Shape { .. } | Error::Argument { .. } | Error::DType { .. }), "shape") => {
                        launches <= prelude
                    }
                    _ => false,
                };
                if !fits {
                    let got = result.map_or_else(|e| e.to_string(), |_| "accepted".into());
                    wrong.push(format!(
                        "{op} {}: {} {what}: {got}, after {launches} launches",
                        case.id, input.name
                    ));
                }
                tried += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 50, "{tried} inputs tried");
    assert!(fake.take_faults().is_empty());
}

/// Whether the case ignores input `i`: nothing in its place changes nothing. (A case may slice its inputs, and panics
/// then.)
fn unread(fake: &Fake, case: &Case, i: usize) -> bool {
    let empty = Tensor::zeros_on(GPU, [0], DType::F32).expect("nothing");
    let run = || with(fake, case, i, empty).0.is_ok();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(false)
}

#[test]
fn a_misaligned_view() {
    let _lock = serial();
    let fake = fake();
    let x = Tensor::zeros_on(GPU, [3, 5], DType::F32).expect("memory");
    let mut y = Tensor::zeros_on(GPU, [1, 5], DType::F32).expect("memory");
    let before = fake.launches();
    let error = axpby::forward(1.0, x.rows(1, 2), 0.0, y.view_mut()).unwrap_err();
    assert!(matches!(error, Error::Misaligned { op: "axpby", arg: "x", want: 16, .. }), "{error}");
    assert_eq!(fake.launches(), before);
    let line = error.to_string();
    assert!(
        line.starts_with("axpby: x: got address 0x") && line.ends_with("want a multiple of 16"),
        "{line}"
    );
}

#[test]
fn no_memory_left_is_an_error() {
    let _lock = serial();
    let fake = fake();
    let error = Tensor::zeros_on(GPU, [1 << 20, 1 << 14], DType::F32).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { want: 0x10_0000_0000, .. }), "{error}");
    assert!(Tensor::zeros_on(GPU, [4], DType::F32).is_ok());
    fake.clear_error();
}

#[test]
fn more_blocks_than_a_short_grid_dimension_holds() {
    let _lock = serial();
    let _fake = fake();
    // 70,000 rows: one block each, beyond 65,535.
    let (rows, c) = (70_000, 2);
    let x = Tensor::from_f32([rows, c], (0..rows * c).map(|i| (i % 7) as f32).collect())
        .to_device(GPU)
        .expect("memory");
    let w = Tensor::from_f32([c], vec![1.0, 2.0]).to_device(GPU).expect("memory");
    let mut y = Tensor::empty_on(GPU, [rows, c], DType::F32).expect("memory");
    ops::rms_norm::forward(x.view(), w.view(), 1e-5, y.view_mut()).expect("a launch");
    let y = y.to_device(Device::Cpu).expect("a copy");
    let (x, y) = (x.to_device(Device::Cpu).expect("a copy"), y.f32());
    let at = 2 * (rows - 1);
    let inv = 1.0 / ((x.f32()[at].powi(2) + x.f32()[at + 1].powi(2)) / 2.0 + 1e-5).sqrt();
    assert!((y[at + 1] - x.f32()[at + 1] * inv * 2.0).abs() < 1e-5);
}
