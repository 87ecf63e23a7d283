//! How probable tokens were, as the two endpoints write it.

use crate::logprobs::TokenLogprobs;
use crate::tokenizer::Tokenizer;
use openai::logprobs::{ChatLogprobs, CompletionLogprobs, Likelihood, TokenLogprob, TopLogprobs};

/// None where no token has any, as in OpenAI's last chunk.
pub fn of_chat(tokens: &[TokenLogprobs], tokenizer: &Tokenizer) -> Option<ChatLogprobs> {
    let likelihood = |token: u32, logprob: f32| {
        let bytes = tokenizer.spelling(token);
        Likelihood { token: String::from_utf8_lossy(&bytes).into_owned(), logprob, bytes }
    };
    let entry = |of: &TokenLogprobs| TokenLogprob {
        drawn: likelihood(of.token, of.logprob),
        top_logprobs: of.top.iter().map(|(token, logprob)| likelihood(*token, *logprob)).collect(),
    };
    let content = tokens.iter().map(entry).collect();
    (!tokens.is_empty()).then_some(ChatLogprobs { content, refusal: None })
}

/// The first token begins after so many characters of the answer.
pub fn of_completion(
    tokens: &[TokenLogprobs],
    tokenizer: &Tokenizer,
    mut characters: usize,
) -> Option<CompletionLogprobs> {
    let name = |token: u32| name(tokenizer.spelling(token));
    let mut all = CompletionLogprobs::default();
    for TokenLogprobs { token, logprob, top } in tokens {
        all.tokens.push(name(*token));
        all.token_logprobs.push(*logprob);
        all.text_offset.push(characters as u64);
        let mut named: Vec<(String, f32)> = Vec::new();
        for (token, logprob) in top.iter().chain([&(*token, *logprob)]) {
            let name = name(*token);
            // A name is a key, and two tokens may have the same.
            if named.iter().all(|(other, _)| *other != name) {
                named.push((name, *logprob));
            }
        }
        all.top_logprobs.push(TopLogprobs(named));
        if tokenizer.is_text(*token) {
            // Each character has one byte that continues none.
            let begins = |byte: &&u8| **byte & 0xc0 != 0x80;
            characters += tokenizer.spelling(*token).iter().filter(begins).count();
        }
    }
    (!tokens.is_empty()).then_some(all)
}

/// Half a character has no text; OpenAI names it by its bytes.
fn name(bytes: Vec<u8>) -> String {
    use std::fmt::Write;
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let mut name = "bytes:".to_owned();
        for byte in error.as_bytes() {
            write!(name, "\\x{byte:02x}").expect("memory takes every write");
        }
        name
    })
}
