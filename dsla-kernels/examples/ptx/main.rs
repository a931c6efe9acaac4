//! Tools of the PTX kernels, which `cargo xtask ptx` calls: `emit DIR` writes every expanded module, `list` names them,
//! `device` names GPU 0, `time` times the representative cases on it,
//! `report TABLE [--json]` runs each op's representative cases on the simulator and says what its kernels cost.

mod gpu;
mod report;
mod time;

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["emit", dir] => emit(Path::new(dir)),
        ["list"] => {
            for (op, source) in dsla_kernels::ops::sources() {
                source.variants().iter().for_each(|v| println!("{op} {}", v.name));
            }
            Ok(())
        }
        ["device"] => {
            println!("{}", dsla_kernels::cuda::context(0)?.name()?);
            Ok(())
        }
        ["time"] => time::run(),
        ["report", table] => report::run(Path::new(table), false),
        ["report", table, "--json"] => report::run(Path::new(table), true),
        _ => Err("usage: ptx emit DIR | list | device | time | report TABLE [--json]".into()),
    }
}

fn emit(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(dir)?;
    for (_, source) in dsla_kernels::ops::sources() {
        for v in source.variants() {
            std::fs::write(dir.join(format!("{}.ptx", v.name)), source.expand(&v.values)?)?;
        }
    }
    Ok(())
}
