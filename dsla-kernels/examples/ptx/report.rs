//! The cost report: counters of the simulator at each op's representative (bench) cases, beside what ptxas said of the
//! kernel. Times are roofline estimates from data sheets, never measurements.

use crate::gpu::{GPUS, SM_80, SM_90, occupancy};
use dsla_kernels::case::Rng;
use dsla_kernels::{DType, Device, Tensor};
use ptxsim::Counters;
use ptxsim_cuda::{Fake, LaunchInfo, Options};
use std::collections::BTreeMap;
use std::path::Path;

/// The largest cases that are simulated, flops: with tensor cores, and without.
const TENSOR: f64 = 2e10;
const SIMT: f64 = 2e8;

/// The bars a kernel is held to.
const SHARED: f64 = 1.05;
const SECTORS: f64 = 1.10;
const DRAM: f64 = 1.15;
const OCCUPANCY: f64 = 0.25;

/// One kernel at one case.
struct Row {
    op: &'static str,
    case: String,
    kernel: String,
    launches: usize,
    registers: [u32; 2],
    block: u32,
    smem: u32,
    occupancy: [f64; 2],
    counters: Counters,
}

impl Row {
    fn mma_share(&self) -> f64 {
        ratio(self.counters.mma_cycles, self.counters.issue_cycles, 0.0)
    }

    fn shared(&self) -> f64 {
        ratio(self.counters.shared_wavefronts as f64, self.counters.shared_ideal as f64, 1.0)
    }

    fn sectors(&self) -> f64 {
        let c = &self.counters;
        ratio((c.global_load_sectors + c.global_store_sectors) as f64, c.global_ideal as f64, 1.0)
    }

    fn bytes(&self) -> f64 {
        (self.counters.unique_load_bytes + self.counters.unique_store_bytes) as f64
    }

    /// Seconds on a GPU (est.): the largest of memory, tensor cores and issue slots.
    fn estimate(&self, gpu: &crate::gpu::Gpu) -> f64 {
        let issue = self.counters.issue_cycles / (4.0 * gpu.sms * gpu.clock);
        (self.bytes() / gpu.bandwidth).max(self.counters.mma_flops as f64 / gpu.tensor).max(issue)
    }

    /// The bars it misses.
    fn missed(&self) -> Vec<String> {
        let mut missed = vec![];
        if self.shared() > SHARED {
            missed.push(format!("shared wavefronts {:.2}x", self.shared()));
        }
        if self.sectors() > SECTORS {
            missed.push(format!("sectors {:.2}x", self.sectors()));
        }
        if self.occupancy.iter().any(|o| *o < OCCUPANCY) {
            missed.push(format!("occupancy {:.0}%", 100.0 * self.occupancy[0].min(self.occupancy[1])));
        }
        missed
    }
}

fn ratio(a: f64, b: f64, none: f64) -> f64 {
    if b > 0.0 { a / b } else { none }
}

/// A case as a whole: bytes moved over the algorithm's minimum.
struct Whole {
    op: &'static str,
    case: String,
    bytes: f64,
    least: f64,
}

pub fn run(table: &Path, json: bool) -> Result<(), Box<dyn std::error::Error>> {
    let registers = registers(table)?;
    let fake = Fake::install()?;
    fake.set(&Options { record: true, races: false, budget: u64::MAX, ..Options::default() });
    let only = std::env::var("DSLA_OP").ok();
    let (mut rows, mut wholes) = (vec![], vec![]);
    for (op, cases) in dsla_kernels::ops::all() {
        if only.as_ref().is_some_and(|o| !o.split(',').any(|o| o == op)) {
            continue;
        }
        for case in cases.iter().filter(|c| c.bench) {
            // An FMA at a time, a large case takes minutes to simulate; its counters would be those of a smaller one.
            let half = case.inputs.iter().any(|i| matches!(i.tensor.dtype(), DType::BF16 | DType::F16));
            let most = if half { TENSOR } else { SIMT };
            if case.flops > most {
                eprintln!("{op} {}: left out: {:.1e} flops, want at most {most:.0e}", case.id, case.flops);
                continue;
            }
            let inputs: Vec<Tensor> =
                case.inputs.iter().map(|i| i.tensor.to_device(Device::Cuda(0))).collect::<Result<_, _>>()?;
            let Some(outs) = measure(&fake, op, &case.id, &mut rows, &registers, || (case.run)(&inputs))
            else {
                continue;
            };
            let bytes = rows.iter().filter(|r| r.op == op && r.case == case.id).map(Row::bytes).sum();
            wholes.push(Whole { op, case: case.id.clone(), bytes, least: case.bytes });
            if let Some(backward) = case.backward.as_ref().filter(|_| 4.0 * case.flops <= most) {
                let mut rng = Rng::new(7);
                let douts =
                    outs.iter().map(|t| rng.tensor(t.dims(), 1.0, DType::F32).to_device(Device::Cuda(0)));
                let douts: Vec<Tensor> = douts.collect::<Result<_, _>>()?;
                let id = format!("{} backward", case.id);
                measure(&fake, op, &id, &mut rows, &registers, || backward(&inputs, &douts));
            }
        }
    }
    if json {
        print_json(&rows, &wholes)
    } else {
        print_table(&rows, &wholes)
    }
    Ok(())
}

