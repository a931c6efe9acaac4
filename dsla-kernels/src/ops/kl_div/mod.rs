//! Forward Kullback-Leibler divergence between two softmaxes, per row, in nats: the logit loss of distillation
//! (Hinton, Vinyals, Dean 2015, at temperature 1).

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;
#[cfg(test)]
mod tests;

use crate::{Device, Error, Result, View, ViewMut};

const OP: &str = "kl_div";

/// `kl[t] = KL(softmax(teacher[t]) || softmax(student[t]))` in nats, never negative.
/// teacher, student: [T, V] f32 logits; kl: [T] f32, written.
///
/// A token masked for the teacher (minus infinity) may be masked for the student too; masked for the student alone it
/// gives infinity. NaN gives NaN.
/// Errors: a shape or dtype that does not fit; no classes (V = 0).
pub fn forward(teacher: View, student: View, mut kl: ViewMut) -> Result<()> {
    let (t, v) = rows_of(&teacher, "teacher")?;
    if teacher.device() != Device::Cpu {
        return cuda::forward(teacher, student, &mut kl, [t, v]);
    }
    let ts = teacher.expect_f32(OP, "teacher", &[t, v])?;
    let ss = student.expect_f32(OP, "student", &[t, v])?;
    let kls = kl.expect_f32(OP, "kl", &[t])?;
    cpu::forward(ts, ss, kls, v);
    Ok(())
}

/// Gradient of [`forward`] with respect to the student: `dstudent = dkl * (softmax(student) - softmax(teacher))`.
/// dkl: [T] f32; dstudent: [T, V] f32, written.
///
/// Errors: as [`forward`].
pub fn backward(teacher: View, student: View, dkl: View, mut dstudent: ViewMut) -> Result<()> {
    let (t, v) = rows_of(&teacher, "teacher")?;
    if teacher.device() != Device::Cpu {
        return cuda::backward(teacher, student, dkl, &mut dstudent, [t, v]);
    }
    let ts = teacher.expect_f32(OP, "teacher", &[t, v])?;
    let ss = student.expect_f32(OP, "student", &[t, v])?;
    let dkls = dkl.expect_f32(OP, "dkl", &[t])?;
    let ds = dstudent.expect_f32(OP, "dstudent", &[t, v])?;
    cpu::backward(ts, ss, dkls, ds, v);
    Ok(())
}

/// Number of rows whose largest logit stands at the same index in both; the lowest index wins ties.
/// a, b: [T, V] f32.
///
/// Errors: as [`forward`].
pub fn agree(a: View, b: View) -> Result<usize> {
    let (t, v) = rows_of(&a, "a")?;
    if a.device() != Device::Cpu {
        return cuda::agree(a, b, [t, v]);
    }
    let (xs, ys) = (a.expect_f32(OP, "a", &[t, v])?, b.expect_f32(OP, "b", &[t, v])?);
    Ok(cpu::agree(xs, ys, v))
}

fn rows_of(x: &View, arg: &'static str) -> Result<(usize, usize)> {
    match x.dims(OP, arg)? {
        [_, 0] => Err(Error::Shape { op: OP, arg, got: x.shape(), want: "[T, V] with V at least 1".into() }),
        [t, v] => Ok((t, v)),
    }
}
