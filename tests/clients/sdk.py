"""The official Python SDK. Each case has a twin of the same name in `sdk.mjs`."""

import os
import re
import signal
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openai
from cases import case, equal, raises, run_cases
from openai import OpenAI
from world import World, by_tls, eventually

WORLD = World(os.environ["RHUMB_CLIENTS_WORLD"])
GATEWAY = os.environ["RHUMB_CLIENTS_GATEWAY"]
README = Path(__file__).resolve().parents[2] / "README.md"


class Sent:
    """What the SDK put on the wire, request by request."""

    def __init__(self):
        self.at = []
        self.retry_counts = []
        self.answered = threading.Event()

    def request(self, request):
        self.at.append(time.monotonic())
        self.retry_counts.append(request.headers.get("x-stainless-retry-count"))

    def response(self, _):
        self.answered.set()

    @property
    def gaps(self):
        return [later - earlier for earlier, later in zip(self.at, self.at[1:])]


def client(sent=None, **options) -> OpenAI:
    """Retries and waits for nothing unless the case says so."""
    sent = sent or Sent()
    hooks = {"request": [sent.request], "response": [sent.response]}
    options = {"base_url": WORLD.endpoint, "api_key": WORLD.key, "max_retries": 0, "timeout": 30} | options
    return OpenAI(http_client=openai.DefaultHttpxClient(event_hooks=hooks), **options)


def text_of(stream) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def whole(content: str, **more):
    return client().chat.completions.create(**WORLD.chat(content, **more))


def read_and(stream, disturb, chunks=None) -> list:
    """Reads a stream to its end, and disturbs something once it is well under way."""
    chunks = [] if chunks is None else chunks
    for chunk in stream:
        chunks.append(chunk)
        if len(chunks) == 5:
            disturb()
    return chunks


@case
def models_are_listed_and_shown():
    models = client().models.list()
    equal([model.id for model in models.data], [WORLD.model])
    equal(client().models.retrieve(WORLD.model).id, WORLD.model)


@case
def unknown_model_is_not_found():
    for ask in [
        lambda: client().models.retrieve("no/such"),
        lambda: client().chat.completions.create(**WORLD.chat("Hello") | {"model": "no/such"}),
    ]:
        error = raises(openai.NotFoundError, ask)
        equal((error.status_code, error.code, error.param), (404, "model_not_found", "model"))


@case
def whole_answer_has_all_its_parts():
    answer = whole("What is Rhumb?")
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", answer.id), answer.id
    assert re.fullmatch("[0-9a-f]{32}", answer._request_id), answer._request_id
    [choice] = answer.choices
    assert choice.message.content.startswith("Rhumb is "), choice
    equal((choice.message.role, choice.finish_reason), ("assistant", "stop"))
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    equal((answer.object, answer.model), ("chat.completion", WORLD.model))
    assert abs(answer.created - time.time()) < 60, answer.created


@case
def legacy_completions_answer_too():
    ask = dict(model=WORLD.model, prompt="Rhumb is", max_tokens=8, temperature=0)
    answer = client().completions.create(**ask)
    equal((answer.object, answer.choices[0].finish_reason), ("text_completion", "length"))
    equal(answer.usage.completion_tokens, 8)
    chunks = client().completions.create(**ask, stream=True)
    equal("".join(chunk.choices[0].text for chunk in chunks), answer.choices[0].text)


@case
def response_says_what_a_chat_says():
    chat = whole("What is Rhumb?")
    ask = dict(model=WORLD.model, input="What is Rhumb?", temperature=0, metadata={"a": "b"})
    answer = client().responses.create(**ask, store=False)
    assert re.fullmatch("resp_[0-9a-f]{32}", answer.id), answer.id
    assert re.fullmatch("[0-9a-f]{32}", answer._request_id), answer._request_id
    equal((answer.output_text, answer.status), (chat.choices[0].message.content, "completed"))
    equal((answer.object, answer.model, answer.metadata), ("response", WORLD.model, {"a": "b"}))
    equal((answer.usage.input_tokens, answer.usage.output_tokens), (chat.usage.prompt_tokens, chat.usage.completion_tokens))
    conversation = [
        {"role": "user", "content": [{"type": "input_text", "text": "What is Rhumb?"}]},
        *(item.model_dump(exclude_none=True) for item in answer.output),
        {"role": "user", "content": "What is a region?"},
    ]
    assert client().responses.create(**ask | {"input": conversation}).usage.input_tokens > answer.usage.input_tokens


