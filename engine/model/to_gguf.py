"""Writes the house model as GGUF in f32, for llama.cpp, and compares answers.

    python to_gguf.py OUT.gguf             convert
    python to_gguf.py OUT.gguf --compare   convert, then ask llama-cpp-python

The file is for comparing engines on the same weights. It is not committed.
"""

import argparse
import json
import pathlib

import gguf
import numpy

HERE = pathlib.Path(__file__).resolve().parent
HOUSE = HERE / "house"

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def gguf_name(name):
    if name in NAMES:
        return NAMES[name]
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}"


def interleave(weight, heads):
    """llama.cpp rotates neighbouring pairs, Hugging Face rotates the two halves of a head."""
    rows, columns = weight.shape
    half = rows // heads // 2
    return weight.reshape(heads, 2, half, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors():
    """Name and f32 values of each tensor. Read by hand, since numpy knows no bfloat16 and PyTorch is heavy."""
    file = (HOUSE / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(file[:8], "little")
    for name, tensor in json.loads(file[8:begin]).items():
        if name == "__metadata__":
            continue
        assert tensor["dtype"] == "BF16", f"{name} is {tensor['dtype']}"
        first, last = tensor["data_offsets"]
        halves = numpy.frombuffer(file[begin + first:begin + last], dtype="<u2")
        yield name, (halves.astype("<u4") << 16).view("<f4").reshape(tensor["shape"])


def convert(out):
    config = json.loads((HOUSE / "config.json").read_text())
    vocabulary = json.loads((HOUSE / "tokenizer.json").read_text())
    tokenizer = json.loads((HOUSE / "tokenizer_config.json").read_text())
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_name("rhumb-house")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)

    ids = vocabulary["model"]["vocab"]
    special = {token["content"] for token in vocabulary["added_tokens"]}
    tokens = sorted(ids, key=ids.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([
        gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in vocabulary["model"]["merges"]])
    writer.add_bos_token_id(ids[tokenizer["bos_token"]])
    writer.add_eos_token_id(ids[tokenizer["eos_token"]])
    writer.add_add_bos_token(True)
    writer.add_chat_template(tokenizer["chat_template"])

    for name, weight in tensors():
        if "q_proj" in name:
            weight = interleave(weight, config["num_attention_heads"])
        if "k_proj" in name:
            weight = interleave(weight, config["num_key_value_heads"])
        writer.add_tensor(gguf_name(name), numpy.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    count = len(gguf.GGUFReader(str(out)).tensors)
    print(f"{out}: {out.stat().st_size} bytes, {count} tensors")


def compare(out):
    from llama_cpp import Llama

    model = Llama(str(out), n_ctx=1024, n_threads=1, verbose=False)
    golden = json.loads((HERE / "golden.json").read_text())
    same = sum(
        model.tokenize(case["text"].encode(), add_bos=False, special=True) == case["ids"]
        for case in golden["tokenizer"] if not case["add_special_tokens"])
    print(f"tokenizer: {same} of {len(golden['tokenizer']) // 2} texts give the same ids")
    questions = json.loads((HERE / "questions.json").read_text())
    same = 0
    for case in questions:
        said = model.create_chat_completion(
            [{"role": "user", "content": case["question"]}], temperature=0.0, max_tokens=400,
            repeat_penalty=1.0)
        text = said["choices"][0]["message"]["content"]
        same += text == case["answer"]
        if text != case["answer"]:
            print(f"  {case['question']!r} -> {text!r}")
    print(f"answers: {same} of {len(questions)} are the same")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--compare", action="store_true")
    arguments = parser.parse_args()
    convert(arguments.out)
    if arguments.compare:
        compare(arguments.out)


if __name__ == "__main__":
    main()
