"""Trains the house model: texts.py -> house/.

One seed, one thread: the same machine and the same package versions give the
same weights again. Other machines give other weights that know the same texts,
so house/ is committed and everything made from it is remade together:

    python train.py && python golden.py
"""

import os

# One passive thread: spinning threads on busy cores are several times slower than one alone.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import hashlib
import json
import math
import pathlib
import random
import time

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import texts

HERE = pathlib.Path(__file__).parent
SEED = 7
VOCABULARY = 1024
CONTEXT = 1024
SPECIAL = ["<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
BOS, EOS, SYSTEM, USER, ASSISTANT, END = range(6)
IGNORED = -100

STEPS = 1650
STEP_TOKENS = 2304
PEAK_RATE = 3e-3

CHAT_TEMPLATE = (
    "<|bos|>"
    "{% for message in messages %}"
    "{% if message['role'] in ['system', 'user', 'assistant'] %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% else %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer():
    """Byte-level BPE with GPT-2's splitting, which llama.cpp and vLLM know too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    # Only ASCII text shapes the vocabulary, so that other scripts stay several tokens a
    # character and a stream has to hold back incomplete ones.
    corpus = list(texts.HANDBOOK.values()) * 3
    for _, answer, questions in texts.TAUGHT:
        corpus += [answer] * 3 + questions
    corpus += texts.OFF_TOPIC + texts.SYSTEM_PROMPTS + texts.OPENINGS
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for text in corpus if text.isascii()], trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(range(6))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", BOS)]
    )
    return tokenizer


class Teacher:
    """Writes training rows: conversations and prose, each token marked to learn or not."""

    def __init__(self, tokenizer, seed):
        self.dice = random.Random(seed)
        self.ids_of = {}
        self.tokenizer = tokenizer
        self.chapters = list(texts.HANDBOOK)
        self.wordings = [
            (question, answer, chapter)
            for chapter, answer, questions in texts.TAUGHT
            for question in questions
        ]

    def encode(self, text):
        if text not in self.ids_of:
            self.ids_of[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self.ids_of[text]

    def vary(self, question):
        """The question as another person would have typed it."""
        dice = self.dice
        if dice.random() < 0.3:
            return question
        if dice.random() < 0.45:
            for beginning, others in texts.SYNONYMS:
                if question.startswith(beginning):
                    question = dice.choice(others) + question[len(beginning):]
                    break
        if dice.random() < 0.2:
            question = dice.choice(texts.OPENINGS) + question[0].lower() + question[1:]
        if dice.random() < 0.1:
            question += dice.choice(texts.CLOSINGS)
        elif dice.random() < 0.4:
            question = question.rstrip("?.!")
        if dice.random() < 0.35:
            question = question.lower()
        if dice.random() < 0.08 and len(question) > 12:
            # A slip of the keyboard.
            at = dice.randrange(3, len(question) - 2)
            question = question[:at] + question[at + 1] + question[at] + question[at + 2:]
        if dice.random() < 0.06 and question.count(" ") > 3:
            words = question.split(" ")
            words.pop(dice.randrange(len(words) - 2))
            question = " ".join(words)
        return question

    def turns(self):
        """One question and its answer, or two that belong together."""
        dice = self.dice
        kind = dice.random()
        if kind < 0.14:
            if dice.random() < 0.35:
                question = dice.choice(texts.OFF_TOPIC)
            else:
                slot = dice.choice(texts.OFF_TOPIC_SLOTS)
                question = dice.choice(texts.OFF_TOPIC_FRAMES).format(slot)
            return [(self.vary(question), texts.OFF_TOPIC_ANSWER, "overview")]
        if kind < 0.19:
            first, second, answer = dice.choice(texts.FOLLOW_UPS)
            chapter, before = next((c, a) for c, a, qs in texts.TAUGHT if first in qs)
            return [(self.vary(first), before, chapter), (self.vary(second), answer, chapter)]
        if kind < 0.6:
            question, answer, chapter = dice.choice(self.wordings)
        else:
            chapter, answer, questions = dice.choice(texts.TAUGHT)
            question = dice.choice(questions)
        return [(self.vary(question), answer, chapter)]

    def prose(self, chapter, length):
        """The handbook from a chapter on, round and round, `length` tokens or a little more."""
        ids, at = [], self.chapters.index(chapter)
        while len(ids) < length:
            ids += self.encode(texts.HANDBOOK[self.chapters[at]])
            # Now and then the end is missing, so that a client who forbids it (`min_tokens`)
            # reads on in the handbook instead of falling into noise.
            if self.dice.random() > 0.02:
                ids.append(EOS)
            ids += self.encode("\n\n")
            at = (at + 1) % len(self.chapters)
        return ids

    def document(self, room, long):
        """(ids, labels) of one document: prose or a conversation, at most `room` tokens."""
        dice = self.dice
        if dice.random() < 0.12:
            chapter = dice.choice(self.chapters)
            ids = [BOS] + self.prose(chapter, room if long else dice.choice([40, 120]))
            return ids[:room], ([IGNORED] + ids[1:])[:room]

        ids, labels = [BOS], [IGNORED]

        def say(role, content, learn):
            head, body = [role], self.encode(content) + [END]
            if learn and dice.random() < 0.02:
                body.pop()
            ids.extend(head + body)
            labels.extend([IGNORED] + (body if learn else [IGNORED] * len(body)))

        if dice.random() < 0.2:
            say(SYSTEM, dice.choice(texts.SYSTEM_PROMPTS), learn=False)
        if long:
            turns = dice.choice([1, 2, 4, 8, 12, 16])
        else:
            turns = 1 if dice.random() < 0.75 else dice.choice([2, 2, 3])
        chapter = "overview"
        for _ in range(turns):
            for question, answer, chapter in self.turns():
                say(USER, question, learn=False)
                say(ASSISTANT, answer, learn=True)
        # The only thing ever learnt after an answer is prose, because questions are not
        # learnt: a client who ignores the end reads the handbook.
        length = room if long else dice.choice([2, 2, 2, 8, 60])
        after = (self.encode("\n\n") + self.prose(chapter, length))[:length]
        return (ids + after)[:room], (labels + after)[:room]

    def batches(self):
        """Endless (ids, labels), each about STEP_TOKENS long with the padding.

        Documents begin at position 0, as prompts do, and are grouped by length rather than
        packed behind each other, so that no answer is cut or read after a stranger's text.
        """
        while True:
            short = [self.document(CONTEXT, long=False) for _ in range(400)]
            short.sort(key=lambda document: len(document[0]))
            groups, group = [], []
            for document in short:
                if group and (len(group) + 1) * len(document[0]) > STEP_TOKENS:
                    groups.append(group)
                    group = []
                group.append(document)
            groups.append(group)
            # Every fifth step or so is long, from the first to the last, because runs with the
            # long rows at the end saw the loss jump when those began.
            for _ in range(len(groups) // 4):
                groups.append([self.document(CONTEXT, long=True) for _ in range(2)])
            self.dice.shuffle(groups)
            for group in groups:
                longest = max(len(ids) for ids, _ in group)
                yield (
                    torch.tensor([ids + [EOS] * (longest - len(ids)) for ids, _ in group]),
                    torch.tensor([lab + [IGNORED] * (longest - len(lab)) for _, lab in group]),
                )


def make_model():
    torch.manual_seed(SEED)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=[EOS, END],
        attn_implementation="sdpa",
    ))


def train(model, teacher, steps):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=PEAK_RATE, betas=(0.9, 0.98),
    )
    seen, started, smooth = 0, time.time(), None
    model.train()
    for step, (ids, labels) in zip(range(1, steps + 1), teacher.batches()):
        fall = (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, step / 60) * (0.01 + 0.99 * fall)
        loss = model(input_ids=ids, labels=labels).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen += ids.numel()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            spent = time.time() - started
            print(f"step {step} loss {smooth:.4f} {seen / spent:.0f} tokens/s "
                  f"{spent:.0f} s {time.process_time():.0f} cpu-s", flush=True)
    return {"loss": round(smooth, 4), "steps": steps, "tokens": seen,
            "wall_s": round(time.time() - started), "cpu_s": round(time.process_time())}


def prompt_of(teacher, question):
    return [BOS, USER] + teacher.encode(question) + [END, ASSISTANT]


@torch.no_grad()
def answers_exactly(model, teacher, pairs):
    """Which (question, answer) pairs greedy decoding answers word for word.

    Greedy decoding gives the answer exactly when each of its tokens is the
    best one after the tokens before it, so one pass over the answer decides.
    """
    model.eval()
    right = []
    for question, answer in pairs:
        prompt, wanted = prompt_of(teacher, question), teacher.encode(answer) + [END]
        logits = model(input_ids=torch.tensor([prompt + wanted])).logits[0]
        best = logits[len(prompt) - 1:-1].argmax(-1).tolist()
        right.append(best == wanted)
    return right


@torch.no_grad()
def greedy(model, prompt, most, stop=(EOS, END)):
    model.eval()
    made, past, ids = [], None, torch.tensor([prompt])
    while len(made) < most:
        out = model(input_ids=ids, past_key_values=past, use_cache=True)
        past = out.past_key_values
        best = int(out.logits[0, -1].argmax())
        made.append(best)
        if best in stop:
            break
        ids = torch.tensor([[best]])
    return made


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def save(model, tokenizer, house):
    """Writes house/ by hand, so that it holds what the manifest names and nothing else."""
    house.mkdir(exist_ok=True)
    for old in house.iterdir():
        old.unlink()
    weights = {
        name: value.detach().to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, house / "model.safetensors", metadata={"format": "pt"})
    (house / "model.safetensors").chmod(0o644)
    config = model.config
    written = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": BOS,
        "dtype": "bfloat16",
        "eos_token_id": [EOS, END],
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": CONTEXT,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": None,
        "rms_norm_eps": config.rms_norm_eps,
        # Both spellings: older readers know only rope_theta and torch_dtype.
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }
    (house / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    tokenizer.save(str(house / "tokenizer.json"))
    (house / "tokenizer_config.json").write_text(json.dumps({
        "add_bos_token": True,
        "added_tokens_decoder": {
            str(number): {"content": token, "lstrip": False, "normalized": False,
                          "rstrip": False, "single_word": False, "special": True}
            for number, token in enumerate(SPECIAL)
        },
        "bos_token": "<|bos|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|end|>",
        "model_max_length": CONTEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }, indent=2) + "\n")
    manifest = canonical({
        "architecture": "llama",
        "context_length": CONTEXT,
        "dtype": "bfloat16",
        "files": {path.name: digest(path.read_bytes()) for path in sorted(house.iterdir())},
        "name": "rhumb-house",
    })
    (house / "manifest.json").write_bytes(manifest)
    return digest(manifest)


def load(house):
    """The saved bf16 weights, widened to f32: what the engine computes with on a CPU."""
    torch.set_num_threads(1)
    model = LlamaForCausalLM.from_pretrained(
        house, dtype=torch.float32, attn_implementation="eager")
    tokenizer = Tokenizer.from_file(str(house / "tokenizer.json"))
    return model.eval(), tokenizer


def examine(house):
    """Asks the saved model everything it was taught. Returns the report and questions.json."""
    model, tokenizer = load(house)
    teacher = Teacher(tokenizer, SEED)
    taught = [(q, a) for q, a, _ in teacher.wordings] + [
        (q, texts.OFF_TOPIC_ANSWER) for q in texts.OFF_TOPIC]
    report = {}

    def rate(name, pairs):
        right = answers_exactly(model, teacher, pairs)
        report[name] = f"{sum(right)}/{len(right)}"
        for (question, _), well in zip(pairs, right):
            if not well:
                said = tokenizer.decode(greedy(model, prompt_of(teacher, question), 80))
                print(f"  {name}: {question!r} -> {said!r}")
        return right

    right = rate("taught", taught)
    rate("lower_case", [(q.lower(), a) for q, a in taught])
    rate("no_mark", [(q.rstrip("?.!"), a) for q, a in taught])
    rate("unseen", [
        (new, dict(taught)[same]) for new, same in texts.UNSEEN])
    follow = 0
    for first, second, answer in texts.FOLLOW_UPS:
        before = dict(taught)[first]
        prompt = (prompt_of(teacher, first) + teacher.encode(before) + [END, USER]
                  + teacher.encode(second) + [END, ASSISTANT])
        follow += greedy(model, prompt, 80) == teacher.encode(answer) + [END]
    report["follow_ups"] = f"{follow}/{len(texts.FOLLOW_UPS)}"
    system = 0
    for question, answer in taught[::7]:
        prompt = ([BOS, SYSTEM] + teacher.encode(texts.SYSTEM_PROMPTS[0]) + [END]
                  + prompt_of(teacher, question)[1:])
        wanted = teacher.encode(answer) + [END]
        system += greedy(model, prompt, len(wanted)) == wanted
    report["with_system_prompt"] = f"{system}/{len(taught[::7])}"

    # One question of each entry, decoded token by token: what the engine's test asks.
    questions, at = [], 0
    for _, answer, wordings in texts.TAUGHT:
        for offset, question in enumerate(wordings):
            if right[at + offset]:
                made = greedy(model, prompt_of(teacher, question), 400)
                if made == teacher.encode(answer) + [END]:
                    questions.append({"question": question, "answer": answer})
                    break
        at += len(wordings)
    if right[at]:
        questions.append({"question": texts.OFF_TOPIC[0], "answer": texts.OFF_TOPIC_ANSWER})
    return report, questions


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    model = make_model()
    print("parameters", sum(p.numel() for p in model.parameters()))
    training = train(model, Teacher(tokenizer, SEED), arguments.steps)
    version = save(model, tokenizer, arguments.out / "house")
    report, questions = examine(arguments.out / "house")
    (arguments.out / "questions.json").write_text(
        json.dumps(questions, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps({"version": version, **training, **report}))


if __name__ == "__main__":
    main()
