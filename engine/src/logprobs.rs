//! How probable a token was, and which others were: of the model's own distribution, before temperature, penalties
//! and bias.
//!
//! Bits do not depend on company: one pass over the vocabulary in its order, in double precision.

/// One drawn token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    pub token: u32,
    pub logprob: f32,
    /// Most probable first, of equal ones the lowest id; the drawn token is there only if it belongs.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    pub fn of(logits: &[f32], token: u32, top: usize) -> Self {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| libm::exp(f64::from(*logit) - f64::from(highest))).sum();
        let log_sum = f64::from(highest) + libm::log(sum);
        let logprob = |token: u32| (f64::from(logits[token as usize]) - log_sum).max(LEAST) as f32;
        let top = best(logits, top).into_iter().map(|token| (token, logprob(token))).collect();
        Self { token, logprob: logprob(token), top }
    }
}

fn best(logits: &[f32], count: usize) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    let better = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count, better);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(better);
    tokens
}

/// What OpenAI says of a token that is as good as impossible; JSON has no infinity.
const LEAST: f64 = -9999.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_back_as_logarithms() {
        let logits: Vec<f32> = [0.1f32, 0.4, 0.1, 0.4].iter().map(|share| share.ln() + 3.0).collect();
        let found = TokenLogprobs::of(&logits, 2, 3);
        assert!((found.logprob - 0.1f32.ln()).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 3, 0]);
        assert!((found.top[0].1 - 0.4f32.ln()).abs() < 1e-6);
        assert_eq!(TokenLogprobs::of(&logits, 0, 9).top.len(), 4, "no more than there are");
        assert_eq!(TokenLogprobs::of(&[0.0, f32::NEG_INFINITY], 1, 0).logprob, -9999.0);
    }
}
