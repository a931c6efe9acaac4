//! Launches of the PTX kernels.

use super::OP;
use crate::cuda::tiles::{axis, rows, vector};
use crate::cuda::{Source, launch};
use crate::{DType::F32, DType::U32, Device, Result, Slice, Tensor, View, ViewMut};

static KL_DIV: Source = Source::new("kl_div", rows!("kl_div.ptx"), &[("V", &["1", "4"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&KL_DIV];

pub fn forward(teacher: View, student: View, kl: &mut ViewMut, [t, v]: [usize; 2]) -> Result<()> {
    let n = vector(v, &[teacher, student], &[]);
    let align = 4 * n as u64;
    launch(OP, teacher.device(), &KL_DIV, &[axis(n)], "kl_div_fwd")?
        .input_aligned("teacher", teacher, F32, &[t, v], align)
        .input_aligned("student", student, F32, &[t, v], align)
        .output_aligned("kl", kl, F32, &[t], 4)
        .u32("units", v / n)
        .run(t, 256, 0)
}

pub fn backward(teacher: View, student: View, dkl: View, ds: &mut ViewMut, [t, v]: [usize; 2]) -> Result<()> {
    let n = vector(v, &[teacher, student], &[ds]);
    let align = 4 * n as u64;
    launch(OP, teacher.device(), &KL_DIV, &[axis(n)], "kl_div_bwd")?
        .input_aligned("teacher", teacher, F32, &[t, v], align)
        .input_aligned("student", student, F32, &[t, v], align)
        .input_aligned("dkl", dkl, F32, &[t], 4)
        .output_aligned("dstudent", ds, F32, &[t, v], align)
        .u32("units", v / n)
        .run(t, 256, 0)
}

pub fn agree(a: View, b: View, [t, v]: [usize; 2]) -> Result<usize> {
    let n = vector(v, &[a, b], &[]);
    let align = 4 * n as u64;
    let mut count = Tensor::zeros_on(a.device(), [1], U32)?;
    launch(OP, a.device(), &KL_DIV, &[axis(n)], "kl_div_agree")?
        .input_aligned("a", a, F32, &[t, v], align)
        .input_aligned("b", b, F32, &[t, v], align)
        .output("count", &mut count.view_mut(), U32, &[1])
        .u32("units", v / n)
        .run(t, 256, 0)?;
    match count.to_device(Device::Cpu)?.view().slice() {
        Slice::U32(&[n]) => Ok(n as usize),
        _ => unreachable!("one u32"),
    }
}
