// The official npm SDK. Each case has a twin of the same name in `sdk.py`.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { World, eventually } from "./world.mjs";

const WORLD = new World(process.env.RHUMB_CLIENTS_WORLD);
const GATEWAY = process.env.RHUMB_CLIENTS_GATEWAY;
const CASES = {};

/** What the SDK put on the wire, request by request. */
class Sent {
  at = [];
  retryCounts = [];
  answered = Promise.withResolvers();

  fetch = async (url, init) => {
    this.at.push(performance.now() / 1000);
    this.retryCounts.push(new Headers(init.headers).get("x-stainless-retry-count"));
    const response = await fetch(url, init);
    this.answered.resolve();
    return response;
  };

  gaps() {
    return this.at.slice(1).map((at, index) => at - this.at[index]);
  }
}

/** Retries and waits for nothing unless the case says so. */
function client(options = {}, sent = new Sent()) {
  const plain = { baseURL: WORLD.endpoint, apiKey: WORLD.key, maxRetries: 0, timeout: 30_000 };
  return new OpenAI({ ...plain, fetch: sent.fetch, ...options });
}

function ask(body, options, sent) {
  return client(options, sent).chat.completions.create(body);
}

async function all(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

async function textOf(stream) {
  return (await all(stream)).map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
}

async function textOfWhole(content, more) {
  return (await ask(WORLD.chat(content, more))).choices[0].message.content;
}

/** Reads a stream to its end, and disturbs something once it is well under way. */
async function readAnd(stream, disturb, chunks = []) {
  for await (const chunk of stream) {
    chunks.push(chunk);
    if (chunks.length === 5) await disturb();
  }
  return chunks;
}

/** What it was rejected with, which must be exactly of this class: applications catch by it. */
async function rejects(kind, promise) {
  let returned;
  try {
    returned = await promise;
  } catch (error) {
    assert.equal(error.constructor, kind, `${error.constructor.name} and not ${kind.name}: ${error}`);
    return error;
  }
  assert.fail(`nothing was raised; it returned ${JSON.stringify(returned).slice(0, 200)}`);
}

CASES.models_are_listed_and_shown = async () => {
  const models = await client().models.list();
  assert.deepEqual(models.data.map((model) => model.id), [WORLD.model]);
  assert.equal((await client().models.retrieve(WORLD.model)).id, WORLD.model);
};

CASES.unknown_model_is_not_found = async () => {
  for (const asks of [
    () => client().models.retrieve("no/such"),
    () => ask({ ...WORLD.chat("Hello"), model: "no/such" }),
  ]) {
    const error = await rejects(OpenAI.NotFoundError, asks());
    assert.deepEqual([error.status, error.code, error.param], [404, "model_not_found", "model"]);
  }
};

CASES.whole_answer_has_all_its_parts = async () => {
  const answer = await ask(WORLD.chat("What is Rhumb?"));
  assert.match(answer.id, /^chatcmpl-[0-9a-f]{32}$/);
  assert.match(answer._request_id, /^[0-9a-f]{32}$/);
  const [choice] = answer.choices;
  assert.match(choice.message.content, /^Rhumb is /);
  assert.deepEqual([choice.message.role, choice.finish_reason], ["assistant", "stop"]);
  const usage = answer.usage;
  assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens > 0, JSON.stringify(usage));
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  assert.deepEqual([answer.object, answer.model], ["chat.completion", WORLD.model]);
  assert.ok(Math.abs(answer.created - Date.now() / 1000) < 60, answer.created);
};

