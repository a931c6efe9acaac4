//! What a decode step asks of the allocator once the pools are warm: nothing, but where a cache grows.

use dsla_model::core::kernels::par::set_threads;
use dsla_model::{Adapter, DType, Device, Form, Model, Sequence, Step, Want, hub};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One sequence and three at once, with no layer converted, half and all of them. The least of many steps counts: a cache
/// that grows needs room now and then. On one thread: with more, one that fell asleep takes a boxed job to wake, and on a
/// busy machine there is one asleep at every step.
#[test]
fn a_decode_step_allocates_nothing() {
    assert!(set_threads(1));
    let path = hub::fetch("smollm2-135m-instruct", &mut |_| {}).unwrap();
    let model = Model::load(path, &Device::Cpu, DType::BF16).unwrap();
    let adapter = Adapter::init(&model, &Form { window: 32, ..Form::native() }).unwrap();
    let model = model.with_adapter_value(adapter).unwrap();
    for converted in [0, 15, 30] {
        for batch in [1, 3] {
            let plan = model.plan(converted);
            let mut seqs: Vec<Sequence> = (0..batch).map(|_| model.new_sequence(&plan).unwrap()).collect();
            for seq in &mut seqs {
                model.forward(&mut [Step { seq, tokens: &[7; 40], logits: Want::Last }]).unwrap();
            }
            let steps = (0..24).map(|_| {
                let mut steps: Vec<Step> =
                    seqs.iter_mut().map(|seq| Step { seq, tokens: &[9], logits: Want::Last }).collect();
                let region = Region::new(ALLOCATOR);
                let logits = model.forward(&mut steps).unwrap();
                let found = region.change();
                drop(logits);
                found.allocations + found.reallocations
            });
            let counts: Vec<usize> = steps.collect();
            assert_eq!(counts.iter().min(), Some(&0), "{converted} converted, {batch} at once: {counts:?}");
        }
    }
}
