//! Names the beginning of a prompt, so that requests that share it can be sent where it was computed before.
//!
//! A request grows at its end: the next turn of a conversation repeats the bytes of all turns before. So the bytes
//! of the prompt as they stand in the body are cut into blocks of fixed length, counted from where the prompt
//! begins, and each block's key covers all before it. What stands in front of the prompt (`model`, `temperature`)
//! changes no key. Keys are salted by tenant: nobody learns by the clock what another tenant asked.

use openai::Endpoint;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use types::TenantName;

/// The keys of a prompt's leading blocks, the longest beginning last; empty for one that fills no block.
pub(crate) fn keys(tenant: &TenantName, endpoint: Endpoint, body: &[u8]) -> Vec<u64> {
    let field: &[u8] = match endpoint {
        Endpoint::Chat => b"\"messages\"",
        Endpoint::Completions => b"\"prompt\"",
    };
    let prompt = value_of(body, field).unwrap_or_default();
    // Keyed by tenant, so that equal prompts of two have nothing in common. Who knows the name of another tenant and its
    // prompt might construct one with the same key, and would gain a node for its trouble. To finish a BLAKE3 after each
    // block took 40 % of the time of a request of 64 KB.
    let salt = blake3::hash(tenant.as_str().as_bytes());
    let mut hasher = SipHasher13::new_with_key(first_bytes(&salt));
    let blocks = prompt.chunks_exact(BLOCK_BYTES).take(BLOCKS_MAX);
    blocks
        .map(|block| {
            hasher.write(block);
            hasher.finish()
        })
        .collect()
}

/// From the value of a field of the outermost object to the end of the body. A text inside of a message may look
/// like the field; an escape or a deeper level gives it away in all but contrived bodies, and those only spoil their
/// own keys.
fn value_of<'a>(body: &'a [u8], field: &[u8]) -> Option<&'a [u8]> {
    let mut from = 0;
    loop {
        let name_at = from + memchr::memmem::find(&body[from..], field)?;
        let rest = body[name_at + field.len()..].trim_ascii_start();
        if let Some(value) = rest.strip_prefix(b":") {
            return Some(value.trim_ascii_start());
        }
        from = name_at + field.len();
    }
}

fn first_bytes(hash: &blake3::Hash) -> &[u8; 16] {
    hash.as_bytes().first_chunk().expect("a hash has 32")
}

/// Some 256 tokens: a shorter beginning is not worth going out of the way for.
const BLOCK_BYTES: usize = 1024;
/// What tells conversations apart stands in their first 32 KiB; the rest follows them anyway.
const BLOCKS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_of(tenant: &str, body: &str) -> Vec<u64> {
        keys(&tenant.parse().unwrap(), Endpoint::Chat, body.as_bytes())
    }

    fn chat(front: &str, turns: usize) -> String {
        let turn = |at| format!(r#"{{"role":"user","content":"{at} {}"}}"#, "word ".repeat(100));
        let turns: Vec<String> = (0..turns).map(turn).collect();
        format!(r#"{{"model":"m"{front},"messages":[{}]}}"#, turns.join(","))
    }

    #[test]
    fn a_growing_conversation_keeps_its_leading_keys() {
        let (short, long) = (keys_of("acme", &chat("", 4)), keys_of("acme", &chat("", 9)));
        assert!(short.len() >= 2 && long.len() > short.len());
        // The last block of the short one may hold the end of the body.
        let shared = short.len() - 1;
        assert_eq!(short[..shared], long[..shared]);
    }

    #[test]
    fn what_stands_in_front_of_the_prompt_changes_nothing() {
        let plain = keys_of("acme", &chat("", 4));
        assert_eq!(plain, keys_of("acme", &chat(r#","temperature":0.5,"stream":true"#, 4)));
        assert_eq!(plain, keys_of("acme", &chat("", 4).replace(r#""messages":["#, "\"messages\" :\n [")));
    }

    #[test]
    fn tenants_share_no_key_and_texts_no_more_than_their_beginning() {
        let (ours, theirs) = (keys_of("acme", &chat("", 4)), keys_of("other", &chat("", 4)));
        assert!(ours.iter().all(|key| !theirs.contains(key)));
        let changed = keys_of("acme", &chat("", 4).replacen("0 word", "9 word", 1));
        assert!(changed.iter().all(|key| !ours.contains(key)));
    }

    #[test]
    fn any_body_has_few_keys() {
        assert!(keys_of("acme", "").is_empty());
        assert!(keys_of("acme", r#"{"messages""#).is_empty());
        assert!(keys_of("acme", &chat("", 1)).is_empty(), "too short to matter");
        assert_eq!(keys_of("acme", &chat("", 1000)).len(), BLOCKS_MAX);
    }
}