/// Run something on the device and add a row per kernel it launches; None (and a line on stderr) where it fails.
fn measure<T>(
    fake: &Fake,
    op: &'static str,
    case: &str,
    rows: &mut Vec<Row>,
    registers: &Resources,
    run: impl FnOnce() -> dsla_kernels::Result<T>,
) -> Option<T> {
    let device = Device::Cuda(0);
    let done = device.synchronize().and_then(|()| {
        fake.take_launches();
        let out = run()?;
        device.synchronize()?;
        Ok(out)
    });
    match done {
        Ok(out) => {
            let launches = fake.take_launches();
            let mut kernels: BTreeMap<&str, Vec<&LaunchInfo>> = BTreeMap::new();
            launches.iter().for_each(|l| kernels.entry(&l.kernel).or_default().push(l));
            rows.extend(kernels.into_iter().map(|(kernel, l)| row(op, case, kernel, &l, registers)));
            Some(out)
        }
        Err(e) => {
            eprintln!("{op} {case}: {e}");
            fake.take_faults().iter().for_each(|f| eprintln!("  {f}"));
            None
        }
    }
}

fn row(op: &'static str, case: &str, kernel: &str, launches: &[&LaunchInfo], registers: &Resources) -> Row {
    let (used, fixed) = registers.get(kernel).copied().unwrap_or(([0, 0], 0));
    let l = launches[0];
    let (block, smem) = (l.block.iter().product(), fixed + l.shared);
    let mut counters = Counters::default();
    for l in launches {
        add(&mut counters, &l.counters);
    }
    Row {
        op,
        case: case.into(),
        kernel: kernel.into(),
        launches: launches.len(),
        registers: used,
        block,
        smem,
        occupancy: [occupancy(SM_80, used[0], block, smem), occupancy(SM_90, used[1], block, smem)],
        counters,
    }
}

fn add(a: &mut Counters, b: &Counters) {
    a.warp_instructions.iter_mut().zip(b.warp_instructions).for_each(|(a, b)| *a += b);
    a.active_lanes += b.active_lanes;
    a.shared_wavefronts += b.shared_wavefronts;
    a.shared_ideal += b.shared_ideal;
    a.global_load_sectors += b.global_load_sectors;
    a.global_store_sectors += b.global_store_sectors;
    a.global_ideal += b.global_ideal;
    a.unique_load_bytes += b.unique_load_bytes;
    a.unique_store_bytes += b.unique_store_bytes;
    a.mma += b.mma;
    a.mma_flops += b.mma_flops;
    a.issue_cycles += b.issue_cycles;
    a.mma_cycles += b.mma_cycles;
}

/// By entry: registers on sm_80 and sm_90, static shared memory.
type Resources = BTreeMap<String, ([u32; 2], u32)>;

/// By entry: the most registers any of its modules takes on sm_80 and sm_90, and static shared memory.
fn registers(table: &Path) -> Result<Resources, Box<dyn std::error::Error>> {
    let mut all = BTreeMap::new();
    for line in std::fs::read_to_string(table)?.lines().filter(|l| !l.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, entry, numbers @ ..] = &words[..] else { continue };
        let n: Vec<u32> = numbers.iter().map(|w| w.parse()).collect::<Result<_, _>>()?;
        let [a, _, _, b, _, _, shared] = n[..] else { return Err(format!("{line}: want 7 numbers").into()) };
        let slot = all.entry(entry.to_string()).or_insert(([0, 0], 0));
        *slot = ([slot.0[0].max(a), slot.0[1].max(b)], slot.1.max(shared));
    }
    Ok(all)
}