CASES.legacy_completions_answer_too = async () => {
  const body = { model: WORLD.model, prompt: "Rhumb is", max_tokens: 8, temperature: 0 };
  const answer = await client().completions.create(body);
  assert.deepEqual([answer.object, answer.choices[0].finish_reason], ["text_completion", "length"]);
  assert.equal(answer.usage.completion_tokens, 8);
  const chunks = await all(client().completions.create({ ...body, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), answer.choices[0].text);
};

CASES.response_says_what_a_chat_says = async () => {
  const chat = await ask(WORLD.chat("What is Rhumb?"));
  const asked = { model: WORLD.model, input: "What is Rhumb?", temperature: 0, metadata: { a: "b" } };
  const answer = await client().responses.create({ ...asked, store: false });
  assert.match(answer.id, /^resp_[0-9a-f]{32}$/);
  assert.match(answer._request_id, /^[0-9a-f]{32}$/);
  assert.deepEqual([answer.output_text, answer.status], [chat.choices[0].message.content, "completed"]);
  assert.deepEqual([answer.object, answer.model, answer.metadata], ["response", WORLD.model, { a: "b" }]);
  const { prompt_tokens, completion_tokens } = chat.usage;
  assert.deepEqual([answer.usage.input_tokens, answer.usage.output_tokens], [prompt_tokens, completion_tokens]);
  const input = [
    { role: "user", content: [{ type: "input_text", text: "What is Rhumb?" }] },
    ...answer.output,
    { role: "user", content: "What is a region?" },
  ];
  const longer = await client().responses.create({ ...asked, input });
  assert.ok(longer.usage.input_tokens > answer.usage.input_tokens);
};

CASES.response_streams_by_its_own_events = async () => {
  const text = await textOfWhole("What is Rhumb?");
  const asked = { model: WORLD.model, input: "What is Rhumb?", temperature: 0 };
  const events = await all(client().responses.create({ ...asked, stream: true }));
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
  const begin = ["created", "in_progress", "output_item.added", "content_part.added"];
  assert.deepEqual(events.slice(0, 4).map((event) => event.type), begin.map((kind) => `response.${kind}`));
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), text);
  assert.equal(events.at(-1).type, "response.completed");
  assert.equal(events.at(-1).response.output[0].content[0].text, text);
  assert.ok(events.at(-1).response.usage.output_tokens > 0);
  // What the SDK puts together by itself must be what was sent.
  assert.equal((await client().responses.stream(asked).finalResponse()).output_text, text);
  const cut = await client().responses.create({ ...asked, instructions: "Be brief.", max_output_tokens: 5 });
  assert.deepEqual([cut.status, cut.incomplete_details.reason], ["incomplete", "max_output_tokens"]);
  assert.equal(cut.usage.output_tokens, 5);
};

CASES.response_that_needs_what_is_not_here_is_refused_by_name = async () => {
  const asked = { model: WORLD.model, input: "Hello" };
  const tool = { type: "function", name: "f", parameters: { type: "object" }, strict: true };
  for (const [more, param] of [
    [{ previous_response_id: "resp_1" }, "previous_response_id"],
    [{ background: true }, "background"],
    [{ tools: [{ type: "web_search" }] }, "tools[0].type"],
    // Which no model of this engine knows: the chat's own refusal.
    [{ tools: [tool] }, "tools"],
  ]) {
    const error = await rejects(OpenAI.BadRequestError, client().responses.create({ ...asked, ...more }));
    assert.deepEqual([error.code, error.param], ["unsupported_parameter", param]);
  }
};

CASES.endpoint_that_a_model_lacks_is_not_found = async () => {
  const file = new File([new Uint8Array(300_000)], "a.wav");
  for (const asks of [
    () => client().embeddings.create({ model: WORLD.model, input: "Hello" }),
    () => client().audio.transcriptions.create({ model: WORLD.model, file }),
  ]) {
    const error = await rejects(OpenAI.NotFoundError, asks());
    assert.deepEqual([error.code, error.param], ["unsupported_endpoint", "model"]);
    assert.ok(error.message.includes(WORLD.model), error.message);
  }
};

CASES.stream_joins_to_the_whole_answer = async () => {
  const chunks = await all(ask(WORLD.chat("What is a region?", { stream: true })));
  const text = chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join("");
  assert.equal(text, await textOfWhole("What is a region?"));
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.deepEqual(chunks.slice(-2).map((chunk) => chunk.choices[0].finish_reason), [null, "stop"]);
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  assert.ok(chunks.every((chunk) => chunk.usage == null));
};

CASES.seed_repeats_what_chance_drew = async () => {
  // So hot that two seeds surely differ.
  const drawn = (seed, stream) => WORLD.chat("Hello", { seed, stream, temperature: 2, max_tokens: 20 });
  const texts = await Promise.all([7, 7, 8].map((seed) => textOf(ask(drawn(seed, true)))));
  assert.equal(texts[0], texts[1]);
  assert.equal(texts[0], (await ask(drawn(7, false))).choices[0].message.content);
  assert.notEqual(texts[0], texts[2]);
};

