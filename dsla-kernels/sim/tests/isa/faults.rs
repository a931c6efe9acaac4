//! Every check catches its planted fault, and lets the correct twin pass.

use crate::common::{Lab, numbered, options, parse, words};
use crate::plants::{MIRROR, PLANTS, Plant};
use ptxsim::FaultKind::*;
use ptxsim::{Fault, Options};

const INPUT: [u32; 32] = [7; 32];

fn outcome(p: &Plant, part: &str, o: Options) -> (Result<(), Fault>, String) {
    let body = if p.body == "@here" { MIRROR } else { p.body }.replace("@@", part);
    let lab = Lab::new(&body).threads(p.threads).output(32 * p.blocks as usize).input(&INPUT);
    let lab = Lab { grid: p.blocks, options: o, ..lab };
    let m = parse(&lab.text());
    let (mut mem, input) = crate::common::filled(&INPUT);
    let out = mem.alloc(128 * u64::from(p.blocks)).expect("room");
    (lab.launch(&m, &mut mem, &words(&[out, input])).map(|_| ()), lab.text())
}

#[test]
fn every_planted_fault_is_caught_and_its_twin_passes() {
    let mut wrong = Vec::new();
    for p in PLANTS {
        for schedule in [0, 1, 2, 3] {
            let o = Options { schedule, budget: 10_000, ..options() };
            match outcome(p, p.bad, o.clone()) {
                (Ok(()), text) => {
                    wrong.push(format!("{}: not caught, schedule {schedule}\n{}", p.name, numbered(&text)))
                }
                (Err(e), text) => {
                    let line = text.lines().nth(e.line.wrapping_sub(1)).unwrap_or("");
                    let here = line.contains("// here")
                        || !p.bad.is_empty()
                            && !p.bad.contains("// here")
                            && p.bad.lines().any(|l| l == line);
                    // The order decides whether the read or the landing comes second.
                    let kind = e.kind == p.kind
                        || p.name == "cp.async waited for, no barrier" && e.kind == SharedRace;
                    if !kind || !here || e.kernel != "k" || e.detail.is_empty() {
                        wrong.push(format!(
                            "{}: want {:?}, got {e}\n  at `{line}`, schedule {schedule}",
                            p.name, p.kind
                        ));
                    }
                }
            }
            if let (Err(e), text) = outcome(p, p.good, o) {
                wrong.push(format!("{}, twin: {e}, schedule {schedule}\n{}", p.name, numbered(&text)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn races_are_watched_only_on_request() {
    for p in PLANTS.iter().filter(|p| matches!(p.kind, SharedRace | GlobalRace)) {
        let (r, _) = outcome(p, p.bad, Options { races: false, ..options() });
        assert!(r.is_ok(), "{}: {r:?}", p.name);
    }
}
