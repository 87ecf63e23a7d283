//! Draws the next token.
//!
//! The draw is a pure function of (logits, settings, seed, position): there is no generator state that would
//! have to move with a request, and a token does not depend on what else the engine was doing.

/// How one request's tokens are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    /// 0 = always the best token.
    pub temperature: f64,
    pub top_p: f64,
    /// 0 = all tokens.
    pub top_k: usize,
    pub seed: u64,
}

/// The logits hold no number to choose by: weights or memory are corrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model computed something that is not a number")]
pub struct NotANumber;

impl Sampler {
    /// The token at `position` of the answer, counted from 0. Tokens in `forbidden` cannot be drawn.
    pub fn draw(&self, logits: &mut [f32], position: u64, forbidden: &[u32]) -> Result<u32, NotANumber> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(NotANumber);
        }
        for token in forbidden {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let best = best_of(logits);
        let highest = logits[best as usize];
        if !highest.is_finite() {
            return Err(NotANumber);
        }
        if self.temperature == 0.0 {
            return Ok(best);
        }
        let weight = |token: u32| libm::exp(f64::from(logits[token as usize] - highest) / self.temperature);
        let candidates = self.candidates(logits);
        let weights: Vec<f64> = candidates.iter().map(|token| weight(*token)).collect();
        let kept = kept(&weights, self.top_p);
        let sum: f64 = weights[..kept].iter().sum();
        let mut left = uniform(self.seed, position) * sum;
        for (token, weight) in candidates.iter().zip(&weights[..kept]) {
            left -= weight;
            if left < 0.0 {
                return Ok(*token);
            }
        }
        // Rounding can leave a crumb beyond the last weight; the best token is never wrong.
        Ok(best)
    }

    /// The tokens that `top_k` admits, best first where an order is needed and by id where none is.
    fn candidates(&self, logits: &[f32]) -> Vec<u32> {
        let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
        let better = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if self.top_k > 0 && self.top_k < tokens.len() {
            tokens.select_nth_unstable_by(self.top_k, better);
            tokens.truncate(self.top_k);
            tokens.sort_unstable_by(better);
        } else if self.top_p < 1.0 {
            tokens.sort_unstable_by(better);
        }
        tokens
    }
}

/// The smallest number of leading weights that make up `top_p` of the sum; at least one.
fn kept(weights: &[f64], top_p: f64) -> usize {
    if top_p >= 1.0 {
        return weights.len();
    }
    let enough = top_p * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let found = weights.iter().position(|weight| {
        sum += weight;
        sum >= enough
    });
    found.map_or(weights.len(), |last| last + 1)
}

/// The highest logit; of equal ones the token with the lowest id.
fn best_of(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// In [0, 1), with 53 random bits.
fn uniform(seed: u64, position: u64) -> f64 {
    let mut input = [0; 16];
    input[..8].copy_from_slice(&seed.to_le_bytes());
    input[8..].copy_from_slice(&position.to_le_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(&input).as_bytes();
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampler(temperature: f64, top_p: f64, top_k: usize) -> Sampler {
        Sampler { temperature, top_p, top_k, seed: 7 }
    }

    /// How often each token comes in many draws.
    fn shares(sampler: &Sampler, logits: &[f32]) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for position in 0..DRAWS {
            counts[sampler.draw(&mut logits.to_vec(), position, &[]).unwrap() as usize] += 1.0 / DRAWS as f64;
        }
        counts
    }

    const DRAWS: u64 = 40_000;

    #[test]
    fn draws_follow_the_distribution() {
        let logits: Vec<f32> = [0.1f32, 0.2, 0.3, 0.4].iter().map(|share| share.ln()).collect();
        let close = |shares: Vec<f64>, wanted: [f64; 4]| {
            for (found, wanted) in shares.iter().zip(wanted) {
                assert!((found - wanted).abs() < 0.01, "{shares:?}");
            }
        };
        close(shares(&sampler(1.0, 1.0, 0), &logits), [0.1, 0.2, 0.3, 0.4]);
        close(shares(&sampler(1.0, 1.0, 2), &logits), [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]);
        close(shares(&sampler(1.0, 0.69, 0), &logits), [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]);
        close(shares(&sampler(0.5, 1.0, 0), &logits), [1.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0, 16.0 / 30.0]);
        close(shares(&sampler(1.0, 0.01, 0), &logits), [0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_the_best() {
        let mut logits = [1.0, 3.0, 3.0, -2.0];
        assert_eq!(sampler(0.0, 1.0, 0).draw(&mut logits, 0, &[]), Ok(1));
        assert_eq!(sampler(0.0, 1.0, 0).draw(&mut logits, 0, &[1]), Ok(2));
    }

    #[test]
    fn what_is_not_a_number_is_an_error() {
        let draw = |logits: &[f32]| sampler(1.0, 1.0, 0).draw(&mut logits.to_vec(), 0, &[0]);
        assert_eq!(draw(&[0.0, f32::NAN]), Err(NotANumber));
        assert_eq!(draw(&[0.0, f32::INFINITY]), Err(NotANumber));
        assert_eq!(draw(&[0.0, f32::NEG_INFINITY]), Err(NotANumber));
    }

    #[test]
    fn the_draw_is_what_the_contract_says() {
        let hash = blake3::hash(&[7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        let first = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap());
        let wanted = first as f64 / 2f64.powi(64);
        assert!((uniform(7, 3) - wanted).abs() < 1e-15);
    }

    proptest! {
        #[test]
        fn any_settings_draw_an_allowed_token(
            logits in prop::collection::vec(-30f32..30.0, 2..50), temperature in 0f64..2.0,
            top_p in 0.0001f64..=1.0, top_k in 0..60usize, seed: u64, position: u64,
        ) {
            let sampler = Sampler { temperature, top_p, top_k, seed };
            let token = sampler.draw(&mut logits.clone(), position, &[0]).unwrap();
            prop_assert!(token > 0 && (token as usize) < logits.len());
            prop_assert_eq!(sampler.draw(&mut logits.clone(), position, &[0]), Ok(token));
        }
    }
}
