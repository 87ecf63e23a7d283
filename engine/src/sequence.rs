//! One answer in the making: which tokens came, what text is out, when it ends.

use crate::logprobs::TokenLogprobs;
use crate::penalty::Penalties;
use crate::sample::{NotANumber, Sampler};
use crate::stop::{Piece, Release, StopStrings};
use crate::tokenizer::{Detokenizer, TokenizeError, Tokenizer};
use openai::FinishReason;
use std::collections::VecDeque;

/// What is asked of the engine, checked against the model.
#[derive(Debug)]
pub struct Task {
    /// At least one token, and room for `max_tokens` more in the context.
    pub prompt: Vec<u32>,
    pub sampler: Sampler,
    pub penalties: Penalties,
    pub stops: Vec<String>,
    pub min_tokens: usize,
    pub max_tokens: usize,
    pub ignore_eos: bool,
    /// Report how probable each token was, and so many of the most probable beside it.
    pub logprobs: Option<usize>,
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
    penalties: Penalties,
    top_logprobs: Option<usize>,
    /// Of the tokens that were drawn here and are not out.
    logprobs: VecDeque<TokenLogprobs>,
    /// Tokens of the answer that were released before it moved here, and the characters of their text.
    resumed: usize,
    resumed_characters: usize,
}

/// What one more token leads to.
#[derive(Debug, PartialEq)]
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

/// Tokens after which this answer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NotResumable {
    #[error("the answer has ended at token {position}")]
    Ended { position: usize },
    #[error("no event ends at token {position}: it is in the middle of a character")]
    MidCharacter { position: usize },
    #[error(transparent)]
    Tokenizer(#[from] TokenizeError),
}

impl Sequence {
    pub fn new(task: Task, tokenizer: &Tokenizer) -> Self {
        let Task { prompt, sampler, penalties, stops, min_tokens, max_tokens, ignore_eos, logprobs } = task;
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
            penalties,
            top_logprobs: logprobs,
            logprobs: VecDeque::new(),
            resumed: 0,
            resumed_characters: 0,
        }
    }

    /// Goes on after tokens that were released elsewhere: takes them through the same steps as if it had drawn them
    /// itself, and lets nothing out. What an undisturbed answer would hold back at this point it holds as well, though
    /// that is out, because later tokens showed it to be harmless; those tokens come again, and show it again.
    pub fn resume(
        mut self,
        token_ids: &[u32],
        end_tokens: &[u32],
        tokenizer: &Tokenizer,
    ) -> Result<Self, NotResumable> {
        for token in token_ids {
            match self.advance(*token, end_tokens, tokenizer)? {
                Progress::Going(piece) => self.resumed_characters += piece.text.chars().count(),
                Progress::Ended(..) => return Err(NotResumable::Ended { position: self.generated() }),
            }
        }
        if !self.detokenizer.is_between_characters() {
            return Err(NotResumable::MidCharacter { position: self.generated() });
        }
        self.resumed_characters += self.stops.all_gone().chars().count();
        self.resumed = token_ids.len();
        Ok(self)
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_tokens]
    }

    /// What was released before the answer came here.
    pub fn resumed(&self) -> &[u32] {
        &self.tokens[self.prompt_tokens..][..self.resumed]
    }

    pub fn resumed_characters(&self) -> usize {
        self.resumed_characters
    }

    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Tokens that were generated here.
    pub fn drawn(&self) -> usize {
        self.generated() - self.resumed
    }

    /// Tokens that may still come.
    pub fn left(&self) -> usize {
        self.max_tokens - self.generated()
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
        let own = self.top_logprobs.map(|top| (top, logits.to_vec()));
        self.penalties.apply(logits);
        let token = self.sampler.draw(logits, position as u64, forbidden)?;
        if let Some((top, logits)) = own
            && !self.ends_with(token, end_tokens)
        {
            self.logprobs.push_back(TokenLogprobs::of(&logits, token, top));
        }
        let mut progress = self.advance(token, end_tokens, tokenizer)?;
        let (Progress::Going(piece) | Progress::Ended(piece, _)) = &mut progress;
        let count = piece.ids.len().min(self.logprobs.len());
        piece.logprobs = self.logprobs.drain(..count).collect();
        Ok(progress)
    }

    /// Adds the next token, wherever it was drawn.
    fn advance(
        &mut self,
        token: u32,
        end_tokens: &[u32],
        tokenizer: &Tokenizer,
    ) -> Result<Progress, TokenizeError> {
        self.tokens.push(token);
        self.penalties.count(token);
        if self.ends_with(token, end_tokens) {
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

    fn ends_with(&self, token: u32, end_tokens: &[u32]) -> bool {
        end_tokens.contains(&token) && !self.ignore_eos
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
