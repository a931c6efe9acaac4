//! Every op over its representative cases, by the same table as the tests: time, throughput in flops per second, and the
//! share of what this machine can do. A case that fits a cache can read faster than the limit, which is memory's.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dsla_kernels::DType;
use dsla_kernels::limits::Limits;
use dsla_kernels::ops::linear::Packed;
use std::time::{Duration, Instant};

fn ops(c: &mut Criterion) {
    let limits = |dtype| {
        let found = Limits::measure(|w| Packed::new(w.to_tensor()?.to_dtype(dtype)?.view()));
        found.expect("products of this machine")
    };
    let (f32, bf16) = (limits(DType::F32), limits(DType::BF16));
    let best = if f32.flops > bf16.flops { f32 } else { bf16 };
    println!(
        "limits: {:.0} GFLOP/s in f32 products, {:.0} in bf16, {:.1} GB/s read",
        f32.flops / 1e9,
        bf16.flops / 1e9,
        best.bandwidth / 1e9
    );
    for (op, cases) in dsla_kernels::ops::all() {
        let mut group = c.benchmark_group(op);
        for case in cases.iter().filter(|c| c.bench) {
            let inputs: Vec<_> = case.inputs.iter().map(|i| i.tensor.clone()).collect();
            let mut fastest = f64::INFINITY;
            group.throughput(Throughput::Elements(case.flops as u64));
            group.bench_function(&case.id, |b| {
                b.iter_custom(|runs| {
                    let mut all = Duration::ZERO;
                    for _ in 0..runs {
                        let start = Instant::now();
                        std::hint::black_box((case.run)(&inputs).map(|o| o.len()).unwrap_or(0));
                        let took = start.elapsed();
                        fastest = fastest.min(took.as_secs_f64());
                        all += took;
                    }
                    all
                })
            });
            // (Not run, with a filter on the command line.)
            if fastest.is_infinite() {
                continue;
            }
            let share = 100.0 * best.seconds(case.flops, case.bytes) / fastest;
            let by = if case.flops / best.flops > case.bytes / best.bandwidth { "flops" } else { "bytes" };
            println!("{op}/{}: {share:.0}% of the limit by {by} in the fastest run", case.id);
        }
        group.finish();
    }
}

criterion_group! { name = benches; config = Criterion::default().sample_size(10); targets = ops }
criterion_main!(benches);
