//! What the tests on `Device::Cuda` share: the fake driver (or, for `cargo xtask gpu-check`, a real one).
#![allow(dead_code)]

use super::{as_f64, inputs_f64, tensors, verdict};
use dsla_kernels::case::{Case, Precision, Rng};
use dsla_kernels::{DType, Device, Error, Tensor};
use ptxsim_cuda::{Fake, Options};
use std::cell::OnceCell;
use std::collections::BTreeSet;

/// The driver under test.
pub struct Driver(Option<Fake>);

impl Driver {
    /// The fake one, unless DSLA_REAL_GPU is set.
    pub fn install(options: &Options) -> Driver {
        if std::env::var_os("DSLA_REAL_GPU").is_some() {
            return Driver(None);
        }
        let fake = Fake::install().expect("the fake driver is built beside this test");
        fake.set(options);
        Driver(Some(fake))
    }

    /// Another way of running from here on.
    pub fn set(&self, options: &Options) {
        self.0.iter().for_each(|f| f.set(options));
    }

    /// What the simulator found wrong, one per line.
    pub fn faults(&self) -> String {
        self.0.iter().flat_map(|f| f.take_faults()).map(|f| format!("\n  {f}")).collect()
    }

    /// Bytes and allocations that are live; zero on a real driver.
    pub fn live(&self) -> (u64, u64) {
        self.0.as_ref().map_or((0, 0), |f| (f.live_bytes(), f.live_allocations()))
    }

    /// The kernels launched since the last call, where the options say to record them.
    pub fn launched(&self) -> BTreeSet<String> {
        self.0.iter().flat_map(|f| f.take_launches()).map(|l| l.kernel).collect()
    }

    /// A sticky error ends here: the next launch starts afresh.
    pub fn clear(&self) {
        if let Some(f) = &self.0 {
            f.clear_error();
            f.take_faults();
        }
    }
}

pub fn upload(x: &[Tensor]) -> Result<Vec<Tensor>, Error> {
    x.iter().map(|t| t.to_device(Device::Cuda(0))).collect()
}

pub fn download(x: Vec<Tensor>) -> Result<Vec<Tensor>, Error> {
    x.into_iter().map(|t| t.to_device(Device::Cpu)).collect()
}

/// A typed refusal of a size that has no kernel: not a failure, but each op must run most of its cases.
pub fn refused(e: &Error) -> bool {
    matches!(e, Error::Argument { want, .. } if want.contains("on cuda"))
}

pub fn precision(case: &Case) -> Precision {
    let has = |d| case.inputs.iter().any(|i| i.tensor.dtype() == d);
    match (has(DType::BF16), has(DType::F16)) {
        (true, _) => Precision::Bf16,
        (_, true) => Precision::F16,
        _ => Precision::Same,
    }
}

/// What became of a case.
pub enum Outcome {
    /// It ran and is right.
    Right,
    /// The size is refused.
    Refused,
    /// What is wrong.
    Wrong(String),
}

/// Gradients of the outputs, and the CPU's of the inputs.
type Gradients = (Vec<Tensor>, Vec<Option<Vec<f64>>>);

/// A case and what it must give, computed once: the specification takes longer than the kernels do on the simulator.
pub struct Checked<'a> {
    pub case: &'a Case,
    /// Outputs of the specification, in f64 and in the case's precision.
    outputs: OnceCell<[Vec<Vec<f64>>; 2]>,
    gradients: OnceCell<Gradients>,
}

impl<'a> Checked<'a> {
    pub fn new(case: &'a Case) -> Checked<'a> {
        Checked { case, outputs: OnceCell::new(), gradients: OnceCell::new() }
    }

    /// Launch what [`Checked::forward`] or [`Checked::backward`] would, and look at no result.
    pub fn touch(&self, backward: bool) -> Result<(), Error> {
        let x = upload(&tensors(self.case))?;
        match &self.case.backward {
            _ if !backward => (self.case.run)(&x).map(drop),
            None => Ok(()),
            Some(backward) => {
                let outs = (self.case.run)(&tensors(self.case))?;
                let douts: Vec<Tensor> = outs.iter().map(|t| Tensor::zeros(t.shape(), DType::F32)).collect();
                backward(&x, &upload(&douts)?).map(drop)
            }
        }
    }

    /// Forward by the 2x rule.
    pub fn forward(&self) -> Outcome {
        let case = self.case;
        match upload(&tensors(case)).and_then(|x| (case.run)(&x)).and_then(download) {
            Ok(got) => {
                let [truth, same] = self.outputs.get_or_init(|| {
                    let x = inputs_f64(case);
                    [Precision::F64, precision(case)].map(|p| (case.spec)(p, &x))
                });
                match verdict(&got, truth, same) {
                    Ok(()) => Outcome::Right,
                    Err(e) => Outcome::Wrong(e),
                }
            }
            Err(e) if refused(&e) => Outcome::Refused,
            Err(e) => Outcome::Wrong(e.to_string()),
        }
    }

    /// Gradients against the CPU's, which `gradient.rs` holds against finite differences. None: the op has no backward.
    pub fn backward(&self) -> Option<Outcome> {
        let case = self.case;
        let backward = case.backward.as_ref()?;
        let x = tensors(case);
        let (douts, want) = self.gradients.get_or_init(|| {
            let mut rng = Rng::new(7);
            let outs = (case.run)(&x).expect("the CPU runs every case");
            let douts: Vec<Tensor> = outs.iter().map(|t| rng.tensor(t.dims(), 1.0, DType::F32)).collect();
            let want = backward(&x, &douts).expect("the CPU runs every case");
            (douts, want.iter().map(|g| g.as_ref().map(as_f64)).collect())
        });
        let got = upload(&x).and_then(|x| backward(&x, &upload(douts)?)).and_then(|got| {
            got.into_iter()
                .map(|g| g.map(|g| g.to_device(Device::Cpu)).transpose())
                .collect::<Result<Vec<_>, _>>()
        });
        let got = match got {
            Ok(got) => got,
            Err(e) if refused(&e) => return Some(Outcome::Refused),
            Err(e) => return Some(Outcome::Wrong(e.to_string())),
        };
        for ((got, want), input) in got.into_iter().zip(want).zip(&case.inputs) {
            let (Some(got), Some(want)) = (got, want) else { continue };
            let got = as_f64(&got);
            let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
            let error = norm(&mut got.iter().zip(want).map(|(a, b)| a - b));
            let scale = norm(&mut want.iter().copied());
            // Half precision: operands of the tensor cores carry 8 bits, and errors add up over a row.
            let most = if precision(case) == Precision::Same { 2e-4 } else { 2e-2 };
            // NaN fails too.
            let fits = error <= most * scale + 1e-6;
            if !fits {
                let name = input.name;
                return Some(Outcome::Wrong(format!("gradient of {name}: error {error:e}, norm {scale:e}")));
            }
        }
        Some(Outcome::Right)
    }
}

/// [`Checked::forward`], once.
pub fn forward(case: &Case) -> Outcome {
    Checked::new(case).forward()
}

/// [`Checked::backward`], once.
pub fn backward(case: &Case) -> Option<Outcome> {
    Checked::new(case).backward()
}