@case
def response_streams_by_its_own_events():
    text = whole("What is Rhumb?").choices[0].message.content
    ask = dict(model=WORLD.model, input="What is Rhumb?", temperature=0)
    events = list(client().responses.create(**ask, stream=True))
    equal([event.sequence_number for event in events], list(range(len(events))))
    equal([event.type for event in events[:4]], [f"response.{kind}" for kind in ["created", "in_progress", "output_item.added", "content_part.added"]])
    equal("".join(event.delta for event in events if event.type == "response.output_text.delta"), text)
    equal((events[-1].type, events[-1].response.output_text), ("response.completed", text))
    assert events[-1].response.usage.output_tokens > 0
    # What the SDK puts together by itself must be what was sent.
    with client().responses.stream(**ask, instructions="Be brief.", max_output_tokens=5) as stream:
        kinds = [event.type for event in stream]
    equal(kinds[-1], "response.incomplete")
    cut = client().responses.create(**ask, instructions="Be brief.", max_output_tokens=5)
    equal((cut.status, cut.incomplete_details.reason), ("incomplete", "max_output_tokens"))
    equal(cut.usage.output_tokens, 5)


@case
def response_that_needs_what_is_not_here_is_refused_by_name():
    ask = dict(model=WORLD.model, input="Hello")
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    for more, param in [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        # Which no model of this engine knows: the chat's own refusal.
        ({"tools": [tool]}, "tools"),
    ]:
        error = raises(openai.BadRequestError, lambda: client().responses.create(**ask, **more))
        equal((error.code, error.param), ("unsupported_parameter", param))


@case
def endpoint_that_a_model_lacks_is_not_found():
    for ask in [
        lambda: client().embeddings.create(model=WORLD.model, input="Hello"),
        lambda: client().audio.transcriptions.create(model=WORLD.model, file=("a.wav", bytes(300_000))),
    ]:
        error = raises(openai.NotFoundError, ask)
        equal((error.code, error.param), ("unsupported_endpoint", "model"))
        assert WORLD.model in error.message, error.message


@case
def stream_joins_to_the_whole_answer():
    chunks = list(client().chat.completions.create(**WORLD.chat("What is a region?"), stream=True))
    equal(text_of(chunks), whole("What is a region?").choices[0].message.content)
    equal(chunks[0].choices[0].delta.role, "assistant")
    equal([chunk.choices[0].finish_reason for chunk in chunks[-2:]], [None, "stop"])
    equal(len({chunk.id for chunk in chunks}), 1)
    assert all(chunk.usage is None for chunk in chunks)


@case
def seed_repeats_what_chance_drew():
    # So hot that two seeds surely differ.
    drawn = lambda seed: WORLD.chat("Hello", seed=seed, temperature=2, max_tokens=20)
    texts = [text_of(client().chat.completions.create(**drawn(seed), stream=True)) for seed in (7, 7, 8)]
    equal(texts[0], texts[1])
    equal(texts[0], client().chat.completions.create(**drawn(7)).choices[0].message.content)
    assert texts[0] != texts[2], texts


@case
def logprobs_tell_each_token_streamed_and_whole():
    ask = dict(logprobs=True, top_logprobs=3, max_tokens=8)
    [choice] = whole("What is Rhumb?", **ask).choices
    told = choice.logprobs.content
    equal(len(told), 8)
    equal("".join(token.token for token in told), choice.message.content)
    for token in told:
        equal(token.bytes, list(token.token.encode()))
        assert token.logprob <= 0, token
        likelihoods = [top.logprob for top in token.top_logprobs]
        equal(likelihoods, sorted(likelihoods, reverse=True))
        # What is drawn without chance is the likeliest.
        equal((len(likelihoods), token.top_logprobs[0].token), (3, token.token))
    chunks = client().chat.completions.create(**WORLD.chat("What is Rhumb?", **ask), stream=True)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    equal([token for choice in choices if choice.logprobs for token in choice.logprobs.content], told)
    equal(whole("What is Rhumb?", max_tokens=8).choices[0].logprobs, None)
    legacy = dict(model=WORLD.model, prompt="Rhumb is", max_tokens=8, temperature=0, logprobs=2)
    [choice] = client().completions.create(**legacy).choices
    equal("".join(choice.logprobs.tokens), choice.text)
    equal([len(top) for top in choice.logprobs.top_logprobs], [2] * 8)