CASES.logprobs_tell_each_token_streamed_and_whole = async () => {
  const body = WORLD.chat("What is Rhumb?", { logprobs: true, top_logprobs: 3, max_tokens: 8 });
  const [choice] = (await ask(body)).choices;
  const told = choice.logprobs.content;
  assert.equal(told.length, 8);
  assert.equal(told.map((token) => token.token).join(""), choice.message.content);
  for (const { token, bytes, logprob, top_logprobs } of told) {
    assert.deepEqual(bytes, [...Buffer.from(token)]);
    assert.ok(logprob <= 0, logprob);
    const likelihoods = top_logprobs.map((top) => top.logprob);
    assert.deepEqual(likelihoods, likelihoods.toSorted((a, b) => b - a));
    // What is drawn without chance is the likeliest.
    assert.deepEqual([likelihoods.length, top_logprobs[0].token], [3, token]);
  }
  const chunks = await all(ask({ ...body, stream: true }));
  assert.deepEqual(chunks.flatMap((chunk) => chunk.choices[0]?.logprobs?.content ?? []), told);
  assert.equal((await ask(WORLD.chat("What is Rhumb?", { max_tokens: 8 }))).choices[0].logprobs, null);
  const legacy = { model: WORLD.model, prompt: "Rhumb is", max_tokens: 8, temperature: 0, logprobs: 2 };
  const [completion] = (await client().completions.create(legacy)).choices;
  assert.equal(completion.logprobs.tokens.join(""), completion.text);
  const tops = completion.logprobs.top_logprobs.map((top) => Object.keys(top).length);
  assert.deepEqual(tops, Array(8).fill(2));
};

CASES.penalties_and_bias_change_the_answer_streamed_and_whole = async () => {
  const said = async (more) => {
    const text = (await ask(WORLD.longChat(40, more))).choices[0].message.content;
    assert.equal(await textOf(ask(WORLD.longChat(40, { ...more, stream: true }))), text);
    return text;
  };
  const forced = await said({ logit_bias: { 77: 60 } });
  assert.equal(forced, forced[0].repeat(40));
  // What is counted outweighs a bias in the end; what only was there before does not.
  assert.equal(await said({ logit_bias: { 77: 60 }, presence_penalty: 2 }), forced);
  const often = await said({ logit_bias: { 77: 60 }, frequency_penalty: 2 });
  assert.ok(often.startsWith(forced.slice(0, 10)) && often !== forced, often);
  for (const wrong of [{ frequency_penalty: 3 }, { logit_bias: { 300: 101 } }, { top_logprobs: 2 }]) {
    const error = await rejects(OpenAI.BadRequestError, ask(WORLD.chat("Hello", wrong)));
    assert.ok(error.param.startsWith(Object.keys(wrong)[0]), error.param);
  }
};

CASES.stream_tells_usage_when_asked = async () => {
  const body = WORLD.chat("What is a region?");
  const chunks = await all(ask({ ...body, stream: true, stream_options: { include_usage: true } }));
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.deepEqual(last.usage, (await ask(body)).usage);
  assert.ok(chunks.every((chunk) => chunk.usage === null));
};

CASES.both_names_of_the_limit_hold = async () => {
  for (const [limits, tokens] of [
    [{ max_tokens: 5 }, 5],
    [{ max_completion_tokens: 6 }, 6],
    [{ max_tokens: 9, max_completion_tokens: 4 }, 4],
  ]) {
    const answer = await ask(WORLD.chat("What is Rhumb?", limits));
    assert.deepEqual([answer.usage.completion_tokens, answer.choices[0].finish_reason], [tokens, "length"]);
  }
};

CASES.stop_strings_end_the_answer = async () => {
  const text = await textOfWhole("What is Rhumb?");
  const stop = text.split(" ")[3];
  const before = text.slice(0, text.indexOf(stop));
  const [choice] = (await ask(WORLD.chat("What is Rhumb?", { stop: [stop, "never said"] }))).choices;
  assert.deepEqual([choice.message.content, choice.finish_reason], [before, "stop"]);
  assert.equal(await textOf(ask(WORLD.chat("What is Rhumb?", { stop, stream: true }))), before);
};

