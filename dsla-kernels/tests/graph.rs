//! A captured sequence of launches, replayed, is the sequence itself: also when what it reads has changed, and under any
//! order of streams.

mod common;
#[path = "common/cuda.rs"]
mod cuda;
use common::*;
use cuda::*;
use dsla_kernels::case::Rng;
use dsla_kernels::cuda::Graph;
use dsla_kernels::ops::linear::{self, Packed};
use dsla_kernels::ops::{axpby, rms_norm, swiglu};
use dsla_kernels::{DType, Device, Error, Result, Tensor};
use ptxsim_cuda::Options;

const GPU: Device = Device::Cuda(0);

/// The MLP of a layer, one row: norm, gate and up, activation, down, residual; temporaries allocated on the way.
struct Mlp {
    norm: Tensor,
    up: Packed,
    down: Packed,
}

impl Mlp {
    fn new(rng: &mut Rng, dtype: DType) -> Mlp {
        let mut packed = |n: usize, k: usize| {
            let w = rng.tensor(&[n, k], 0.1, dtype).to_device(GPU).unwrap();
            Packed::new(w.view()).unwrap()
        };
        let (up, down) = (packed(192, 64), packed(64, 96));
        Mlp { norm: rng.tensor(&[64], 1.0, DType::F32).to_device(GPU).unwrap(), up, down }
    }

    fn step(&self, x: &mut Tensor) -> Result<()> {
        let mut h = Tensor::empty_on(GPU, [1, 64], DType::F32)?;
        rms_norm::forward(x.view(), self.norm.view(), 1e-5, h.view_mut())?;
        let mut gate_up = Tensor::empty_on(GPU, [1, 192], DType::F32)?;
        linear::forward(h.view(), &self.up, None, linear::Into::Store, gate_up.view_mut())?;
        let mut act = Tensor::empty_on(GPU, [1, 96], DType::F32)?;
        swiglu::forward(gate_up.view(), act.view_mut())?;
        linear::forward(act.view(), &self.down, None, linear::Into::Add, x.view_mut())?;
        axpby::scale(0.5, x.view_mut())
    }
}

#[test]
fn a_replay_is_the_sequence_itself() {
    let _lock = serial();
    for reorder in [0, 1, 2] {
        let driver = Driver::install(&Options { reorder, ..Options::default() });
        for dtype in [DType::F32, DType::BF16] {
            let mut rng = Rng::new(3);
            let mlp = Mlp::new(&mut rng, dtype);
            let start = rng.tensor(&[1, 64], 1.0, DType::F32).to_device(GPU).unwrap();
            let mut eager = start.try_clone().unwrap();
            for _ in 0..4 {
                mlp.step(&mut eager).unwrap();
            }
            let mut x = start.try_clone().unwrap();
            let before = bits(&x);
            let graph = Graph::capture(GPU, 1 << 16, || mlp.step(&mut x)).unwrap();
            assert_eq!(bits(&x), before, "a capture runs nothing");
            for _ in 0..4 {
                graph.launch().unwrap();
            }
            assert_eq!(bits(&x), bits(&eager), "{dtype}{}", driver.faults());
        }
    }
}

#[test]
fn what_cannot_be_captured_is_an_error_and_the_device_goes_on() {
    let _lock = serial();
    let driver = Driver::install(&Options::default());
    let mlp = Mlp::new(&mut Rng::new(3), DType::F32);
    let mut x = Tensor::zeros_on(GPU, [1, 64], DType::F32).unwrap();
    mlp.step(&mut x).unwrap();
    let error = Graph::capture(GPU, 256, || mlp.step(&mut x)).err().expect("the workspace is too small");
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    assert!(matches!(Graph::capture(Device::Cpu, 0, || Ok(())), Err(Error::Argument { arg: "device", .. })));
    mlp.step(&mut x).unwrap();
    GPU.synchronize().unwrap();
    driver.clear();
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_device(Device::Cpu).unwrap().f32().iter().map(|v| v.to_bits()).collect()
}
