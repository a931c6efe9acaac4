//! Every op over its representative cases, by the same table as the tests, with throughput in flops per second.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn ops(c: &mut Criterion) {
    for (op, cases) in dsla_kernels::ops::all() {
        let mut group = c.benchmark_group(op);
        for case in cases.iter().filter(|c| c.bench) {
            let inputs: Vec<_> = case.inputs.iter().map(|i| i.tensor.clone()).collect();
            group.throughput(Throughput::Elements(case.flops as u64));
            group.bench_function(&case.id, |b| b.iter(|| (case.run)(&inputs).map(|o| o.len()).unwrap_or(0)));
        }
        group.finish();
    }
}

criterion_group! { name = benches; config = Criterion::default().sample_size(10); targets = ops }
criterion_main!(benches);