@case
def penalties_and_bias_change_the_answer_streamed_and_whole():
    def said(**more):
        text = client().chat.completions.create(**WORLD.long_chat(40, **more)).choices[0].message.content
        equal(text_of(client().chat.completions.create(**WORLD.long_chat(40, **more), stream=True)), text)
        return text

    forced = said(logit_bias={"77": 60})
    equal(forced, forced[0] * 40)
    # What is counted outweighs a bias in the end; what only was there before does not.
    equal(said(logit_bias={"77": 60}, presence_penalty=2), forced)
    often = said(logit_bias={"77": 60}, frequency_penalty=2)
    assert often.startswith(forced[:10]) and often != forced, often
    for wrong in [{"frequency_penalty": 3}, {"logit_bias": {"300": 101}}, {"top_logprobs": 2}]:
        error = raises(openai.BadRequestError, lambda: whole("Hello", **wrong))
        assert error.param.startswith(next(iter(wrong))), error.param


@case
def stream_tells_usage_when_asked():
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client().chat.completions.create(**WORLD.chat("What is a region?"), **options)
    equal(last.choices, [])
    equal(last.usage, whole("What is a region?").usage)
    assert all(chunk.usage is None for chunk in chunks)


@case
def both_names_of_the_limit_hold():
    for limits, tokens in [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 9, "max_completion_tokens": 4}, 4),
    ]:
        answer = whole("What is Rhumb?", **limits)
        equal((answer.usage.completion_tokens, answer.choices[0].finish_reason), (tokens, "length"))


@case
def stop_strings_end_the_answer():
    text = whole("What is Rhumb?").choices[0].message.content
    stop = text.split()[3]
    before = text[: text.index(stop)]
    [choice] = whole("What is Rhumb?", stop=[stop, "never said"]).choices
    equal((choice.message.content, choice.finish_reason), (before, "stop"))
    stream = client().chat.completions.create(**WORLD.chat("What is Rhumb?", stop=stop), stream=True)
    equal(text_of(stream), before)


@case
def two_streams_do_not_mix():
    asked = ["What is Rhumb?", "What is a region?"] * 2
    sdk = client()
    stream = lambda content: text_of(sdk.chat.completions.create(**WORLD.chat(content), stream=True))
    with ThreadPoolExecutor(len(asked)) as together:
        texts = list(together.map(stream, asked))
    equal(texts, [whole(content).choices[0].message.content for content in asked])
    assert texts[0] != texts[1]


@case
def stream_by_tls():
    http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=WORLD.authority))
    sdk = OpenAI(base_url=by_tls(WORLD.endpoint), api_key=WORLD.key, max_retries=0, http_client=http)
    stream = sdk.chat.completions.create(**WORLD.chat("What is Rhumb?"), stream=True)
    equal(text_of(stream), whole("What is Rhumb?").choices[0].message.content)


@case
def wrong_key_is_refused_once():
    for key in ["rk_wrong", "rk_aaaaaaaaaaaaaaaa_" + "A" * 40]:
        sent = Sent()
        ask = lambda: client(sent, api_key=key, max_retries=2).models.list()
        error = raises(openai.AuthenticationError, ask)
        equal((error.status_code, error.code, len(sent.at)), (401, "invalid_api_key", 1))


@case
def malformed_parameter_is_named():
    for wrong, code in [
        ({"temperature": 3}, "invalid_value"),
        ({"temperature": "hot"}, "invalid_type"),
        ({"n": 2}, "unsupported_parameter"),
    ]:
        sent = Sent()
        ask = lambda: client(sent, max_retries=2).chat.completions.create(**WORLD.chat("Hello") | wrong)
        error = raises(openai.BadRequestError, ask)
        equal((error.status_code, error.param, error.code), (400, *wrong, code))
        equal((error.type, len(sent.at)), ("invalid_request_error", 1))


@case
def unknown_path_is_not_found():
    error = raises(openai.NotFoundError, lambda: client().files.list())
    equal((error.status_code, error.code), (404, "unknown_url"))


@case
def body_beyond_the_bound_is_refused_once():
    sent = Sent()
    ask = WORLD.chat("x" * (33 << 20))
    error = raises(openai.APIStatusError, lambda: client(sent, max_retries=2).chat.completions.create(**ask))
    equal((error.status_code, error.code, len(sent.at)), (413, "request_too_large", 1))