fn print_table(rows: &[Row], wholes: &[Whole]) {
    println!("Counters are the simulator's; times are estimates from data sheets, not measurements.\n");
    println!(
        "{:<34} {:>4} {:>5} {:>6} {:>6} {:>9} {:>5} {:>7} {:>8} {:>9}  {:>8} {:>8} {:>8}",
        "kernel",
        "regs",
        "block",
        "smem",
        "occ",
        "instr",
        "mma",
        "shared",
        "sectors",
        "MB",
        "A100 us",
        "H100 us",
        "4090 us"
    );
    let mut last = String::new();
    for r in rows {
        let head = format!("{} {}", r.op, r.case);
        if head != last {
            let whole = wholes.iter().find(|w| w.op == r.op && w.case == r.case);
            match whole.map(|w| ratio(w.bytes, w.least, 1.0)) {
                Some(over) => {
                    let mark = if over > DRAM { "  MISSES: DRAM bytes" } else { "" };
                    println!("{head}: {over:.2}x the least bytes{mark}");
                }
                None => println!("{head}"),
            }
            last = head;
        }
        let us = |i: usize| format!("{:.1}", 1e6 * r.estimate(&GPUS[i]));
        let missed = r.missed();
        println!(
            "  {:<32} {:>4} {:>5} {:>6} {:>5.0}% {:>9} {:>4.0}% {:>6.2}x {:>7.2}x {:>9.2}  {:>8} {:>8} {:>8}{}",
            format!(
                "{}{}",
                r.kernel,
                if r.launches > 1 { format!(" x{}", r.launches) } else { String::new() }
            ),
            r.registers[0],
            r.block,
            r.smem,
            100.0 * r.occupancy[0],
            r.counters.warp_instructions.iter().sum::<u64>(),
            100.0 * r.mma_share(),
            r.shared(),
            r.sectors(),
            r.bytes() / 1e6,
            us(0),
            us(1),
            us(2),
            if missed.is_empty() { String::new() } else { format!("  MISSES: {}", missed.join(", ")) },
        );
    }
}

fn print_json(rows: &[Row], wholes: &[Whole]) {
    let list = |items: Vec<String>| items.join(",");
    let row = |r: &Row| {
        let mix: Vec<String> = Counters::CLASSES
            .iter()
            .zip(r.counters.warp_instructions)
            .map(|(name, n)| format!("\"{name}\":{n}"))
            .collect();
        let estimates: Vec<String> =
            GPUS.iter().map(|g| format!("\"{}\":{:e}", g.name, r.estimate(g))).collect();
        format!(
            "{{\"op\":\"{}\",\"case\":\"{}\",\"kernel\":\"{}\",\"registers_sm80\":{},\"block\":{},\"shared_bytes\":{},\
             \"occupancy_sm80\":{:.4},\"occupancy_sm90\":{:.4},\"mma_share\":{:.4},\"shared_over_ideal\":{:.4},\
             \"sectors_over_ideal\":{:.4},\"dram_bytes\":{},\"instructions\":{{{}}},\"estimate_seconds\":{{{}}}}}",
            r.op,
            r.case,
            r.kernel,
            r.registers[0],
            r.block,
            r.smem,
            r.occupancy[0],
            r.occupancy[1],
            r.mma_share(),
            r.shared(),
            r.sectors(),
            r.bytes(),
            list(mix),
            list(estimates)
        )
    };
    let whole = |w: &Whole| {
        format!(
            "{{\"op\":\"{}\",\"case\":\"{}\",\"dram_bytes\":{},\"least_bytes\":{}}}",
            w.op, w.case, w.bytes, w.least
        )
    };
    println!(
        "{{\"estimates\":\"from data sheets, not measured\",\"kernels\":[{}],\"cases\":[{}]}}",
        list(rows.iter().map(row).collect()),
        list(wholes.iter().map(whole).collect())
    );
}