CASES.two_streams_do_not_mix = async () => {
  const sdk = client();
  const stream = (content) => textOf(sdk.chat.completions.create(WORLD.chat(content, { stream: true })));
  const asked = ["What is Rhumb?", "What is a region?", "What is Rhumb?", "What is a region?"];
  const texts = await Promise.all(asked.map(stream));
  assert.deepEqual(texts, await Promise.all(asked.map((content) => textOfWhole(content))));
  assert.notEqual(texts[0], texts[1]);
};

// The authority is known by NODE_EXTRA_CA_CERTS.
CASES.stream_by_tls = async () => {
  const body = WORLD.chat("What is Rhumb?", { stream: true });
  assert.equal(await textOf(ask(body, { baseURL: WORLD.tlsEndpoint })), await textOfWhole("What is Rhumb?"));
};

CASES.wrong_key_is_refused_once = async () => {
  for (const apiKey of ["rk_wrong", `rk_aaaaaaaaaaaaaaaa_${"A".repeat(40)}`]) {
    const sent = new Sent();
    const listed = client({ apiKey, maxRetries: 2 }, sent).models.list();
    const error = await rejects(OpenAI.AuthenticationError, listed);
    assert.deepEqual([error.status, error.code, sent.at.length], [401, "invalid_api_key", 1]);
  }
};

CASES.malformed_parameter_is_named = async () => {
  for (const [param, value, code] of [
    ["temperature", 3, "invalid_value"],
    ["temperature", "hot", "invalid_type"],
    ["n", 2, "unsupported_parameter"],
  ]) {
    const sent = new Sent();
    const asked = ask(WORLD.chat("Hello", { [param]: value }), { maxRetries: 2 }, sent);
    const error = await rejects(OpenAI.BadRequestError, asked);
    assert.deepEqual([error.status, error.param, error.code], [400, param, code]);
    assert.deepEqual([error.type, sent.at.length], ["invalid_request_error", 1]);
  }
};

CASES.unknown_path_is_not_found = async () => {
  const error = await rejects(OpenAI.NotFoundError, client().files.list());
  assert.deepEqual([error.status, error.code], [404, "unknown_url"]);
};

CASES.body_beyond_the_bound_is_refused_once = async () => {
  const sent = new Sent();
  const body = WORLD.chat("x".repeat(33 << 20));
  const error = await rejects(OpenAI.APIError, ask(body, { maxRetries: 2 }, sent));
  assert.deepEqual([error.status, error.code, sent.at.length], [413, "request_too_large", 1]);
};

CASES.drained_region_is_retried_as_told = async () => {
  await WORLD.rhumb("region", "drain", WORLD.name);
  try {
    await eventually("the drain has reached the edge", 5, isRefused);
    for (const maxRetries of [0, 2]) {
      const sent = new Sent();
      const before = await WORLD.requests();
      const asked = ask(WORLD.chat("Hello"), { maxRetries }, sent);
      const error = await rejects(OpenAI.InternalServerError, asked);
      assert.deepEqual([error.status, error.code], [503, "no_capacity"]);
      assert.deepEqual(sent.retryCounts, ["0", "1", "2"].slice(0, maxRetries + 1));
      const wait = Number(error.headers.get("retry-after"));
      // By itself the SDK would come back after 0.5 s and 1 s. Its timers may be a millisecond early.
      assert.ok(wait >= 2, wait);
      assert.ok(sent.gaps().every((gap) => gap > wait - 0.01 && gap < wait + 2), sent.gaps());
      const counted = async () => (await WORLD.requests()) >= before + maxRetries + 1;
      await eventually("the edge has counted them", 2, counted);
      assert.equal(await WORLD.requests(), before + maxRetries + 1);
    }
  } finally {
    await WORLD.rhumb("region", "undrain", WORLD.name);
    await eventually("the region serves again", 5, async () => !(await isRefused()));
  }
};

