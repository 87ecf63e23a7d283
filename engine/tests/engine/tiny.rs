//! Small Llamas of odd shapes with seeded random weights, written to a folder. They say nothing sensible, but
//! always the same.

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub tied: bool,
    pub dtype: Dtype,
}

/// No size is a multiple of the sixteen lanes.
pub const ODD: Shape = Shape {
    hidden: 40,
    intermediate: 50,
    layers: 2,
    heads: 6,
    kv_heads: 3,
    head_dim: 10,
    tied: false,
    dtype: Dtype::F32,
};
pub const CONTEXT: usize = 96;
/// 256 bytes, then beginning and end.
const VOCABULARY: usize = 258;

pub fn write(folder: &Path, shape: Shape) {
    let Shape { hidden, intermediate, layers, heads, kv_heads, head_dim, tied, dtype } = shape;
    let mut tensors = vec![("model.embed_tokens".to_owned(), vec![VOCABULARY, hidden])];
    for layer in 0..layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        tensors.extend([
            (name("input_layernorm"), vec![hidden]),
            (name("self_attn.q_proj"), vec![heads * head_dim, hidden]),
            (name("self_attn.k_proj"), vec![kv_heads * head_dim, hidden]),
            (name("self_attn.v_proj"), vec![kv_heads * head_dim, hidden]),
            (name("self_attn.o_proj"), vec![hidden, heads * head_dim]),
            (name("post_attention_layernorm"), vec![hidden]),
            (name("mlp.gate_proj"), vec![intermediate, hidden]),
            (name("mlp.up_proj"), vec![intermediate, hidden]),
            (name("mlp.down_proj"), vec![hidden, intermediate]),
        ]);
    }
    tensors.push(("model.norm".to_owned(), vec![hidden]));
    if !tied {
        tensors.push(("lm_head".to_owned(), vec![VOCABULARY, hidden]));
    }
    let mut state = 1u64;
    let stored: Vec<_> = tensors
        .into_iter()
        .map(|(name, shape)| (format!("{name}.weight"), numbers(&shape, dtype, &mut state), shape))
        .collect();
    let views = stored
        .iter()
        .map(|(name, bytes, shape)| (name.clone(), TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    let weights = safetensors::serialize(views, None).unwrap();
    let config = json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": tied, "eos_token_id": 257,
    });
    let tokenizer_config = json!({
        "bos_token": "<b>", "eos_token": "<e>",
        "chat_template": "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}",
    });
    for (name, bytes) in [
        ("model.safetensors", weights),
        ("config.json", serde_json::to_vec(&config).unwrap()),
        ("tokenizer.json", serde_json::to_vec(&tokenizer()).unwrap()),
        ("tokenizer_config.json", serde_json::to_vec(&tokenizer_config).unwrap()),
    ] {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    write_manifest(folder);
}

/// Names what lies in the folder now.
pub fn write_manifest(folder: &Path) {
    let mut files = BTreeMap::new();
    for name in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"] {
        files.insert(name, engine::manifest::digest(&folder.join(name)).unwrap());
    }
    let manifest = json!({
        "architecture": "llama", "context_length": CONTEXT, "dtype": "float32", "files": files, "name": "tiny",
    });
    std::fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

fn numbers(shape: &[usize], dtype: Dtype, state: &mut u64) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut next = || {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (*state >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
        // Norms around 1; matrices such that a row's product stays near 1.
        if shape.len() == 1 { 1.0 + uniform / 4.0 } else { uniform * 3.0 / (shape[1] as f32).sqrt() }
    };
    match dtype {
        Dtype::F32 => (0..count).flat_map(|_| next().to_le_bytes()).collect(),
        // Any f32 between 2⁻¹⁴ and 2¹⁶ in size, cut to ten bits, is a float16.
        Dtype::F16 => (0..count).flat_map(|_| to_f16(next()).to_le_bytes()).collect(),
        _ => (0..count).flat_map(|_| ((next().to_bits() >> 16) as u16).to_le_bytes()).collect(),
    }
}

fn to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 112;
    let magnitude = if exponent > 0 { (exponent as u32) << 10 | bits >> 13 & 0x3ff } else { 0 };
    (bits >> 16 & 0x8000 | magnitude) as u16
}

/// Byte-level, without a single merge.
fn tokenizer() -> serde_json::Value {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut strange = 0;
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..=255u8 {
        let shown = if printable(byte) {
            char::from(byte)
        } else {
            strange += 1;
            char::from_u32(255 + strange).unwrap()
        };
        vocabulary.insert(shown.to_string(), json!(byte));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(256, "<b>"), special(257, "<e>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": []},
    })
}
