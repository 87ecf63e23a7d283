"""Writes golden.json: what Hugging Face transformers computes on the house model.

The bf16 weights are widened to f32 and everything is computed in f32, with
eager attention on one thread. The engine's tests hold |difference of logits|
<= 1e-4 and equal greedy ids, except from a step on whose two best logits are
closer than 1e-3.

{
  "model_version": "sha256:…",      digest of house/manifest.json
  "made_with": {"torch": …, "transformers": …, "tokenizers": …},
  "prompts": [{
    "name": …,
    "kind": "chat" | "raw",
    "messages": [{"role", "content"}, …],   chat only
    "text": …,                      the rendered prompt, beginning with <|bos|> in both kinds
    "ids": [n],                     prompt ids
    "top5": [n][5] of [id, logit],  for every prompt position, best first
    "last_logits": [1024],          f32 at the last prompt position, by token id
    "greedy_ids": [48],             after the prompt; no token ends it (ignore_eos)
    "greedy_top2": [48][2] of [id, logit]   best and second best at each of these steps
  }, …],
  "long": {"prompt": <name of a prompt>, "greedy_ids": [600], "min_gap": …},
                                    ignore_eos far beyond the short answers; ids may differ
                                    after the first step whose gap is below 1e-3, which is
                                    "first_close_step" (null: none)
  "tokenizer": [{"text", "add_special_tokens", "ids", "decoded", "decoded_plain"}, …],
                                    decoded keeps special tokens, decoded_plain skips them
  "template": [{"messages", "add_generation_prompt", "text", "ids"}, …],
                                    ids of the text, which already begins with <|bos|>
  "template_errors": [{"messages": …, "error": …}]   must be refused
}

Logits are written with nine significant digits, which give the same f32 back.
"""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jinja2
import tokenizers
import torch
import transformers
from transformers import AutoTokenizer

import texts
import train

HOUSE = train.HERE / "house"
STEPS = 48
LONG_STEPS = 600


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


EDGE = next(answer for _, answer, questions in texts.TAUGHT if "What is an edge?" in questions)
LONG_CHAT = [system(texts.SYSTEM_PROMPTS[1])]
for wanted in ["What is Rhumb?", "How do quotas work?", "How does routing work?",
               "What is a breaker?", "How do I start the sandbox?", "What is a drain?"]:
    LONG_CHAT += [user(wanted), assistant(next(
        answer for _, answer, questions in texts.TAUGHT if wanted in questions))]
LONG_CHAT.append(user("What happens when a region fails?"))

# Near the end of the context, where a wrong rotation shows first.
VERY_LONG_CHAT = [user("Tell me about Rhumb.")]
for chapter in ["edge", "attempts", "streams", "routing", "health", "quotas"]:
    VERY_LONG_CHAT += [assistant(texts.HANDBOOK[chapter]), user("Tell me more about Rhumb.")]
VERY_LONG_CHAT[-1] = user("How do I start the sandbox?")

PROMPTS = [
    ("short", "chat", [user("What is Rhumb?")]),
    ("system", "chat", [system(texts.SYSTEM_PROMPTS[0]), user("How do I drain a region?")]),
    ("follow_up", "chat", [user("What is an edge?"), assistant(EDGE),
                           user("How many times does it retry?")]),
    ("multi_byte", "chat", [user("Can you write text beyond ASCII? Größe, 日本語, 🧭🏽, naïve")]),
    ("multi_byte_answer", "chat", [user("Can you write non-ASCII text?")]),
    ("long", "chat", LONG_CHAT),
    ("very_long", "chat", VERY_LONG_CHAT),
    ("raw", "raw", "Routing is a pure decision. Hard filters come"),
    ("raw_unknown", "raw", "Zanzibar xylophones 12345 \u00b5s;\n\n\tfn main() {}"),
]

TOKENIZER_TEXTS = [
    "", " ", "a", "Hello", " Hello", "Hello, world!", "What is Rhumb?", "  two  spaces  ",
    "tabs\tand\nnewlines\r\n\n", "don't we'll I'm they've it's he'd you're", "DON'T",
    "1234567890 12,345.67", "snake_case camelCase kebab-case", "São Paulo, Kraków, 東京 and 🧭",
    "e\u0301 \u00e9", "👩‍👩‍👧‍👦 family", "\u00a0no-break\u00a0space", "\u200bzero width", "Привет, мир",
    "مرحبا بالعالم", "\u0000\u0001\u007f", "end of line\n", "{\"json\": [1, 2.5, null]}",
    "<|user|>inside<|end|>", "<|unknown|>", "<|end", "\ufffd", "ſ ﬁ Ⅷ ٣",
    texts.HANDBOOK["overview"],
]