async function isRefused() {
  try {
    await ask(WORLD.chat("Hello", { max_tokens: 1 }));
    return false;
  } catch (error) {
    if (error instanceof OpenAI.InternalServerError) return true;
    throw error;
  }
}

CASES.request_refused_first_is_served_by_a_retry = async () => {
  await WORLD.rhumb("region", "drain", WORLD.name);
  const sent = new Sent();
  let text;
  try {
    await eventually("the drain has reached the edge", 5, isRefused);
    const asked = ask(WORLD.chat("What is Rhumb?"), { maxRetries: 4 }, sent);
    await Promise.race([sent.answered.promise, asked]);
    await WORLD.rhumb("region", "undrain", WORLD.name);
    text = (await asked).choices[0].message.content;
  } finally {
    await WORLD.rhumb("region", "undrain", WORLD.name);
  }
  assert.ok(sent.at.length >= 2, sent.at);
  assert.equal(text, await textOfWhole("What is Rhumb?"));
};

CASES.dead_region_is_retried_until_it_is_back = async () => {
  await WORLD.kill("region-agent");
  const sent = new Sent();
  let answer;
  try {
    const error = await rejects(OpenAI.InternalServerError, ask(WORLD.chat("What is Rhumb?")));
    assert.ok(["upstream_failed", "no_capacity"].includes(error.code), error.code);
    const asked = ask(WORLD.chat("What is Rhumb?"), { maxRetries: 20 }, sent);
    await Promise.race([sent.answered.promise, asked]);
    await WORLD.start("region-agent");
    answer = await asked;
  } finally {
    if ((await WORLD.pids("region-agent")).length === 0) await WORLD.start("region-agent");
    await WORLD.untilHealthy();
  }
  assert.ok(sent.at.length >= 2, sent.at);
  assert.match(answer.choices[0].message.content, /^Rhumb is /);
};

CASES.refusal_that_forbids_a_retry_is_not_retried = async () => {
  // The one refusal that SDKs would repeat by themselves and must not: half a minute each time.
  const sent = new Sent();
  const options = { baseURL: `${GATEWAY}/v1`, maxRetries: 2, timeout: 60_000 };
  const error = await rejects(OpenAI.APIError, ask(WORLD.chat("Hello"), options, sent));
  assert.deepEqual([error.status, error.code], [408, "body_timeout"]);
  assert.deepEqual([error.headers.get("x-should-retry"), sent.at.length], ["false", 1]);
};

CASES.comments_are_no_chunks = () =>
  // For 12 s; after 10 s the edge shows a client that waits that it is not forgotten.
  withAllSlotsTaken(600, async () => {
    const body = WORLD.chat("What is Rhumb?", { stream: true });
    const asked = ask(body).asResponse().then((response) => response.text());
    const [raw, text] = await Promise.all([asked, textOf(ask(body))]);
    // Otherwise there was nothing to ignore.
    assert.ok(raw.startsWith(": keep-alive\n\n"), raw.slice(0, 500));
    assert.equal(text, await textOfWhole("What is Rhumb?"));
  });

/** Whoever asks meanwhile must wait, for 20 ms times the tokens. */
async function withAllSlotsTaken(tokens, meanwhile) {
  const length = await WORLD.slots();
  // A stream is handed out with its first chunk, so each has its slot.
  const asked = Array.from({ length }, () => ask(WORLD.longChat(tokens, { stream: true })));
  const streams = await Promise.all(asked);
  try {
    await meanwhile();
  } finally {
    for (const stream of streams) stream.controller.abort();
    await eventually("all slots are free", 5, async () => (await WORLD.running()) === 0);
  }
}

CASES.killed_engine_interrupts_no_stream = async () => {
  const [victim] = await WORLD.pids("engine");
  const resumes = await WORLD.metric("rhumb_edge_resumes_total");
  const text = (await ask(WORLD.longChat(100))).choices[0].message.content;
  // So many that the engine that dies has some of them.
  const count = 4;
  let begun = 0;
  const stream = async () => {
    const killOnce = () => ++begun === count && process.kill(victim, "SIGKILL");
    const chunks = await readAnd(await ask(WORLD.longChat(100, { stream: true }), { maxRetries: 2 }), killOnce);
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
    assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
    return chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join("");
  };
  try {
    assert.deepEqual(await Promise.all(Array.from({ length: count }, stream)), Array(count).fill(text));
    assert.ok((await WORLD.metric("rhumb_edge_resumes_total")) > resumes);
  } finally {
    await eventually("the agent has seen it end", 10, async () => !(await WORLD.pids("engine")).includes(victim));
    await WORLD.untilHealthy();
  }
};

