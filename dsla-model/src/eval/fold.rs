//! What converting a sequence in mid-flight costs: its past folded into states, dropped, or computed anew.

use super::divergence::{Divergence, SideBySide};
use crate::generate::PREFILL_CHUNK;
use crate::{Error, Model, Plan, Result, Sequence, Step, Want};

/// Divergence from the teacher over the tokens after the conversion, for three ways to convert.
#[derive(Clone, Debug)]
pub struct FoldQuality {
    /// The KV cache of each converted layer becomes its states ([`Model::fold`]), as the engine does.
    pub fold: Divergence,
    /// Each converted layer starts empty ([`Model::drop_past`]), as the paper's system does.
    pub drop: Divergence,
    /// The whole past is run again with the converted layers: what a fold approximates at a fraction of the work.
    pub prefill: Divergence,
}

/// Each window is a past, which the teacher takes in, and `after` more tokens: between the two the layers of `plan`
/// are converted. Positions of the result count from the conversion. `progress` sees (windows done, windows).
///
/// Errors: no window longer than `after` tokens, a plan that converts nothing, a form that cannot fold.
pub fn fold(
    model: &Model,
    plan: &Plan,
    windows: &[&[u32]],
    after: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<FoldQuality> {
    let refuse =
        |arg, got: String, want: &str| Err(Error::Argument { op: "eval fold", arg, got, want: want.into() });
    if plan.count() == 0 {
        return refuse("rate", "no layer converted".into(), "at least one");
    }
    let windows: Vec<&[u32]> = windows.iter().copied().filter(|w| w.len() > after).collect();
    if after < 2 || windows.is_empty() {
        let want = "at least one window longer than the tokens after the conversion, which are 2 or more";
        return refuse("after", format!("{after} tokens in the windows of this text"), want);
    }
    let layers: Vec<usize> = (0..model.config().num_layers).filter(|&l| plan.is_converted(l)).collect();
    let mut side = SideBySide::new(model, 3);
    for (i, w) in windows.iter().enumerate() {
        let (past, rest) = w.split_at(w.len() - after);
        let mut teacher = model.new_sequence(&Plan::teacher(model.config().num_layers))?;
        let mut prefilled = model.new_sequence(plan)?;
        for seq in [&mut teacher, &mut prefilled] {
            take_in(model, seq, past)?;
        }
        let (mut folded, mut dropped) = (teacher.clone(), teacher.clone());
        for &l in &layers {
            model.fold(&mut folded, l)?;
            model.drop_past(&mut dropped, l)?;
        }
        side.walk(&mut teacher, &mut [folded, dropped, prefilled], rest)?;
        progress(i + 1, windows.len());
    }
    let mut found = side.finish();
    let prefill = found.remove(2);
    let drop = found.remove(1);
    Ok(FoldQuality { fold: found.remove(0), drop, prefill })
}

/// Feed tokens to a sequence, wanting no logits.
pub(super) fn take_in(model: &Model, seq: &mut Sequence, tokens: &[u32]) -> Result<()> {
    for tokens in tokens.chunks(PREFILL_CHUNK) {
        model.hidden(&mut [Step { seq, tokens, logits: Want::None }])?;
    }
    Ok(())
}
