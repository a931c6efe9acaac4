//! Times of the representative cases on a real GPU, for `cargo xtask gpu-check`.

use dsla_kernels::{Device, Tensor};
use std::time::Instant;

/// Runs of a case that are timed; the median counts.
const RUNS: usize = 20;

/// One JSON object on stdout: device, then per case microseconds, GB/s and TFLOP/s. Times are those of the host around a
/// run and a synchronisation, allocations of the case included.
pub fn run() -> Result<(), Box<dyn std::error::Error>> {
    let context = dsla_kernels::cuda::context(0)?;
    let mut rows = vec![];
    for (op, cases) in dsla_kernels::ops::all() {
        for case in cases.iter().filter(|c| c.bench) {
            let inputs: Vec<Tensor> =
                case.inputs.iter().map(|i| i.tensor.to_device(Device::Cuda(0))).collect::<Result<_, _>>()?;
            let mut times = vec![];
            for _ in 0..RUNS + 3 {
                Device::Cuda(0).synchronize()?;
                let start = Instant::now();
                (case.run)(&inputs)?;
                Device::Cuda(0).synchronize()?;
                times.push(start.elapsed().as_secs_f64());
            }
            // The first runs load modules and fill the memory pool.
            let mut times = times.split_off(3);
            times.sort_by(f64::total_cmp);
            let t = times[times.len() / 2];
            rows.push(format!(
                "{{\"op\":\"{op}\",\"case\":\"{}\",\"us\":{:.2},\"gb_s\":{:.1},\"tflop_s\":{:.3}}}",
                case.id,
                1e6 * t,
                case.bytes / t / 1e9,
                case.flops / t / 1e12
            ));
        }
    }
    println!("{{\"device\":\"{}\",\"rows\":[{}]}}", context.name()?, rows.join(",\n"));
    Ok(())
}