CASES.killed_engines_cut_a_stream_loudly = async () => {
  const before = await WORLD.pids("engine");
  try {
    await isInterruptedBy(() => WORLD.kill("engine"));
  } finally {
    const others = async () => !(await WORLD.pids("engine")).some((pid) => before.includes(pid));
    await eventually("the agent has seen them end", 10, others);
    await WORLD.untilHealthy();
  }
};

CASES.killed_agent_cuts_a_stream_loudly = async () => {
  try {
    await isInterruptedBy(() => WORLD.kill("region-agent"));
  } finally {
    await WORLD.start("region-agent");
    await WORLD.untilHealthy();
  }
};

async function isInterruptedBy(cut) {
  const sent = new Sent();
  const chunks = [];
  const stream = await ask(WORLD.longChat(200, { stream: true }), { maxRetries: 2 }, sent);
  const error = await rejects(OpenAI.APIError, readAnd(stream, cut, chunks));
  assert.deepEqual([error.code, error.type, sent.at.length], ["stream_interrupted", "server_error", 1]);
  assert.ok(chunks.length >= 5 && chunks.length < 200, chunks.length);
}

CASES.killed_edge_cuts_a_stream_loudly = async () => {
  const stream = await ask(WORLD.longChat(200, { stream: true }), { maxRetries: 2 });
  try {
    // Not wrapped by this SDK: what `fetch` itself throws.
    await rejects(TypeError, readAnd(stream, () => WORLD.kill("edge")));
  } finally {
    await WORLD.start("edge");
    await WORLD.untilHealthy();
  }
};

CASES.edge_that_is_told_to_end_finishes_its_streams = async () => {
  const stream = await ask(WORLD.longChat(100, { stream: true, stream_options: { include_usage: true } }));
  try {
    const chunks = await readAnd(stream, () => WORLD.signal("edge", "SIGTERM"));
    assert.equal(chunks.at(-2).choices[0].finish_reason, "length");
    assert.equal(chunks.at(-1).usage.completion_tokens, 100);
    await eventually("the edge has ended", 10, async () => (await WORLD.pids("edge")).length === 0);
    await rejects(OpenAI.APIConnectionError, client().models.list());
  } finally {
    await WORLD.start("edge");
    await WORLD.untilHealthy();
  }
};

CASES.timeout_of_a_whole_answer_frees_the_slot = async () => {
  const began = performance.now();
  await rejects(OpenAI.APIConnectionTimeoutError, ask(WORLD.longChat(400), { timeout: 1000 }));
  assert.ok(performance.now() - began < 4000);
  await eventually("the slot is free", 3, async () => (await WORLD.running()) === 0);
};

CASES.timeout_in_the_queue_frees_the_place = () =>
  withAllSlotsTaken(400, async () => {
    const asked = ask(WORLD.chat("Hello", { stream: true }), { timeout: 500 });
    await rejects(OpenAI.APIConnectionTimeoutError, asked);
    await eventually("the place in the queue is free", 3, async () => (await WORLD.queued()) === 0);
    assert.equal(await WORLD.running(), await WORLD.slots());
  });

CASES.closed_stream_frees_the_slot = async () => {
  const stream = await ask(WORLD.longChat(400, { stream: true }));
  await eventually("a slot is taken", 3, async () => (await WORLD.running()) === 1);
  stream.controller.abort();
  await eventually("the slot is free", 3, async () => (await WORLD.running()) === 0);
};

const wanted = process.argv[2] ?? "";
const report = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
for (const [name, holds] of Object.entries(CASES)) {
  if (!name.includes(wanted)) continue;
  const began = performance.now();
  const why = await holds().then(() => null, (error) => error?.stack ?? String(error));
  report({ case: name, seconds: (performance.now() - began) / 1000, why });
}
report({ complete: true });
// Connections that are kept for later would keep the process.
process.exit();
