//! `ptxsim run kernel.ptx --entry NAME --grid 1 --block 32 [--shared N] --buf f32:1024 --arg u32:5 ...`
//!
//! `ptxsim check FILE ...`
//!
//! `--buf` and `--arg` are the kernel's parameters in order. A buffer is `TYPE:COUNT`, filled with 0, 1, 2 ..., or `TYPE:COUNT:?`,
//! left unwritten. Prints the counters and each buffer's first values, or the fault.

use ptxsim::{Counters, Launch, Memory, Mma, Module, Options, run};
use std::error::Error;

struct Buffer {
    ty: String,
    count: usize,
    address: u64,
}

fn encode(ty: &str, v: f64) -> Result<Vec<u8>, Box<dyn Error>> {
    Ok(match ty {
        "u8" | "b8" => vec![v as u8],
        "s8" => vec![v as i8 as u8],
        "u16" | "b16" => (v as u16).to_le_bytes().into(),
        "s16" => (v as i16).to_le_bytes().into(),
        "f16" => half::f16::from_f64(v).to_le_bytes().into(),
        "bf16" => half::bf16::from_f64(v).to_le_bytes().into(),
        "u32" | "b32" => (v as u32).to_le_bytes().into(),
        "s32" => (v as i32).to_le_bytes().into(),
        "f32" => (v as f32).to_le_bytes().into(),
        "u64" | "b64" => (v as u64).to_le_bytes().into(),
        "s64" => (v as i64).to_le_bytes().into(),
        "f64" => v.to_le_bytes().into(),
        _ => return Err(format!("type {ty} is not known").into()),
    })
}

fn decode(ty: &str, b: &[u8]) -> String {
    let mut raw = [0; 8];
    raw[..b.len()].copy_from_slice(b);
    let v = u64::from_le_bytes(raw);
    match ty {
        "f16" => half::f16::from_bits(v as u16).to_string(),
        "bf16" => half::bf16::from_bits(v as u16).to_string(),
        "f32" => f32::from_bits(v as u32).to_string(),
        "f64" => f64::from_bits(v).to_string(),
        "s8" => (v as i8).to_string(),
        "s16" => (v as i16).to_string(),
        "s32" => (v as i32).to_string(),
        "s64" => (v as i64).to_string(),
        _ => v.to_string(),
    }
}

fn dims(s: &str) -> Result<[u32; 3], Box<dyn Error>> {
    let mut d = [1; 3];
    for (d, s) in d.iter_mut().zip(s.split(',')) {
        *d = s.parse()?;
    }
    Ok(d)
}

fn print(c: &Counters) {
    for (name, n) in Counters::CLASSES.iter().zip(c.warp_instructions).filter(|p| p.1 > 0) {
        println!("{name:>8} {n}");
    }
    println!("shared wavefronts {} (ideal {})", c.shared_wavefronts, c.shared_ideal);
    println!(
        "global sectors: {} loaded, {} stored (ideal {})",
        c.global_load_sectors, c.global_store_sectors, c.global_ideal
    );
    println!("distinct global bytes: {} read, {} written", c.unique_load_bytes, c.unique_store_bytes);
    println!("mma {} ({} flops)", c.mma, c.mma_flops);
    println!("cycles of one sub-partition, estimated: {} ({} of them mma)", c.issue_cycles, c.mma_cycles);
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [check, paths @ ..] = args.as_slice()
        && check == "check"
    {
        for p in paths {
            let module = Module::parse(&std::fs::read_to_string(p)?).map_err(|e| format!("{p}: {e}"))?;
            for e in module.entries() {
                println!("{p}: {} {:?}, {} bytes of shared memory", e.name, e.params, e.shared_bytes);
            }
        }
        return Ok(());
    }
    let (Some("run"), Some(path)) = (args.first().map(String::as_str), args.get(1)) else {
        return Err(
            "usage: ptxsim run FILE --entry NAME --grid 1 --block 32 --buf f32:1024 --arg u32:5".into()
        );
    };
    let module = Module::parse(&std::fs::read_to_string(path)?)?;
    let mut memory = Memory::new(1 << 34);
    let (mut entry, mut grid, mut block, mut shared) = (String::new(), [1; 3], [32, 1, 1], 0);
    let mut options = Options::default();
    let (mut params, mut buffers): (Vec<u8>, Vec<Buffer>) = (Vec::new(), Vec::new());
    for pair in args[2..].chunks(2) {
        let [flag, value] = pair else { return Err(format!("{} wants a value", pair[0]).into()) };
        match flag.as_str() {
            "--entry" => entry = value.clone(),
            "--grid" => grid = dims(value)?,
            "--block" => block = dims(value)?,
            "--shared" => shared = value.parse()?,
            "--schedule" => options.schedule = value.parse()?,
            "--perturb" => options.perturb = Some(value.parse()?),
            "--races" => options.races = value == "on",
            "--mma" => {
                options.mma = match value.as_str() {
                    "exact" => Mma::Exact,
                    "sequential" => Mma::Sequential,
                    "truncate" => Mma::Truncate,
                    _ => return Err(format!("--mma {value} is not known").into()),
                }
            }
            "--arg" => {
                let (ty, v) = value.split_once(':').ok_or("--arg wants TYPE:VALUE")?;
                let bytes = encode(ty, v.parse()?)?;
                params.resize(params.len().next_multiple_of(bytes.len()), 0);
                params.extend(bytes);
            }
            "--buf" => {
                let (ty, n) = value.split_once(':').ok_or("--buf wants TYPE:COUNT")?;
                let fresh = n.ends_with(":?");
                let count: usize = n.trim_end_matches(":?").parse()?;
                let size = encode(ty, 0.0)?.len();
                let address = memory.alloc((count * size) as u64).ok_or("no memory left")?;
                if !fresh {
                    let mut bytes = Vec::new();
                    for i in 0..count {
                        bytes.extend(encode(ty, i as f64)?);
                    }
                    memory.write(address, &bytes)?;
                }
                buffers.push(Buffer { ty: ty.to_string(), count, address });
                params.resize(params.len().next_multiple_of(8), 0);
                params.extend(address.to_le_bytes());
            }
            _ => return Err(format!("{flag} is not known").into()),
        }
    }
    if entry.is_empty() {
        entry = module.entries().first().ok_or("the module has no kernel")?.name.clone();
    }
    let launch = Launch { entry: &entry, grid, block, shared, params: &params };
    print(&run(&module, &launch, &mut memory, &options)?);
    for (i, b) in buffers.iter().enumerate() {
        let size = encode(&b.ty, 0.0)?.len();
        let mut shown = Vec::new();
        for k in 0..b.count.min(8) {
            let mut bytes = vec![0; size];
            let at = b.address + (k * size) as u64;
            shown.push(memory.read(at, &mut bytes).map_or("?".to_string(), |()| decode(&b.ty, &bytes)));
        }
        println!("buffer {i}: {}", shown.join(" "));
    }
    Ok(())
}
