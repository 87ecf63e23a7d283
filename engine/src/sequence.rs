//! One answer in the making: which tokens came, what text is out, when it ends.

use crate::sample::{NotANumber, Sampler};
use crate::stop::{Piece, Release, StopStrings};
use crate::tokenizer::{Detokenizer, TokenizeError, Tokenizer};
use openai::FinishReason;

/// What is asked of the engine, checked against the model.
#[derive(Debug)]
pub struct Task {
    /// At least one token, and room for `max_tokens` more in the context.
    pub prompt: Vec<u32>,
    pub sampler: Sampler,
    pub stops: Vec<String>,
    pub min_tokens: usize,
    pub max_tokens: usize,
    pub ignore_eos: bool,
}

#[derive(Debug)]
pub struct Sequence {
    /// The prompt, then what was generated.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    sampler: Sampler,
    min_tokens: usize,
    max_tokens: usize,
    ignore_eos: bool,
    detokenizer: Detokenizer,
    stops: StopStrings,
}

/// What one more token leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// This may go out now; perhaps nothing.
    Going(Piece),
    Ended(Piece, FinishReason),
}

/// Why no token could be added.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    Model(#[from] NotANumber),
    #[error(transparent)]
    Tokenizer(#[from] TokenizeError),
}

impl Sequence {
    pub fn new(task: Task, tokenizer: &Tokenizer) -> Self {
        let Task { prompt, sampler, stops, min_tokens, max_tokens, ignore_eos } = task;
        let detokenizer = Detokenizer::after(&prompt, tokenizer);
        let (prompt_tokens, stops) = (prompt.len(), StopStrings::new(stops));
        Self {
            tokens: prompt,
            prompt_tokens,
            sampler,
            min_tokens,
            max_tokens,
            ignore_eos,
            detokenizer,
            stops,
        }
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Draws the next token from these logits.
    pub fn draw(
        &mut self,
        logits: &mut [f32],
        end_tokens: &[u32],
        tokenizer: &Tokenizer,
    ) -> Result<Progress, Broken> {
        let position = self.generated();
        let forbidden = if position < self.min_tokens { end_tokens } else { &[] };
        let token = self.sampler.draw(logits, position as u64, forbidden)?;
        self.tokens.push(token);
        if end_tokens.contains(&token) && !self.ignore_eos {
            let mut last = self.rest(tokenizer)?;
            last.ids.push(token);
            return Ok(Progress::Ended(last, FinishReason::Stop));
        }
        let mut out = Piece::default();
        if let Some(piece) = self.detokenizer.push(token, tokenizer)? {
            match self.release(piece) {
                Release::Stop(last) => return Ok(Progress::Ended(last, FinishReason::Stop)),
                Release::Go(piece) => out = piece,
            }
        }
        if self.generated() < self.max_tokens {
            return Ok(Progress::Going(out));
        }
        Ok(Progress::Ended(out.followed_by(self.rest(tokenizer)?), FinishReason::Length))
    }

    /// Text of the first `min_tokens` goes out as it is: a stop string that begins there ends nothing.
    fn release(&mut self, piece: Piece) -> Release {
        if self.generated() <= self.min_tokens { Release::Go(piece) } else { self.stops.push(piece) }
    }

    /// Everything that was held back.
    fn rest(&mut self, tokenizer: &Tokenizer) -> Result<Piece, TokenizeError> {
        let unfinished = self.detokenizer.finish(tokenizer)?;
        Ok(match self.release(unfinished) {
            Release::Stop(last) => last,
            Release::Go(piece) => piece.followed_by(self.stops.flush()),
        })
    }
}
