// A sandbox with one region: what its clients see of it, and how it is broken under them. See `world.py`.

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const RHUMB = process.env.RHUMB;

export class World {
  constructor(data) {
    this.data = data;
    this.facts = JSON.parse(readFileSync(join(data, "facts.json")));
    [this.region] = this.facts.regions;
    this.name = this.region.name;
    this.key = this.facts.api_key;
    this.model = this.facts.model;
    this.endpoint = this.facts.endpoint;
    this.tlsEndpoint = this.endpoint.replace("http:", "https:").replace(":8080", ":8443");
  }

  rhumb(...words) {
    return new Promise((resolve, reject) => {
      execFile(RHUMB, [...words, "--data", this.data], { timeout: 60_000 }, (error, stdout, stderr) => {
        // `status` exits by how the sandbox is; what it says is on its standard output.
        if (error && words[0] !== "status") reject(new Error(`rhumb ${words.join(" ")}: ${stderr}`));
        else resolve(stdout);
      });
    });
  }

  async status() {
    return JSON.parse(await this.rhumb("status", "--json"));
  }

  /** Requests that hold a slot of an engine. */
  async running() {
    return (await this.status()).regions[0].running;
  }

  async queued() {
    return (await this.status()).regions[0].queued;
  }

  async slots() {
    return 8 * (await this.status()).regions[0].replicas;
  }

  async pids(role) {
    const processes = JSON.parse(await this.rhumb("sandbox", "ps", "--json"));
    return processes.filter((process) => process.role === role).map((process) => process.pid);
  }

  async signal(role, what) {
    const pids = await this.pids(role);
    if (pids.length === 0) throw new Error(`no ${role} runs`);
    for (const pid of pids) process.kill(pid, what);
  }

  kill(role) {
    return this.signal(role, "SIGKILL");
  }

  start(role) {
    return this.rhumb("sandbox", "start", role, this.name);
  }

  async untilHealthy() {
    await eventually("the sandbox is healthy", 30, async () => (await this.status()).healthy);
    // The edge has seen it too, and the endpoint leads to the edge.
    const hasAnswer = () => fetch(`${this.endpoint}/models`).then(() => true, () => false);
    await eventually("the endpoint answers", 10, hasAnswer);
    const serves = async () => (await this.metric("rhumb_edge_nodes_serving")) === 1;
    await eventually("the edge knows a node that serves", 10, serves);
  }

  /** A metric of the edge, summed over its labels. */
  async metric(name) {
    const text = await (await fetch(`${this.region.admin}/metrics`)).text();
    const lines = text.split("\n").filter((line) => line.split(/[{ ]/)[0] === name);
    return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
  }

  /** How many requests the edge has ended, in whatever way. */
  requests() {
    return this.metric("rhumb_edge_requests_total");
  }

  /** A chat with one user message, always the same answer to it. */
  chat(content, more = {}) {
    return { model: this.model, messages: [{ role: "user", content }], temperature: 0, ...more };
  }

  /** One that lasts: 20 ms for each token. */
  longChat(tokens, more = {}) {
    return this.chat("What is Rhumb?", { max_tokens: tokens, ignore_eos: true, ...more });
  }
}

export async function eventually(what, seconds, isSo) {
  const began = performance.now();
  while (!(await isSo())) {
    if (performance.now() - began > seconds * 1000) throw new Error(`not within ${seconds} s: ${what}`);
    await sleep(50);
  }
}
