//! Gate 4: broken variants of the kernels, each of which conformance on the simulator must catch. `mutations.txt` in an
//! op's folder lists its own: `source entry | text in the expanded kernel | what it becomes`, at least one per kernel.

mod common;
#[path = "common/cuda.rs"]
mod cuda;
use common::*;
use cuda::*;
use dsla_kernels::case::Case;
use dsla_kernels::cuda::{Mutation, mutate};
use dsla_kernels::ops;
use ptxsim_cuda::Options;
use std::collections::{BTreeMap, BTreeSet};

struct Mutant {
    op: String,
    fault: Mutation,
}

fn mutants() -> Vec<Mutant> {
    ops::all().into_iter().flat_map(|(op, _)| of(op)).collect()
}

fn of(op: &str) -> Vec<Mutant> {
    let file = format!("{}/src/ops/{op}/mutations.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    lines
        .map(|line| {
            let parts: Vec<&str> = line.split(" | ").collect();
            let [head, from, to] = parts[..] else { panic!("{file}: {line}: want three parts") };
            let [source, entry] = head.split_whitespace().collect::<Vec<_>>()[..] else {
                panic!("{file}: {line}: want source and entry")
            };
            // A mutant may take a line out.
            let to = to.trim().trim_start_matches('~').to_string();
            let fault = Mutation { source: source.into(), entry: entry.into(), from: from.trim().into(), to };
            Mutant { op: op.into(), fault }
        })
        .collect()
}

#[test]
fn every_kernel_has_a_mutant() {
    let have: BTreeSet<String> = mutants().into_iter().map(|m| m.fault.entry).collect();
    let mut entries = BTreeSet::new();
    for (_, source) in ops::sources() {
        for v in source.variants() {
            entries.extend(source.entries(&v.values).unwrap());
        }
    }
    let without: Vec<_> = entries.difference(&have).collect();
    assert!(without.is_empty(), "kernels without a mutant: {without:?}");
    assert!(mutants().len() >= 40, "{} mutants, want 40", mutants().len());
}

#[test]
fn every_mutant_is_caught() {
    let _lock = serial();
    let driver = Driver::install(&Options::default());
    let only = std::env::var("DSLA_OP").ok();
    let all = ops::all();
    let (mut caught, mut survivors) = (0, vec![]);
    // Per op: its cases, those that caught a mutant lately first, as they may well catch the next one.
    let mut orders: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for m in mutants().iter().filter(|m| only.as_ref().is_none_or(|o| *o == m.op)) {
        let source = ops::sources().into_iter().find(|(_, s)| s.name == m.fault.source);
        let (_, source) = source.unwrap_or_else(|| panic!("no source {}", m.fault.source));
        // Each planted fault must be PTX that loads: what the parser refuses proves nothing about the kernel.
        let texts =
            source.variants().into_iter().filter_map(|v| m.fault.apply(&source.expand(&v.values).ok()?));
        let texts: Vec<String> = texts.collect();
        assert!(!texts.is_empty(), "{:?} occurs in no variant of {}", m.fault.from, m.fault.entry);
        for text in &texts {
            ptxsim::Module::parse(text).unwrap_or_else(|e| panic!("{:?}: {e}", m.fault));
        }
        let (_, cases) = all.iter().find(|(op, _)| *op == m.op).expect("an op of the list");
        mutate(Some(m.fault.clone()));
        let order = orders.entry(m.op.clone()).or_insert_with(|| (0..cases.len()).collect());
        match evidence(cases, order, &driver) {
            Some((at, why)) => {
                order[..=at].rotate_right(1);
                println!("{} {}: {} -> {}: {why}", m.op, m.fault.entry, m.fault.from, m.fault.to);
                caught += 1;
            }
            None => survivors.push(format!("{:?}", m.fault)),
        }
        driver.clear();
    }
    mutate(None);
    println!("{caught} mutants caught");
    assert!(survivors.is_empty(), "not caught:\n{}", survivors.join("\n"));
}

/// What gives the fault away (a wrong result or a fault of the simulator, in order or under other schedules) and the place in
/// `order` of the case that does.
fn evidence(cases: &[Case], order: &[usize], driver: &Driver) -> Option<(usize, String)> {
    for schedule in 0..3 {
        driver.set(&Options { schedule, budget: 20_000_000, ..Options::default() });
        for (at, case) in order.iter().map(|&i| &cases[i]).enumerate().filter(|(_, c)| !c.bench) {
            for outcome in [Some(forward(case)), backward(case)].into_iter().flatten() {
                if let Outcome::Wrong(e) = outcome {
                    let faults = driver.faults();
                    let line = if faults.is_empty() { e } else { faults.trim().to_string() };
                    return Some((at, format!("{}: {}", case.id, line.lines().next().unwrap_or_default())));
                }
            }
            let faults = driver.faults();
            if !faults.is_empty() {
                return Some((at, format!("{}: {}", case.id, faults.trim())));
            }
        }
    }
    None
}
