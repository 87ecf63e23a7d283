//! Prompts of a wished length. Pure.
//!
//! Every word is an everyday one with a space before it, which the house model's tokenizer, and those of large
//! models too, take for one token. So a text of so many words has so many tokens: with the house model exactly,
//! elsewhere nearly, and the usage that servers report says how nearly.

use fastrand::Rng;

/// What a prompt is made from; the text is only made when it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What the server should count, its chat template included.
    pub tokens: u64,
    /// Leading blocks. Prompts whose first ids are equal begin with the same text, and nothing else is shared.
    pub blocks: Vec<u64>,
    pub block_tokens: u64,
    /// Draws the words behind the blocks, and the blocks' own words together with their ids.
    pub seed: u64,
    /// Makes the words behind the blocks different from those of every other request.
    pub number: u64,
}

impl Prompt {
    pub fn text(&self) -> String {
        let mut left = self.tokens.saturating_sub(TEMPLATE_TOKENS).max(1);
        let mut text = String::with_capacity(usize::try_from(left).unwrap_or(0).min(1 << 20) * 6);
        for block in &self.blocks {
            let words = left.min(self.block_tokens);
            add_words(&mut text, words, &mut drawn(self.seed, *block, BLOCKS));
            left -= words;
        }
        add_words(&mut text, left, &mut drawn(self.seed, self.number, OWN_WORDS));
        text
    }
}

fn add_words(text: &mut String, words: u64, rng: &mut Rng) {
    for _ in 0..words {
        text.push(' ');
        text.push_str(WORDS[rng.usize(..WORDS.len())]);
    }
}

/// Neighbouring ids must give unrelated words, so they are spread over all bits first.
fn drawn(seed: u64, id: u64, kind: u64) -> Rng {
    let mut rng = Rng::with_seed(seed ^ kind);
    let mixed = rng.u64(..) ^ id.wrapping_mul(GOLDEN);
    Rng::with_seed(mixed)
}

/// What the house model's chat template adds to one message: measured, from 1 word to 512.
pub const TEMPLATE_TOKENS: u64 = 4;
const BLOCKS: u64 = 1;
const OWN_WORDS: u64 = 2;
/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

const WORDS: [&str; 64] = [
    "the", "and", "with", "that", "one", "does", "are", "edge", "can", "its", "for", "plan", "when", "run",
    "key", "model", "not", "first", "limit", "never", "from", "each", "you", "has", "same", "what", "work",
    "then", "every", "back", "all", "answer", "time", "once", "only", "without", "new", "last", "after",
    "name", "end", "than", "have", "another", "second", "use", "also", "wait", "about", "their", "was",
    "body", "else", "works", "until", "into", "many", "there", "return", "two", "some", "old", "own", "may",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn prompt(tokens: u64, blocks: &[u64], number: u64) -> Prompt {
        Prompt { tokens, blocks: blocks.to_vec(), block_tokens: 8, seed: 7, number }
    }

    fn words(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
    }

    #[test]
    fn a_text_has_a_word_for_each_token_that_the_template_leaves() {
        for tokens in [5, 6, 64, 512] {
            let text = prompt(tokens, &[], 1).text();
            assert_eq!(words(&text).len() as u64, tokens - TEMPLATE_TOKENS);
            assert!(text.starts_with(' '), "the first word, too, needs its space to be one token");
        }
        assert_eq!(words(&prompt(1, &[], 1).text()).len(), 1, "an empty message is refused by many servers");
        assert_eq!(words(&prompt(24, &[1, 2, 3, 4], 1).text()).len(), 20, "more blocks than tokens");
        assert_eq!(WORDS.iter().collect::<BTreeSet<_>>().len(), WORDS.len());
    }

    #[test]
    fn equal_leading_ids_share_exactly_their_text() {
        let a = prompt(44, &[1, 2, 3], 1).text();
        let b = prompt(44, &[1, 2, 9], 2).text();
        assert_eq!(words(&a)[..16], words(&b)[..16]);
        assert_ne!(words(&a)[16..24], words(&b)[16..24]);
        assert_ne!(words(&a)[24..], words(&b)[24..], "what no id covers is shared with nobody");
        let moved = prompt(44, &[2, 1], 3).text();
        assert_eq!(words(&moved)[..8], words(&a)[8..16]);
    }

    #[test]
    fn prompts_of_one_run_differ_and_come_again_with_its_seed() {
        let texts: BTreeSet<String> = (0..200).map(|number| prompt(36, &[], number).text()).collect();
        assert_eq!(texts.len(), 200);
        assert_eq!(prompt(36, &[4], 5).text(), prompt(36, &[4], 5).text());
        assert_ne!(Prompt { seed: 8, ..prompt(12, &[4], 5) }.text(), prompt(12, &[4], 5).text());
    }
}
