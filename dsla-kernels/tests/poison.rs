//! Fresh memory is NaN: an op that reads what it did not write shows it.

mod common;
use common::*;
use dsla_kernels::poison_empty;

#[test]
fn outputs_do_not_depend_on_fresh_memory() {
    let _lock = serial();
    for (op, cases) in dsla_kernels::ops::all() {
        for case in cases.iter().filter(|c| !c.bench) {
            poison_empty(false);
            let clean = (case.run)(&tensors(case)).unwrap();
            poison_empty(true);
            let poisoned = (case.run)(&tensors(case)).unwrap();
            for (a, b) in clean.iter().zip(&poisoned) {
                assert_eq!(bits(a), bits(b), "{op} {}: depends on fresh memory", case.id);
            }
            if let Some(backward) = &case.backward {
                let grads = backward(&tensors(case), &clean).unwrap();
                for (g, i) in grads.iter().zip(&case.inputs) {
                    let Some(g) = g else { continue };
                    assert!(
                        g.to_vec_f32().iter().all(|v| !v.is_nan()),
                        "{op} {}: gradient of {} reads fresh memory",
                        case.id,
                        i.name
                    );
                }
            }
            poison_empty(false);
        }
    }
}

fn bits(t: &dsla_kernels::Tensor) -> Vec<u32> {
    t.to_vec_f32().into_iter().map(f32::to_bits).collect()
}