@case
def drained_region_is_retried_as_told():
    WORLD.rhumb("region", "drain", WORLD.name)
    try:
        eventually("the drain has reached the edge", 5, is_refused)
        for retries in [0, 2]:
            sent, before = Sent(), WORLD.requests()
            ask = lambda: client(sent, max_retries=retries).chat.completions.create(**WORLD.chat("Hello"))
            error = raises(openai.InternalServerError, ask)
            equal((error.status_code, error.code), (503, "no_capacity"))
            equal(sent.retry_counts, [str(count) for count in range(retries + 1)])
            wait = float(error.response.headers["retry-after"])
            # By itself the SDK would come back after 0.5 s and 1 s.
            assert wait >= 2 and all(wait <= gap < wait + 2 for gap in sent.gaps), (wait, sent.gaps)
            eventually("the edge has counted them", 2, lambda: WORLD.requests() >= before + retries + 1)
            equal(WORLD.requests(), before + retries + 1)
    finally:
        WORLD.rhumb("region", "undrain", WORLD.name)
        eventually("the region serves again", 5, lambda: not is_refused())


def is_refused() -> bool:
    try:
        whole("Hello", max_tokens=1)
        return False
    except openai.InternalServerError:
        return True


@case
def request_refused_first_is_served_by_a_retry():
    WORLD.rhumb("region", "drain", WORLD.name)
    try:
        eventually("the drain has reached the edge", 5, is_refused)
        sent = Sent()
        with ThreadPoolExecutor(1) as aside:
            sdk = client(sent, max_retries=4)
            asked = aside.submit(lambda: sdk.chat.completions.create(**WORLD.chat("What is Rhumb?")))
            assert sent.answered.wait(5)
            WORLD.rhumb("region", "undrain", WORLD.name)
            answer = asked.result()
    finally:
        WORLD.rhumb("region", "undrain", WORLD.name)
    assert len(sent.at) >= 2, sent.at
    equal(answer.choices[0].message.content, whole("What is Rhumb?").choices[0].message.content)


@case
def dead_region_is_retried_until_it_is_back():
    WORLD.kill("region-agent")
    try:
        error = raises(openai.InternalServerError, lambda: whole("What is Rhumb?"))
        assert error.code in ("upstream_failed", "no_capacity"), error.code
        sent = Sent()
        with ThreadPoolExecutor(1) as aside:
            sdk = client(sent, max_retries=20)
            asked = aside.submit(lambda: sdk.chat.completions.create(**WORLD.chat("What is Rhumb?")))
            assert sent.answered.wait(5)
            WORLD.start("region-agent")
            answer = asked.result()
    finally:
        if not WORLD.pids("region-agent"):
            WORLD.start("region-agent")
        WORLD.until_healthy()
    assert len(sent.at) >= 2, sent.at
    assert answer.choices[0].message.content.startswith("Rhumb is "), answer


@case
def refusal_that_forbids_a_retry_is_not_retried():
    # The one refusal that SDKs would repeat by themselves and must not: half a minute each time.
    sent = Sent()
    sdk = client(sent, base_url=f"{GATEWAY}/v1", max_retries=2, timeout=60)
    error = raises(openai.APIStatusError, lambda: sdk.chat.completions.create(**WORLD.chat("Hello")))
    equal((error.status_code, error.code), (408, "body_timeout"))
    equal((error.response.headers["x-should-retry"], len(sent.at)), ("false", 1))


@case
def comments_are_no_chunks():
    ask = WORLD.chat("What is Rhumb?")
    # For 12 s; after 10 s the edge shows a client that waits that it is not forgotten.
    with all_slots_taken(tokens=600), ThreadPoolExecutor(1) as aside:
        body = ask | {"stream": True}
        raw = aside.submit(lambda: client().post("/chat/completions", body=body, cast_to=str))
        text = text_of(client().chat.completions.create(**ask, stream=True))
        # Otherwise there was nothing to ignore.
        assert raw.result().startswith(": keep-alive\n\n"), raw.result()[:500]
    equal(text, whole("What is Rhumb?").choices[0].message.content)


@contextmanager
def all_slots_taken(tokens: int):
    """Whoever asks meanwhile must wait, for 20 ms times the tokens."""
    ask = WORLD.long_chat(tokens, stream=True)
    sdk = client()
    # A stream is handed out with its first chunk, so each has its slot.
    streams = [sdk.chat.completions.create(**ask) for _ in range(WORLD.slots())]
    try:
        yield
    finally:
        for stream in streams:
            stream.close()
        eventually("all slots are free", 5, lambda: WORLD.running() == 0)


