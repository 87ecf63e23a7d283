//! Parity with Hugging Face transformers: `engine/model/golden.py` says what each number is.

use crate::house;
use engine::backend::cpu::Isa;
use engine::model::{Model, Part};
use engine::template::ChatTemplate;
use engine::tokenizer::{Detokenizer, Tokenizer};
use openai::Message;
use serde_json::Value;

/// Two ways to add up the same f32 numbers differ by less.
const LOGIT_TOLERANCE: f32 = 1e-4;
/// Closer logits than these may come in either order.
const CLOSE: f64 = 1e-3;

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn pairs(value: &Value) -> Vec<Vec<(u32, f64)>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Continues a prompt greedily, whatever the model says about ends.
fn greedy(model: &Model, prompt: &[u32], steps: usize) -> Vec<u32> {
    let total = prompt.len() + steps;
    let blocks: Vec<u32> = (0..total.div_ceil(16) as u32).rev().collect();
    let mut cache = model.cache(blocks.len());
    let mut tokens = prompt.to_vec();
    let mut from = 0;
    while tokens.len() < total {
        let logits = model
            .forward(&mut cache, &[Part { tokens: &tokens[from..], from, blocks: &blocks, logits: true }]);
        from = tokens.len();
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)));
        tokens.push(best.unwrap() as u32);
    }
    tokens.split_off(prompt.len())
}

#[test]
fn logits_at_every_position_are_hugging_faces() {
    let golden = house::json("golden.json");
    let model = house::load(&house::folder(), 1, Isa::best_here());
    let mut worst = 0f32;
    for prompt in golden["prompts"].as_array().unwrap() {
        let logits = house::logits(&model, &ids(&prompt["ids"]), 1);
        for (logits, top) in logits.iter().zip(pairs(&prompt["top5"])) {
            for (id, wanted) in top {
                worst = worst.max((logits[id as usize] - wanted as f32).abs());
            }
        }
        let last: Vec<f32> = serde_json::from_value(prompt["last_logits"].clone()).unwrap();
        for (found, wanted) in logits.last().unwrap().iter().zip(last) {
            worst = worst.max((found - wanted).abs());
        }
    }
    assert!(worst <= LOGIT_TOLERANCE, "largest difference: {worst:e}");
}

#[test]
fn greedy_tokens_are_hugging_faces() {
    let golden = house::json("golden.json");
    let model = house::load(&house::folder(), 1, Isa::best_here());
    for prompt in golden["prompts"].as_array().unwrap() {
        let (name, wanted, top2) =
            (&prompt["name"], ids(&prompt["greedy_ids"]), pairs(&prompt["greedy_top2"]));
        let found = greedy(&model, &ids(&prompt["ids"]), wanted.len());
        let same = found.iter().zip(&wanted).take_while(|(found, wanted)| found == wanted).count();
        if same < wanted.len() {
            let gap = top2[same][0].1 - top2[same][1].1;
            assert!(gap < CLOSE, "{name} differs at step {same}, where the gap is {gap}");
        }
    }
    let long = &golden["long"];
    let prompt = golden["prompts"].as_array().unwrap().iter().find(|prompt| prompt["name"] == long["prompt"]);
    let wanted = ids(&long["greedy_ids"]);
    let sure = long["first_close_step"].as_u64().map_or(wanted.len(), |step| step as usize);
    let found = greedy(&model, &ids(&prompt.unwrap()["ids"]), sure);
    assert_eq!(found, wanted[..sure]);
}

#[test]
fn texts_become_the_same_tokens_and_back() {
    let golden = house::json("golden.json");
    let tokenizer = Tokenizer::read(&house::folder()).unwrap();
    for case in golden["tokenizer"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let found = tokenizer.encode(text, case["add_special_tokens"].as_bool().unwrap()).unwrap();
        assert_eq!(found, ids(&case["ids"]), "{text:?}");
        assert!(tokenizer.tokens_min(text) <= found.len(), "{text:?}");
        let whole = case["decoded_plain"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&found).unwrap(), whole);
        // Token by token the same text comes out, and never half a character.
        let mut detokenizer = Detokenizer::after(&[0], &tokenizer);
        let mut pieces = Vec::new();
        for id in &found {
            pieces.extend(detokenizer.push(*id, &tokenizer).unwrap());
        }
        if !text.contains('\u{fffd}') {
            assert!(pieces.iter().all(|piece| !piece.text.contains('\u{fffd}')), "{pieces:?}");
        }
        pieces.push(detokenizer.finish(&tokenizer).unwrap());
        let all = pieces.into_iter().reduce(engine::stop::Piece::followed_by).unwrap();
        assert_eq!((all.text.as_str(), all.ids), (whole, found));
    }
}

#[test]
fn messages_become_the_same_prompt() {
    let golden = house::json("golden.json");
    let tokenizer = Tokenizer::read(&house::folder()).unwrap();
    let manifest = engine::manifest::read(&house::folder()).unwrap();
    let template = ChatTemplate::read(&house::folder(), &manifest).unwrap();
    let render = |case: &Value, generation: bool| {
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        template.render(&messages, generation)
    };
    for case in golden["template"].as_array().unwrap() {
        let text = render(case, case["add_generation_prompt"].as_bool().unwrap()).unwrap();
        assert_eq!(text, case["text"].as_str().unwrap());
        assert_eq!(tokenizer.encode(&text, false).unwrap(), ids(&case["ids"]));
    }
    for case in golden["template_errors"].as_array().unwrap() {
        let found = render(case, true).unwrap_err().to_string();
        assert!(found.ends_with(case["error"].as_str().unwrap()), "{found}");
    }
}
