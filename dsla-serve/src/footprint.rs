//! Bytes a sequence holds, as a function of its length and its converted layers: its own and those it shares, so that a sum
//! over sequences is an upper bound.

use dsla_model::Model;

/// Sizes of keys, values and states.
#[derive(Clone, Debug)]
pub(crate) struct Footprint {
    layers: usize,
    /// Bytes of one token's key and value in one softmax layer.
    token: usize,
    /// Tokens of a page: memory comes by whole ones.
    page: usize,
    /// `states[k]`: bytes of all states with k layers converted, window rings full.
    states: Vec<usize>,
}

impl Footprint {
    pub fn new(layers: usize, token: usize, states: Vec<usize>) -> Footprint {
        Footprint { layers, token, page: 1, states }
    }

    pub fn of(model: &Model) -> Footprint {
        let (config, dtype) = (model.config(), model.dtype());
        let token = model.token_bytes();
        let mut states = vec![0];
        if let Some(adapter) = model.adapter() {
            let mut sum = 0;
            for layer in adapter.order.iter().map(|&l| adapter.layers.get(l).and_then(Option::as_ref)) {
                sum += layer.map_or(0, |l| l.state_bytes(dtype));
                states.push(sum);
            }
        }
        Footprint { page: model.page_tokens(), ..Footprint::new(config.num_layers, token, states) }
    }

    /// Bytes at `tokens` tokens with `converted` layers converted. Saturates.
    pub fn peak(&self, tokens: usize, converted: usize) -> usize {
        let softmax = self.layers.saturating_sub(converted);
        let states = self.states.get(converted).or(self.states.last()).copied().unwrap_or(0);
        let tokens = tokens.checked_next_multiple_of(self.page).unwrap_or(usize::MAX);
        self.token.saturating_mul(softmax).saturating_mul(tokens).saturating_add(states)
    }
}
