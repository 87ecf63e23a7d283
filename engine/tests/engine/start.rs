//! Damaged and foreign models are refused before anything is served, with words that say what to do.

use crate::{house, tiny};
use engine::{Config, StartError};
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use tempfile::TempDir;

fn model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path(), tiny::ODD);
    folder
}

fn config(folder: &Path) -> Config {
    house::config(folder.to_owned())
}

/// The whole chain of causes, as a log shows it.
fn refusal(config: &Config) -> String {
    let error = engine::start::load(config).unwrap_err();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_good_model_loads_and_knows_its_version() {
    let folder = model();
    let version = engine::manifest::read(folder.path()).unwrap().version();
    let loaded = engine::start::load(&Config { version: Some(version), ..config(folder.path()) }).unwrap();
    assert_eq!((loaded.version, loaded.context_length), (version, tiny::CONTEXT));
    let house = engine::manifest::read(&house::folder()).unwrap();
    assert_eq!(house.version().to_string(), house::json("golden.json")["model_version"].as_str().unwrap());
    let expected = Config { version: Some(house.version()), ..config(folder.path()) };
    let text = refusal(&expected);
    assert!(text.contains(&version.to_string()) && text.contains(&house.version().to_string()), "{text}");
}

#[test]
fn a_changed_bit_and_a_missing_file_are_found() {
    let folder = model();
    let weights = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let text = refusal(&config(folder.path()));
    assert!(text.contains("model.safetensors is damaged") && text.matches("sha256:").count() == 2, "{text}");
    fs::remove_file(&weights).unwrap();
    let text = refusal(&config(folder.path()));
    assert!(text.contains("model.safetensors is missing; copy the model again"), "{text}");
    fs::remove_file(folder.path().join("manifest.json")).unwrap();
    let text = refusal(&config(folder.path()));
    assert!(text.contains("there is no") && text.contains("manifest.json"), "{text}");
}

#[test]
fn files_that_fit_their_digest_and_not_each_other_are_refused() {
    type Damage = fn(&Path);
    let damages: [(Damage, &str); 7] = [
        (
            |folder| fs::write(folder.join("model.safetensors"), b"not safetensors").unwrap(),
            "not a safetensors file",
        ),
        (
            |folder| edit(&folder.join("config.json"), "\"hidden_size\":40", "\"hidden_size\":48"),
            "model.embed_tokens.weight is [258, 40] where config.json asks for [258, 48]",
        ),
        (
            |folder| edit(&folder.join("config.json"), "\"num_hidden_layers\":2", "\"num_hidden_layers\":3"),
            "model.layers.2.input_layernorm.weight is missing",
        ),
        (|folder| edit(&folder.join("config.json"), "\"llama\"", "\"gpt2\""), "model_type is gpt2"),
        (
            |folder| edit(&folder.join("config.json"), "96", "64"),
            "promises a context of 96 tokens, but the model ends at 64",
        ),
        (
            |folder| edit(&folder.join("tokenizer.json"), "\"BPE\"", "\"Strange\""),
            "tokenizer.json cannot be used",
        ),
        (|folder| edit(&folder.join("tokenizer_config.json"), "{% endfor %}", ""), "not valid Jinja"),
    ];
    for (damage, wanted) in damages {
        let folder = model();
        damage(folder.path());
        tiny::write_manifest(folder.path());
        let text = refusal(&config(folder.path()));
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn a_file_outside_of_the_manifest_changes_nothing() {
    let folder = model();
    fs::write(folder.path().join("chat_template.jinja"), "{% broken").unwrap();
    engine::start::load(&config(folder.path())).unwrap();
    let manifest = folder.path().join("manifest.json");
    edit(&manifest, "\"tokenizer_config.json\"", "\"other.json\"");
    let text = refusal(&config(folder.path()));
    assert!(text.contains("the manifest does not list tokenizer_config.json"), "{text}");
}

#[test]
fn foreign_kinds_and_impossible_settings_are_refused() {
    let folder = model();
    let settings = [
        (Config { kv_tokens: 95, ..config(folder.path()) }, "raise kv_tokens to 96"),
        (Config { slots: 0, ..config(folder.path()) }, "slots must be at least 1"),
        (Config { slots: 4097, ..config(folder.path()) }, "slots must be at most 4096"),
        (Config { slots: usize::MAX, ..config(folder.path()) }, "slots must be at most 4096"),
        (Config { queue_max: usize::MAX, ..config(folder.path()) }, "queue_max must be at most 65536"),
        (Config { threads: NonZeroUsize::MAX, ..config(folder.path()) }, "threads must be at most 1024"),
        (Config { kv_tokens: 100_000_000_000_000, ..config(folder.path()) }, "lower kv_tokens"),
        (Config { kv_tokens: usize::MAX, ..config(folder.path()) }, "lower kv_tokens"),
        (
            Config { prefill_chunk: usize::MAX, ..config(folder.path()) },
            "prefill_chunk must be at most 65536",
        ),
        (Config { prefill_chunk: 0, ..config(folder.path()) }, "prefill_chunk must be at least 1"),
    ];
    for (config, wanted) in settings {
        let text = refusal(&config);
        assert!(text.contains(wanted), "{text}");
    }
    for (from, to, wanted) in [
        ("\"llama\"", "\"mamba\"", "the architecture mamba is not supported"),
        ("\"float32\"", "\"int8\"", "the dtype int8 is not supported"),
    ] {
        let folder = model();
        edit(&folder.path().join("manifest.json"), from, to);
        let text = refusal(&config(folder.path()));
        assert!(text.contains(wanted), "{text}");
    }
}

#[tokio::test]
async fn an_engine_that_is_told_to_stop_while_it_loads_stops() {
    let shutdown = tokio_util::sync::CancellationToken::new();
    shutdown.cancel();
    engine::run(house::config(house::folder()), shutdown, |_| unreachable!("nobody waits for it"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_busy_address_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let config = Config { listen: address, ..house::config(house::folder()) };
    let error = engine::run(config, Default::default(), |_| unreachable!()).await.unwrap_err();
    assert!(matches!(&error, engine::RunError::Start(StartError::AddressBusy { .. })), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
