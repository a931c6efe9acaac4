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
use std::rc::Rc;

struct Mutant {
    op: String,
    fault: Mutation,
}

impl Mutant {
    /// The planted fault must be PTX that loads: what the parser refuses proves nothing about the kernel.
    fn loads(&self) {
        let Mutation { source, entry, from, .. } = &self.fault;
        let sources = ops::sources();
        let (_, source) =
            sources.iter().find(|(_, s)| s.name == source).unwrap_or_else(|| panic!("no source {source}"));
        let mut found = false;
        for v in source.variants() {
            let Some(text) = source.expand(&v.values).ok().and_then(|t| self.fault.apply(&t)) else {
                continue;
            };
            ptxsim::Module::parse(&text).unwrap_or_else(|e| panic!("{:?}: {e}", self.fault));
            found = true;
        }
        assert!(found, "{from:?} occurs in no variant of {entry}");
    }
}

fn mutants() -> Vec<Mutant> {
    let mut names: Vec<&str> = ops::sources().into_iter().map(|(op, _)| op).collect();
    names.dedup();
    names.into_iter().flat_map(of).collect()
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
    let mut suspects: BTreeMap<&str, Suspects> = BTreeMap::new();
    let (mut caught, mut survivors) = (0, vec![]);
    for m in mutants().iter().filter(|m| only.as_ref().is_none_or(|o| *o == m.op)) {
        m.loads();
        let (op, cases) = all.iter().find(|(op, _)| *op == m.op).expect("an op of the list");
        let suspects = suspects.entry(op).or_insert_with(|| Suspects::new(cases, &driver));
        mutate(Some(m.fault.clone()));
        match suspects.evidence(&m.fault.entry, &driver) {
            Some(why) => {
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

/// A case forward or backward.
struct Probe<'a> {
    case: Rc<Checked<'a>>,
    backward: bool,
    /// The kernels it launches: a fault in any other cannot show in it. None: it looks at results on its way, so nobody knows.
    launches: Option<BTreeSet<String>>,
}

/// The probes of an op: those that caught a mutant lately first, as they may well catch the next one; then the cheap ones.
struct Suspects<'a>(Vec<Probe<'a>>);

impl<'a> Suspects<'a> {
    fn new(cases: &'a [Case], driver: &Driver) -> Suspects<'a> {
        driver.set(&Options { record: true, dry: true, ..Options::default() });
        let mut cases: Vec<&Case> = cases.iter().filter(|c| !c.bench).collect();
        cases.sort_by(|a, b| a.flops.total_cmp(&b.flops));
        let mut probes = vec![];
        for case in cases.into_iter().map(|c| Rc::new(Checked::new(c))) {
            for backward in [false, true] {
                let ended = case.touch(backward).map_or_else(|e| refused(&e), |()| true);
                let launches = driver.launched();
                driver.clear();
                probes.push(Probe { case: case.clone(), backward, launches: ended.then_some(launches) });
            }
        }
        Suspects(probes)
    }

    /// What gives a fault in this kernel away: a wrong result or a fault of the simulator, in order or under other schedules.
    fn evidence(&mut self, entry: &str, driver: &Driver) -> Option<String> {
        for schedule in 0..3 {
            driver.set(&Options { schedule, budget: 20_000_000, ..Options::default() });
            for at in 0..self.0.len() {
                let probe = &self.0[at];
                if probe.launches.as_ref().is_some_and(|l| !l.contains(entry)) {
                    continue;
                }
                if let Some(why) = probe.run(driver) {
                    let why = format!("{}: {why}", probe.case.case.id);
                    self.0[..=at].rotate_right(1);
                    return Some(why);
                }
            }
        }
        None
    }
}

impl Probe<'_> {
    /// What is wrong.
    fn run(&self, driver: &Driver) -> Option<String> {
        let outcome = if self.backward { self.case.backward() } else { Some(self.case.forward()) };
        let faults = driver.faults();
        let faults = faults.trim().lines().next();
        match &outcome {
            Some(Outcome::Wrong(e)) => faults.or(e.lines().next()),
            _ => faults,
        }
        .map(str::to_string)
    }
}