@case
def killed_engine_interrupts_no_stream():
    before, resumes = WORLD.pids("engine"), WORLD.metric("rhumb_edge_resumes_total")
    ask = WORLD.long_chat(100)
    text = client().chat.completions.create(**ask).choices[0].message.content
    killed = threading.Barrier(4, lambda: os.kill(before[0], signal.SIGKILL), timeout=10)

    def stream(_):
        chunks = read_and(client(max_retries=2).chat.completions.create(**ask, stream=True), killed.wait)
        equal((len({chunk.id for chunk in chunks}), chunks[-1].choices[0].finish_reason), (1, "length"))
        return text_of(chunks)

    try:
        # So many that the engine that dies has some of them.
        with ThreadPoolExecutor(killed.parties) as together:
            equal(list(together.map(stream, range(killed.parties))), [text] * killed.parties)
        assert WORLD.metric("rhumb_edge_resumes_total") > resumes
    finally:
        eventually("the agent has seen it end", 10, lambda: before[0] not in WORLD.pids("engine"))
        WORLD.until_healthy()


@case
def killed_engines_cut_a_stream_loudly():
    before = WORLD.pids("engine")
    try:
        stream_interrupted_by(lambda: WORLD.kill("engine"))
    finally:
        others = lambda: not set(before) & set(WORLD.pids("engine"))
        eventually("the agent has seen them end", 10, others)
        WORLD.until_healthy()


@case
def killed_agent_cuts_a_stream_loudly():
    try:
        stream_interrupted_by(lambda: WORLD.kill("region-agent"))
    finally:
        WORLD.start("region-agent")
        WORLD.until_healthy()


def stream_interrupted_by(cut):
    sent, chunks = Sent(), []
    stream = client(sent, max_retries=2).chat.completions.create(**WORLD.long_chat(200, stream=True))
    error = raises(openai.APIError, lambda: read_and(stream, cut, chunks))
    equal((error.code, error.type, len(sent.at)), ("stream_interrupted", "server_error", 1))
    assert 5 <= len(chunks) < 200, len(chunks)


@case
def killed_edge_cuts_a_stream_loudly():
    stream = client(max_retries=2).chat.completions.create(**WORLD.long_chat(200, stream=True))
    try:
        raises(openai.APIConnectionError, lambda: read_and(stream, lambda: WORLD.kill("edge")))
    finally:
        WORLD.start("edge")
        WORLD.until_healthy()


@case
def edge_that_is_told_to_end_finishes_its_streams():
    ask = WORLD.long_chat(100, stream=True, stream_options={"include_usage": True})
    stream = client().chat.completions.create(**ask)
    try:
        chunks = read_and(stream, lambda: WORLD.signal("edge", signal.SIGTERM))
        equal((chunks[-2].choices[0].finish_reason, chunks[-1].usage.completion_tokens), ("length", 100))
        eventually("the edge has ended", 10, lambda: not WORLD.pids("edge"))
        raises(openai.APIConnectionError, lambda: client().models.list())
    finally:
        WORLD.start("edge")
        WORLD.until_healthy()


@case
def timeout_of_a_whole_answer_frees_the_slot():
    began = time.monotonic()
    ask = lambda: client(timeout=1).chat.completions.create(**WORLD.long_chat(400))
    raises(openai.APITimeoutError, ask)
    assert time.monotonic() - began < 4
    eventually("the slot is free", 3, lambda: WORLD.running() == 0)


@case
def timeout_in_the_queue_frees_the_place():
    with all_slots_taken(tokens=400):
        ask = lambda: client(timeout=0.5).chat.completions.create(**WORLD.chat("Hello"), stream=True)
        raises(openai.APITimeoutError, ask)
        eventually("the place in the queue is free", 3, lambda: WORLD.queued() == 0)
        equal(WORLD.running(), WORLD.slots())


@case
def closed_stream_frees_the_slot():
    stream = client().chat.completions.create(**WORLD.long_chat(400, stream=True))
    next(stream)
    eventually("a slot is taken", 3, lambda: WORLD.running() == 1)
    stream.close()
    eventually("the slot is free", 3, lambda: WORLD.running() == 0)


@case
def readme_runs_as_printed():
    [script] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    script, replaced = re.subn(r"http://[\d.]+:8080/v1", WORLD.endpoint, script)
    equal(replaced, 1)
    os.environ["RHUMB_KEY"] = WORLD.key
    printed = []
    exec(script, {"print": lambda *texts, **_: printed.append("".join(texts))})
    assert len("".join(printed)) > 20, printed


run_cases()
