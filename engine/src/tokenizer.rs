//! Text to token ids and back.

use crate::stop::Piece;
use std::collections::BTreeSet;
use std::path::Path;
use tokenizers::DecoderWrapper;

/// A Hugging Face tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// No token's text has more bytes.
    token_bytes_max: usize,
    /// Ids at or above name no token.
    ids: usize,
    context: usize,
    /// Spelled as they are written, whatever the decoder.
    added: BTreeSet<u32>,
    is_byte_level: bool,
}

/// Why there is no tokenizer.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer.json cannot be used ({reason}); copy the model again")]
pub struct TokenizerError {
    reason: String,
}

/// The tokenizer failed on a text or on ids.
#[derive(Debug, thiserror::Error)]
#[error("the tokenizer failed: {reason}")]
pub struct TokenizeError {
    reason: String,
}

impl Tokenizer {
    pub fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let failed = |error: tokenizers::Error| TokenizerError { reason: error.to_string() };
        let mut inner = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).map_err(failed)?;
        // A request is refused when it is too long, never cut or filled up in silence.
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        let vocabulary = inner.get_vocab(true);
        let token_bytes_max = vocabulary.keys().map(String::len).max().unwrap_or(0);
        let ids = vocabulary.values().max().map_or(0, |id| *id as usize + 1);
        // Byte-level tokens say all by themselves; others lose a leading space without their neighbours.
        let is_byte_level = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        let context = if is_byte_level { 0 } else { CONTEXT };
        let added = inner.get_added_tokens_decoder().keys().copied().collect();
        Ok(Self { inner, token_bytes_max, ids, context, added, is_byte_level })
    }

    /// A special token that is spelled out in a text becomes that token, as in Hugging Face and vLLM: a user's message
    /// can end its own turn and begin another. Roles in a prompt are form, and no border between who may say what.
    ///
    /// `special` adds what the tokenizer puts around a text of its own accord, such as a first token.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizeError> {
        let encoding = self.inner.encode_fast(text, special);
        Ok(encoding.map_err(|error| TokenizeError { reason: error.to_string() })?.get_ids().to_vec())
    }

    /// Special tokens have no text here.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizeError> {
        self.inner.decode(ids, true).map_err(|error| TokenizeError { reason: error.to_string() })
    }

    /// So many tokens a text has at least. Costs nothing, unlike encoding it.
    pub fn tokens_min(&self, text: &str) -> usize {
        text.len() / self.token_bytes_max.max(1)
    }

    /// The bytes that one token stands for, which need not be whole characters. Unlike [`Tokenizer::decode`], special
    /// tokens are spelled out.
    pub fn spelling(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        if self.added.contains(&id) {
            return token.into_bytes();
        }
        if self.is_byte_level {
            let byte = |character| byte_of(character).map_or_else(|| vec![b'?'], |byte| vec![byte]);
            return token.chars().flat_map(byte).collect();
        }
        // SentencePiece writes a byte as <0xE2>, and a space as U+2581.
        let byte =
            token.strip_prefix("<0x").and_then(|rest| u8::from_str_radix(rest.strip_suffix('>')?, 16).ok());
        byte.map_or_else(|| token.replace('\u{2581}', " ").into_bytes(), |byte| vec![byte])
    }

    /// False for tokens that have no text in an answer.
    pub fn is_text(&self, id: u32) -> bool {
        !self.added.contains(&id)
    }

    pub fn knows(&self, id: u32) -> bool {
        (id as usize) < self.ids
    }
}

/// Turns ids into text one by one and keeps back what is not a whole character yet.
#[derive(Debug)]
pub struct Detokenizer {
    /// Ids whose text is out already, for the sake of the next ones; then those whose text is not.
    window: Vec<u32>,
    released: usize,
}

impl Detokenizer {
    pub fn after(prompt: &[u32], tokenizer: &Tokenizer) -> Self {
        let window = prompt[prompt.len().saturating_sub(tokenizer.context)..].to_vec();
        Self { released: window.len(), window }
    }

    /// Nothing is kept back.
    pub fn is_between_characters(&self) -> bool {
        self.window.len() == self.released
    }

    /// The ids and the text that can go out with this one, if there is any text.
    pub fn push(&mut self, id: u32, tokenizer: &Tokenizer) -> Result<Option<Piece>, TokenizeError> {
        self.window.push(id);
        let text = self.unreleased(tokenizer)?;
        let whole = !text.is_empty() && !text.ends_with(char::REPLACEMENT_CHARACTER);
        if whole || self.window.len() - self.released >= HELD_MAX {
            return Ok(Some(self.release(text, tokenizer)));
        }
        Ok(None)
    }

    /// The end: what is not whole now never will be.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<Piece, TokenizeError> {
        let text = self.unreleased(tokenizer)?;
        Ok(self.release(text, tokenizer))
    }

    fn unreleased(&self, tokenizer: &Tokenizer) -> Result<String, TokenizeError> {
        let before = tokenizer.decode(&self.window[..self.released])?;
        let mut all = tokenizer.decode(&self.window)?;
        let shared = all.char_indices().zip(before.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
        all.drain(..shared.unwrap_or(before.len().min(all.len())));
        Ok(all)
    }

    fn release(&mut self, text: String, tokenizer: &Tokenizer) -> Piece {
        let ids = self.window[self.released..].to_vec();
        self.window.drain(..self.window.len().saturating_sub(tokenizer.context));
        self.released = self.window.len();
        Piece { ids, text, ..Piece::default() }
    }
}

/// The byte that a byte-level vocabulary writes as this character: printable ones as themselves, the others in order
/// from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    let is_itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(character) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|byte| is_itself(*byte)),
        code => (0..=255u8).filter(|byte| !is_itself(*byte)).nth(usize::try_from(code - 0x100).ok()?),
    }
}

/// Enough neighbours for any decoder that joins words.
const CONTEXT: usize = 6;
/// A character has four bytes at most, so a run of so many unfinished tokens is noise, not text.
const HELD_MAX: usize = 16;