TEMPLATE_CASES = [
    ([user("Hello")], True),
    ([user("Hello")], False),
    ([system("Be brief and polite."), user("What is Rhumb?")], True),
    ([user("What is an edge?"), assistant(EDGE), user("Thank you.")], True),
    ([user("  kept as it is \n")], True),
    ([user("")], True),
    ([user("{{ not_a_template }} {% raw %}")], True),
    ([user("東京 🧭")], True),
    ([assistant("The assistant spoke first.")], False),
]

TEMPLATE_ERRORS = [
    [{"role": "tool", "content": "42"}],
    [user("Hello"), {"role": "developer", "content": "No."}],
    [{"role": "", "content": "Nobody."}],
]


def rounded(value):
    """The shortest of at most nine digits that is the same f32 again."""
    value = float(value)
    for digits in (7, 8, 9):
        short = float(f"{value:.{digits}g}")
        if torch.tensor(short, dtype=torch.float32).item() == value:
            return short
    raise AssertionError(value)


def top(logits, count):
    values, ids = logits.topk(count)
    return [[int(i), rounded(v)] for i, v in zip(ids, values)]


@torch.no_grad()
def follow(model, prompt, steps):
    """Greedy ids and the two best at each step, with a cache as in serving."""
    out = model(input_ids=torch.tensor([prompt]), use_cache=True)
    prompt_logits, made, best_two = out.logits[0], [], []
    last = prompt_logits[-1]
    for step in range(steps):
        best_two.append(top(last, 2))
        made.append(best_two[-1][0][0])
        if step + 1 < steps:
            out = model(input_ids=torch.tensor([[made[-1]]]),
                        past_key_values=out.past_key_values, use_cache=True)
            last = out.logits[0, -1]
            assert torch.isfinite(last).all()
    return prompt_logits, made, best_two


def main():
    model, raw = train.load(HOUSE)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    # The files of house/ as any user of transformers would load them.
    tokenizer = AutoTokenizer.from_pretrained(HOUSE)

    def render(messages, generation):
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generation)
        return text, raw.encode(text, add_special_tokens=False).ids

    golden = {
        "model_version": train.digest((HOUSE / "manifest.json").read_bytes()),
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__,
                      "tokenizers": tokenizers.__version__},
        "prompts": [], "tokenizer": [], "template": [], "template_errors": [],
    }
    for name, kind, content in PROMPTS:
        entry = {"name": name, "kind": kind}
        if kind == "chat":
            entry["messages"] = content
            entry["text"], ids = render(content, True)
        else:
            entry["text"] = "<|bos|>" + content
            ids = raw.encode(content, add_special_tokens=True).ids
        assert ids == raw.encode(entry["text"], add_special_tokens=False).ids
        logits, made, best_two = follow(model, ids, STEPS)
        golden["prompts"].append({
            **entry, "ids": ids, "top5": [top(row, 5) for row in logits],
            "last_logits": [rounded(v) for v in logits[-1]],
            "greedy_ids": made, "greedy_top2": best_two,
        })
        gap = min(a[1] - b[1] for a, b in best_two)
        print(f"{name}: {len(ids)} ids, least gap {gap:.4f}, {raw.decode(made)!r}")

    ids = golden["prompts"][0]["ids"]
    _, made, best_two = follow(model, ids, LONG_STEPS)
    gaps = [a[1] - b[1] for a, b in best_two]
    golden["long"] = {
        "prompt": golden["prompts"][0]["name"], "greedy_ids": made, "min_gap": round(min(gaps), 6),
        "first_close_step": next((at for at, gap in enumerate(gaps) if gap < 1e-3), None),
    }
    print(f"long: least gap {min(gaps):.4f}\n{raw.decode(made)}")

    for text in TOKENIZER_TEXTS:
        for special in (True, False):
            ids = raw.encode(text, add_special_tokens=special).ids
            assert ids == tokenizer(text, add_special_tokens=special).input_ids, text
            golden["tokenizer"].append({
                "text": text, "add_special_tokens": special, "ids": ids,
                "decoded": raw.decode(ids, skip_special_tokens=False),
                "decoded_plain": raw.decode(ids, skip_special_tokens=True),
            })
    for messages, generation in TEMPLATE_CASES:
        text, ids = render(messages, generation)
        golden["template"].append({"messages": messages, "add_generation_prompt": generation,
                                   "text": text, "ids": ids})
    for messages in TEMPLATE_ERRORS:
        try:
            render(messages, True)
        except jinja2.TemplateError as error:
            golden["template_errors"].append({"messages": messages, "error": str(error)})
        else:
            raise AssertionError(f"accepted {messages}")

    # The chat template must read the same to a plain Jinja without transformers' additions.
    plain = jinja2.Environment().from_string(train.CHAT_TEMPLATE)
    for case in golden["template"]:
        assert case["text"] == plain.render(
            messages=case["messages"], add_generation_prompt=case["add_generation_prompt"])

    path = train.HERE / "golden.json"
    path.write_text(json.dumps(golden, separators=(",", ":"), ensure_ascii=False) + "\n")
    print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
