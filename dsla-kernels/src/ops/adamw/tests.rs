use super::*;
use crate::Tensor;

const OPTIONS: AdamW = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 1 };

fn run(options: &AdamW) -> Result<f32> {
    let one = |x: f32| Tensor::from_f32([1], vec![x]);
    let (mut p, g, mut m, mut v) = (one(1.0), one(-3.0), one(0.0), one(0.0));
    step(p.view_mut(), g.view(), m.view_mut(), v.view_mut(), options)?;
    Ok(p.f32()[0])
}

#[test]
fn the_first_step_is_the_learning_rate_against_the_sign() {
    assert!((run(&OPTIONS).unwrap() - 1.1).abs() < 1e-6);
    assert!((run(&AdamW { weight_decay: 0.5, ..OPTIONS }).unwrap() - 1.05).abs() < 1e-6);
}

#[test]
fn options_out_of_range_are_refused() {
    for (options, want) in [
        (AdamW { step: 0, ..OPTIONS }, "adamw: step: got 0, want 1 or more"),
        (AdamW { beta2: 1.0, ..OPTIONS }, "adamw: beta2: got 1, want in [0, 1)"),
    ] {
        assert_eq!(run(&options).unwrap_err().to_string(), want);
    }
}
