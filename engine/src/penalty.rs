//! What makes some tokens more or less likely than the model thinks: the client's bias, and that they came before.

use std::collections::BTreeMap;

/// Touches single logits, each by its own sum: the order in which tokens came does not matter, only how often.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Penalties {
    pub frequency: f64,
    pub presence: f64,
    pub bias: BTreeMap<u32, f64>,
    /// How often each token was generated; empty where nothing depends on it.
    counts: BTreeMap<u32, u32>,
}

impl Penalties {
    pub fn new(frequency: f64, presence: f64, bias: BTreeMap<u32, f64>) -> Self {
        Self { frequency, presence, bias, counts: BTreeMap::new() }
    }

    pub fn count(&mut self, token: u32) {
        if self.frequency != 0.0 || self.presence != 0.0 {
            *self.counts.entry(token).or_default() += 1;
        }
    }

    pub fn apply(&self, logits: &mut [f32]) {
        let mut add = |token: u32, by: f64| {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = (f64::from(*logit) + by) as f32;
            }
        };
        for (token, bias) in &self.bias {
            add(*token, *bias);
        }
        for (token, count) in &self.counts {
            add(*token, -(f64::from(*count) * self.frequency + self.presence));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequency_counts_and_presence_does_not() {
        let mut penalties = Penalties::new(0.5, 0.25, BTreeMap::from([(3, -100.0)]));
        for token in [0, 1, 0, 0] {
            penalties.count(token);
        }
        let mut logits = [2.0, 2.0, 2.0, 2.0];
        penalties.apply(&mut logits);
        assert_eq!(logits, [0.25, 1.25, 2.0, -98.0]);
    }
}
