//! The start that a text has in common with the one before it, taken in once.

use crate::eval::fold::take_in;
use crate::{Model, Plan, Result, Sequence};

/// Texts of the same filler with a fact ever deeper in them differ from the fact on: half of the work is common.
pub struct Trunk {
    seq: Sequence,
    /// What `seq` has taken in.
    tokens: Vec<u32>,
    /// The text before.
    before: Vec<u32>,
}

impl Trunk {
    pub fn new(model: &Model, plan: &Plan) -> Result<Trunk> {
        Ok(Trunk { seq: model.new_sequence(plan)?, tokens: vec![], before: vec![] })
    }

    /// A sequence that has taken in `text`.
    pub fn read(&mut self, model: &Model, plan: &Plan, text: &[u32]) -> Result<Sequence> {
        let common = text.iter().zip(&self.before).take_while(|(a, b)| a == b).count();
        if !text[..common].starts_with(&self.tokens) {
            *self = Trunk::new(model, plan)?;
        }
        take_in(model, &mut self.seq, &text[self.tokens.len()..common.max(self.tokens.len())])?;
        self.tokens = text[..self.seq.len()].to_vec();
        self.before = text.to_vec();
        let mut seq = self.seq.clone();
        take_in(model, &mut seq, &text[self.seq.len()..])?;
        Ok(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Adapter, DType, Device, Form};
    use std::path::Path;

    /// The trunk grows with the common start, starts anew where there is none, and what comes out has read the text.
    #[test]
    fn a_common_start_is_read_once() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_llama3");
        let model = Model::load(dir, &Device::Cpu, DType::F32).unwrap();
        let adapter = Adapter::init(&model, &Form { window: 5, sinks: 2, ..Form::native() }).unwrap();
        let model = model.with_adapter_value(adapter).unwrap();
        let plan = model.plan(1);
        let mut trunk = Trunk::new(&model, &plan).unwrap();
        let filler: Vec<u32> = (0..40).map(|i| i * 7 % 50).collect();
        let text = |at: usize| [&filler[..at], &[49, 48], &filler[at..]].concat();
        let other: Vec<u32> = filler.iter().map(|t| (t + 1) % 50).collect();
        for (text, common) in [(text(4), 0), (text(11), 4), (text(30), 11), (text(30), 42), (other, 0)] {
            let seq = trunk.read(&model, &plan, &text).unwrap();
            assert_eq!((seq.len(), trunk.seq.len()), (text.len(), common));
            assert_eq!(trunk.tokens, text[..common]);
            let mut direct = model.new_sequence(&plan).unwrap();
            take_in(&model, &mut direct, &text).unwrap();
            let next = |mut seq: Sequence| {
                let mut step = [crate::Step { seq: &mut seq, tokens: &[7], logits: crate::Want::Last }];
                model.forward(&mut step).unwrap()
            };
            let (got, want) = (next(seq), next(direct));
            for (got, want) in got.f32().iter().zip(want.f32()) {
                assert!((got - want).abs() < 1e-4, "{got} {want}");
            }
        }
    }
}
