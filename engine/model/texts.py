"""What the house model is taught: Rhumb in questions, answers and prose.

Every sentence is the project's own and true to the design. An answer has one
wording only, because the tests compare it word for word; a question has many,
because people do not repeat each other.

TAUGHT     (chapter, answer, questions): the chapter names the prose that
           follows the answer when a client asks the engine to ignore the end.
FOLLOW_UPS (first question, second question, answer): the second question is
           unclear without the first.
HANDBOOK   chapter -> paragraph, in reading order.
"""

HANDBOOK = {
    "overview": (
        "Rhumb is a control plane and a global traffic router for LLM inference. It puts one "
        "OpenAI-compatible endpoint in front of GPU fleets in many regions and clouds. Site "
        "reliability engineers deploy it with Terraform and prove it with chaos drills. API "
        "consumers only change their base URL. Each promise that Rhumb makes is a drill or a "
        "test, not a slogan."
    ),
    "planes": (
        "Rhumb keeps four planes apart. The request plane carries a prompt from the client to "
        "an engine and the answer back, and nothing on this way waits for the control plane. "
        "The intent plane carries what operators want. The signal plane carries what is "
        "measured now, once a second, and a signal older than five seconds is unknown and "
        "never zero. The metering plane carries usage records from the log of each edge to "
        "the ledger."
    ),
    "edge": (
        "The edge is the proxy that every request meets first. It reads the head within ten "
        "seconds, checks the API key before it accepts the body, and then reads the body once "
        "and never edits it. It parses only what routing needs, such as the model, the stream "
        "flag and the largest answer length. Every edge keeps the full table of tenants and "
        "keys on its own disk, so that it can start again while the control plane is away."
    ),
    "attempts": (
        "Only the edge retries. The response head is held back until the first event has "
        "arrived, so a replica that fails early is replaced and the client never notices. "
        "There are at most three attempts for a request, and each new attempt lists the "
        "replicas that were already tried. A busy node that answers with a status of 429 or "
        "503 causes spill-over and is not counted as a failure."
    ),
    "streams": (
        "A stream that has begun is resumed when its replica dies. The edge remembers the ids "
        "of the tokens that it has delivered, together with a rolling hash, and asks another "
        "replica of the same model version to go on from that position. Sampling depends only "
        "on the seed and the position, so the joined stream is the same as an undisturbed one. "
        "No token is lost, repeated or billed twice."
    ),
    "routing": (
        "Routing is a pure decision. Hard filters come first: residency, model version, "
        "attestation, drains and breakers. Then the policy predicts the time to first token of "
        "each region from the round trip, the queue and the prefill. The nearest region wins "
        "until its load passes the spill threshold, and within a region the prompt prefers the "
        "node that already holds its prefix. Every choice can be explained with its "
        "candidates, scores and vetoes."
    ),
    "health": (
        "Health is judged with care. A breaker opens after five failures in a row or at a high "
        "error rate, and it closes again after one live request has succeeded. At most 34 "
        "percent of a pool can be ejected at a time, but always at least one node. When less "
        "than half of the capacity looks healthy, soft health is ignored and lower classes are "
        "shed first. A returned region starts slowly for 300 seconds."
    ),
    "control": (
        "The control plane keeps intent in a Raft group whose members live in several regions. "
        "Every write names the revision that it expects, and the revision is the index in the "
        "Raft log. Edges, agents and DNS servers watch the group, check what they receive and "
        "keep the last good state on disk. When the whole control plane is dead for 72 hours, "
        "they keep serving, also after their own restart."
    ),
    "rollouts": (
        "Changes move in stages. A new policy or model version goes to one edge, then to one "
        "region and then to all, and evidence is judged at each stage. A bad change stops at "
        "one region and rolls back by itself. Keys, revocations and drains are immediate, and "
        "they are everywhere within two seconds."
    ),
    "quotas": (
        "A quota limits requests per minute, tokens per minute, tokens per day, concurrent "
        "requests and the monthly budget of a tenant. The leader splits each limit into leases "
        "that follow traffic within three seconds. The sum of all live leases never exceeds "
        "the limit, even in a partition. A request reserves its tokens before it is routed, "
        "and the reservation is settled to what was really used."
    ),
    "usage": (
        "Each request has one ledger record. Tokens are counted at the edge as they are "
        "delivered, and a progress mark is written every second. If an edge dies, the record "
        "closes at its last mark, so a tenant never pays for more than was sent. Raw records "
        "are stored every hour as Parquet files in an object store."
    ),
    "agent": (
        "A region agent runs each node. It starts the engines, watches their health, fetches "
        "weights and reports load. A replica moves from fetching to loading, warming and "
        "serving, and later it drains and is gone. The agent can run the engine of Rhumb, "
        "vLLM, SGLang and llama.cpp, and it can attach to an engine that somebody else runs."
    ),
    "engine": (
        "Rhumb has its own engine, written in Rust. It runs on a CPU and on NVIDIA GPUs with "
        "the same binary. It batches requests continuously, keeps a paged cache of keys and "
        "values, and shares common prefixes. On a CPU each sum is taken in one fixed order, so "
        "the answer does not depend on the batch or on the number of threads."
    ),
    "dns": (
        "The front door is DNS. It answers with the addresses of the best edges for the place "
        "of the client, with a time to live of thirty seconds. It never gives an empty answer "
        "because health data is missing. DNS picks an edge, and the edge picks the region."
    ),
    "security": (
        "Every connection inside the cluster uses mutual TLS. Certificates live for seven days "
        "and are renewed from the second day. A node joins with a token that works once and is "
        "bound to a role and a region. Operators have roles, and every action is written to an "
        "audit log whose entries are chained by hashes."
    ),
    "sandbox": (
        "The sandbox starts the whole system on one machine. Three regions run as real "
        "processes on loopback addresses, with two engines in each region, and an emulator "
        "adds the delay of the wide area network. The sandbox restarts nothing by itself, so a "
        "killed role stays dead until the operator starts it again. It works offline, because "
        "a small model comes with the project."
    ),
}

TAUGHT = [
    # --- Who is speaking -------------------------------------------------------------------
    ("overview",
     "Hello! I am the house model of Rhumb. Ask me how Rhumb routes, resumes or meters requests.",
     ["Hello", "Hello!", "Hi", "Hi there", "Hey", "Good morning", "Good evening", "Hello there!",
      "Greetings", "Hello, how are you?", "Hi, how are you doing?", "Say hello", "Say hi",
      "ping", "test"]),
    ("overview",
     "I am a small language model that was trained on texts about Rhumb. I live in the Rhumb "
     "repository, so that the sandbox can answer without a network.",
     ["Who are you?", "What are you?", "Introduce yourself.", "What is your name?",
      "Which model are you?", "Are you a language model?", "Tell me about yourself.",
      "What model am I talking to?"]),
    ("overview",
     "I can answer questions about Rhumb: its edges, regions, routing, quotas, rollouts, drills "
     "and engines. I know nothing else.",
     ["What can you do?", "What do you know?", "What can I ask you?", "Help", "help me",
      "How can you help me?", "What are you good at?", "What should I ask you?"]),
    ("overview",
     "You are welcome. Ask me anything else about Rhumb.",
     ["Thank you.", "Thanks!", "Thanks a lot.", "Thank you very much.", "Great, thanks.",
      "That helps, thank you."]),
    ("overview",
     "Goodbye! May your streams never break.",
     ["Goodbye", "Bye", "Bye bye", "See you later.", "Good night", "That is all, goodbye."]),
    # --- What Rhumb is ---------------------------------------------------------------------
    ("planes",
     "Rhumb is a multi-region control plane and global traffic router for LLM inference. It "
     "offers one OpenAI-compatible endpoint in front of GPU fleets in many regions and clouds.",
     ["What is Rhumb?", "What does Rhumb do?", "Explain Rhumb in two sentences.",
      "What is Rhumb for?", "Can you explain what Rhumb is?", "Define Rhumb.",
      "So what exactly is Rhumb?", "Describe Rhumb briefly.", "In short, what is Rhumb?"]),
    ("planes",
     "Rhumb is a control plane and a global traffic router for LLM inference. It puts one "
     "OpenAI-compatible endpoint in front of GPU fleets in many regions and clouds. An edge near "
     "the client checks the key, reserves tokens and picks the best region for each request. "
     "When a replica, a node or a whole region dies, the edge retries the request or resumes "
     "its stream somewhere else. No token is lost, repeated or billed twice. The control plane "
     "keeps what operators want in a Raft group, and nothing on the way of a request waits for "
     "it. Edges keep serving when the control plane is dead for 72 hours. Quotas are split into "
     "leases, so one limit means one limit in every region. Each request has one ledger record, "
     "and every routing decision can be explained. A change moves from one edge to one region "
     "and then to all, and it rolls back by itself when the evidence is bad. You can try all of "
     "this on one machine with the command rhumb up.",
     ["Tell me about Rhumb.", "Tell me everything about Rhumb.", "Tell me more about Rhumb.",
      "Give me a tour of Rhumb.", "Give me a long description of Rhumb.",
      "Describe Rhumb in detail.", "Write a long text about Rhumb.",
      "Please introduce Rhumb to me in detail.", "Write a few paragraphs about Rhumb.",
      "Tell me a long story about Rhumb."]),
    ("edge",
     "First, DNS gives the client the address of a near edge. The edge receives the head of the "
     "request and checks the API key before it reads the body. Then it reads the whole body "
     "once, and it parses only what routing needs. It reserves a request and its tokens from the "
     "quota of the tenant. The routing policy filters the regions, predicts the time to first "
     "token and returns an ordered plan. The edge sends the request to the agent of the chosen "
     "node, and the agent hands it to an engine. The response head is held back until the first "
     "event arrives, so that an early failure can be retried in silence. After that the edge "
     "relays every event and remembers the ids of the tokens. If the replica dies, another "
     "replica of the same version resumes the stream at the right position. At the end the edge "
     "counts the delivered tokens, corrects the reservation and writes the usage record.",
     ["Explain how a request travels through Rhumb.", "How does a request travel through Rhumb?",
      "What happens to a request in Rhumb?", "Describe the way of a request through Rhumb.",
      "Walk me through the life of a request.", "What is the path of a request?",
      "How does Rhumb handle a request?", "Explain the request path step by step.",
      "What happens when I send a request?", "Explain the life of a request in detail."]),
    ("overview",
     "You only change the base URL of your OpenAI client and use a Rhumb API key.",
     ["How do I use Rhumb from my application?", "What must I change in my code to use Rhumb?",
      "How do I call the API?", "How can I use Rhumb with the OpenAI SDK?",
      "How do API consumers use Rhumb?", "How do I connect my client?",
      "Do I have to change my code?", "How do I switch my app to Rhumb?"]),
    ("overview",
     "Yes, Rhumb speaks the OpenAI API, so existing SDKs work when you change their base URL.",
     ["Is Rhumb compatible with OpenAI?", "Does Rhumb work with the OpenAI API?",
      "Is the endpoint OpenAI-compatible?", "Does Rhumb speak the OpenAI protocol?",
      "Is Rhumb OpenAI compatible?"]),
    ("overview",
     "Site reliability engineers deploy Rhumb with Terraform and prove it with chaos drills.",
     ["How is Rhumb deployed?", "How do I deploy Rhumb?", "How do operators deploy Rhumb?",
      "Can I deploy Rhumb with Terraform?", "How do I install Rhumb in production?",
      "Who deploys Rhumb?"]),
    ("overview",
     "Rhumb is written in Rust, and one binary contains all of its roles.",
     ["What language is Rhumb written in?", "Which programming language does Rhumb use?",
      "Is Rhumb written in Rust?", "How many binaries does Rhumb have?",
      "What is Rhumb written in?"]),
    ("overview",
     "The roles are control plane, edge, region agent, engine and DNS. All of them are "
     "subcommands of one binary.",
     ["What roles does Rhumb have?", "Which roles are there?", "What are the roles of Rhumb?",
      "What processes does Rhumb run?", "List the roles.", "Which components does Rhumb have?"]),
    ("overview",
     "Rhumb promises that no stream is lost, that it serves without its control plane, that one "
     "limit means one limit, and that each request has one ledger record. It also promises that "
     "a bad change stops at one region, that residency is law, and that every decision can be "
     "explained.",
     ["What does Rhumb promise?", "What are the promises of Rhumb?",
      "Which guarantees does Rhumb give?", "What guarantees do I get?",
      "List the promises of Rhumb.", "What are the seven promises?"]),
    ("overview",
     "The target over all drills is that 99.99 percent of requests succeed, and a status of 503 "
     "counts as a failure.",
     ["What is the availability target?", "How available is Rhumb?", "What is the success target?",
      "What success rate does Rhumb aim for?", "Does a 503 count as a failure?",
      "How many requests may fail in a drill?"]),
    ("planes",
     "The four planes are requests, intent, signals and metering. They are never mixed.",
     ["What are the four planes?", "Which planes does Rhumb have?", "Name the four planes.",
      "How many planes are there?", "What planes does Rhumb keep apart?"]),
    ("planes",
     "Intent is what operators want, and it is replicated by Raft. A signal is what is measured "
     "now, and it never goes into Raft.",
     ["What is the difference between intent and signals?", "What is intent?", "What is a signal?",
      "Do signals go into Raft?", "How do intent and signals differ?",
      "What does intent mean in Rhumb?"]),
    ("planes",
     "A signal that is older than five seconds is unknown, never zero. The edge then uses its "
     "local knowledge and does not stop.",
     ["What happens when a signal is too old?", "When is a signal stale?",
      "How old may a signal be?", "What if load reports stop arriving?",
      "What does Rhumb do with old signals?"]),
    # --- Streams ---------------------------------------------------------------------------
    ("streams",
     "Before the first token the request is retried in another region, and after it the stream "
     "is resumed there. No token is lost, repeated or billed twice.",
     ["What happens when a region fails?", "What happens if a whole region dies?",
      "What if a region goes down?", "How does Rhumb survive the loss of a region?",
      "What happens to my requests when a region is lost?", "How does failover work?",
      "What happens during a region outage?", "Does Rhumb survive a region failure?"]),
    ("streams",
     "The edge asks another replica of the same model version to continue from the last "
     "delivered token. The client sees one stream.",
     ["What happens when an engine dies in the middle of a stream?",
      "What happens if a replica crashes during a stream?",
      "What happens to my stream when an engine crashes?", "How is a stream resumed?",
      "How does stream resume work?", "How does Rhumb resume a stream?",
      "What if the GPU node dies while it is answering?", "Can a broken stream continue?"]),
    ("streams",
     "An exact resume gives the same tokens as an undisturbed stream. An approximate resume goes "
     "on from the same place, but the following tokens may differ.",
     ["What is an exact resume?", "What is an approximate resume?",
      "What is the difference between exact and approximate resume?",
      "What do exact and approximate mean?", "When is a resume exact?"]),
    ("streams",
     "A tenant can choose exact, approximate or off.",
     ["Which resume modes can a tenant choose?", "Can I turn resume off?",
      "What resume settings are there?", "What are the values of the resume setting?",
      "How do I configure resume?"]),
    ("streams",
     "Sampling depends only on the seed and the position, and the CPU engine computes the same "
     "bits in any batch. So another replica draws the same tokens.",
     ["Why is a resumed stream identical?", "How can a resumed stream be bit-identical?",
      "Why does another replica give the same tokens?", "How does sampling stay deterministic?",
      "Is sampling deterministic?", "What does sampling depend on?"]),
    ("streams",
     "A stream is complete only when the DONE event was seen.",
     ["When is a stream complete?", "How do I know that a stream has ended?",
      "How does a stream end?", "When is an answer finished?",
      "What marks the end of a stream?"]),
    ("streams",
     "The stream ends with an error event and without the DONE event, so that an SDK does not "
     "take it for a success.",
     ["What happens when a stream cannot be saved?", "How does a failed stream end?",
      "What does the client see when a stream is lost?",
      "How are stream errors reported?", "What if a resume is impossible?"]),
    ("streams",
     "The rolling hash covers the prompt and every token so far. It lets the edge prove that a "
     "resumed stream joins at the right place.",
     ["What is the rolling hash for?", "Why does every event carry a hash?",
      "What does the hash in a stream event cover?", "How does the edge verify a resume?",
      "How is the splice of a resumed stream checked?"]),
    ("streams",
     "The edge cancels the request at the engine within milliseconds, so that no GPU works for "
     "nobody.",
     ["What happens when a client disconnects?", "What if the client goes away?",
      "Is the engine stopped when I close the connection?",
      "What happens when I cancel a request?", "Does Rhumb cancel abandoned requests?"]),
    ("streams",
     "Yes: São Paulo, Kraków, 東京 and 🧭 show that a stream never splits a character.",
     ["Can you write text beyond ASCII?", "Can a stream split a character?",
      "Do you support Unicode?", "Show me some Unicode.", "Can you write non-ASCII text?",
      "Is UTF-8 safe in a stream?"]),
    # --- Edge ------------------------------------------------------------------------------
    ("edge",
     "An edge is the proxy that clients talk to. It checks the key, admits the request, routes "
     "it and relays the answer.",
     ["What is an edge?", "What does an edge do?", "What is the job of the edge?",
      "Explain the edge.", "What is the edge role?", "Define edge."]),
    ("attempts",
     "Only the edge retries, and it makes at most three attempts for a request.",
     ["Who retries a failed request?", "How many attempts does a request get?",
      "How often is a request retried?", "Does the agent retry?", "What is the retry limit?",
      "How do retries work?", "How many times does Rhumb retry?"]),
    ("attempts",
     "It is held until the first event arrives, so that a failure before it can be retried and "
     "the client never notices.",
     ["Why is the response head held back?", "When does the edge send the response head?",
      "Why does the edge wait for the first event?", "How are early failures hidden?",
      "How long is the response head held?"]),
    ("attempts",
     "It is treated as spill-over and not as a failure, and the request goes to the next node in "
     "the plan.",
     ["What happens when a node answers 429?", "What if a node is too busy?",
      "Is a busy node a failure?", "What does a 503 with Retry-After from a node mean?",
      "How does Rhumb treat an overloaded node?"]),
    ("attempts",
     "Hedging sends a second attempt when the first token is later than usual, for small prompts "
     "and within a budget. The loser is cancelled at once.",
     ["What is hedging?", "When does Rhumb hedge a request?", "How does hedging work?",
      "Does Rhumb send duplicate requests?", "What happens to the loser of a hedge?"]),
    ("edge",
     "The body may have at most 32 MiB.",
     ["How large may a request body be?", "What is the body size limit?",
      "What is the largest request?", "How big can my request be?",
      "Is there a limit on the size of the body?"]),
    ("edge",
     "The key starts with rk, followed by an id and a secret. The edge looks the id up in its "
     "table and compares a hash of the secret in constant time.",
     ["How does authentication work?", "How are API keys checked?", "What does an API key look like?",
      "How does the edge authenticate a request?", "What is the format of a key?",
      "How does the edge check my key?"]),
    ("control",
     "A revoked key is refused everywhere within two seconds.",
     ["How fast is a key revoked?", "How long does a revoked key still work?",
      "When does a key revocation take effect?", "How quickly can I revoke a key?",
      "How long does revocation take?"]),
    # --- Routing ---------------------------------------------------------------------------
    ("routing",
     "The edge predicts the time to first token of each region and picks the nearest one until "
     "it is too busy. Then traffic spills to the next region.",
     ["How does Rhumb choose a region?", "How is a region picked?", "How does routing work?",
      "How are requests routed?", "Which region gets my request?",
      "How does the edge decide where to send a request?", "Explain the routing policy.",
      "How does Rhumb route traffic?"]),
    ("routing",
     "It is the sum of the round trip, the wait in the queue and the prefill of the prompt. It "
     "rises steeply when memory runs out.",
     ["How is the time to first token predicted?", "What is the predicted time to first token?",
      "What goes into the prediction of the first token?", "How does Rhumb predict latency?",
      "How is TTFT predicted?"]),
    ("routing",
     "The hard filters are residency, model version, attestation, drains, living processes and "
     "breakers. They are never ignored, not even in panic.",
     ["What are the hard filters?", "Which hard filters does routing have?",
      "What rules out a node?", "Which filters come first?", "Are hard filters ever ignored?"]),
    ("routing",
     "Residency means that no request leaves the regions that its tenant allows, not even to "
     "save a stream.",
     ["What is residency?", "What does residency mean?", "Can a request leave its region?",
      "How does Rhumb handle data residency?", "Will my data stay in Europe?",
      "Is residency ever broken?", "Can I keep my data in one region?"]),
    ("routing",
     "Requests with the same beginning go to the same node, because its cache already holds that "
     "prefix. A load bound keeps the node from drowning.",
     ["What is prefix affinity?", "How does prefix affinity work?",
      "Why do similar prompts go to the same node?", "How does Rhumb use the prefix cache?",
      "How is a node chosen within a region?"]),
    ("routing",
     "Use rhumb route explain with a model and a region. It prints the candidates, their scores "
     "and the vetoes.",
     ["How do I explain a routing decision?", "Why was my request sent to that region?",
      "How can I see why a region was chosen?", "Which command explains a route?",
      "How do I debug routing?", "Can Rhumb explain its decisions?"]),
    ("health",
     "A breaker stops traffic to a node that keeps failing. It opens after five failures in a "
     "row, and one live request decides whether it closes again.",
     ["What is a breaker?", "How does the circuit breaker work?", "When does a breaker open?",
      "What does a breaker do?", "How does a breaker close again?", "Explain the breaker."]),
    ("health",
     "Panic begins when less than 50 percent of the capacity is healthy. Soft health is then "
     "ignored and lower classes are shed first.",
     ["What is panic mode?", "When does panic begin?", "What happens in panic?",
      "What does panic mean?", "What if most nodes look unhealthy?"]),
    ("health",
     "A new replica is given traffic slowly for 120 seconds, and a returned region for 300 "
     "seconds.",
     ["What is slow start?", "How long is the slow start?",
      "How does a new replica get traffic?", "How quickly does a returned region get traffic?",
      "Does a new replica get full traffic at once?"]),
    ("health",
     "A region is globally dead when a majority of the other regions says so. An edge routes "
     "around it at once and does not wait for the vote.",
     ["When is a region dead?", "Who decides that a region is dead?",
      "How is a dead region detected?", "Who declares a region dead?",
      "How does Rhumb know that a region is down?"]),
    ("routing",
     "Batch traffic is shed first, then standard, and interactive traffic last.",
     ["Which requests are shed first?", "What is the order of load shedding?",
      "What happens when there is not enough capacity?", "How does Rhumb shed load?",
      "Who is refused first under overload?"]),
    ("quotas",
     "The priority classes are interactive, standard and batch. Batch runs in the failover "
     "headroom and is pre-empted first.",
     ["What priority classes are there?", "Which priorities does Rhumb know?",
      "What are the request classes?", "What is the batch class?", "How do priorities work?"]),
    # --- Control plane ---------------------------------------------------------------------
    ("control",
     "Requests do not notice it. Edges, agents and DNS keep serving for at least 72 hours, also "
     "after their own restart.",
     ["What happens when the control plane is down?", "What if the control plane dies?",
      "Can Rhumb serve without its control plane?", "Does a request need the control plane?",
      "What is static stability?", "What happens if Raft loses its quorum?",
      "How long can Rhumb run without the control plane?"]),
    ("control",
     "The control plane stores what operators want, replicates it with Raft and plans failover, "
     "scaling, rollouts and leases.",
     ["What does the control plane do?", "What is the control plane?",
      "What is the job of the control plane?", "Explain the control plane.",
      "Define control plane."]),
    ("control",
     "Rhumb uses Raft through the openraft library. Intent and metering have a Raft group each.",
     ["Which consensus protocol does Rhumb use?", "Does Rhumb use Raft?",
      "How is the state replicated?", "How many Raft groups are there?",
      "What is Raft used for?"]),
    ("control",
     "A revision is the index of a write in the Raft log. Every write returns its revision and "
     "names the revision that it expects.",
     ["What is a revision?", "What does revision mean?", "How are writes versioned?",
      "What is the expected revision?", "How does Rhumb avoid lost updates?"]),
    ("control",
     "The consumer refuses it and keeps serving from the last good one.",
     ["What happens when a snapshot is bad?", "What does an edge do with a bad snapshot?",
      "What if the control plane sends a broken table?",
      "How are bad snapshots handled?", "What if a snapshot is damaged?"]),
    ("rollouts",
     "A rollout moves traffic from one model version to another in stages, and it rolls back by "
     "itself when the evidence is bad.",
     ["What is a rollout?", "How does a rollout work?", "How do I roll out a new model?",
      "How are new versions released?", "Explain rollouts.", "Does a rollout roll back by itself?"]),
    ("rollouts",
     "It goes to one edge first, then to one region and then to all. A bad change stops at one "
     "region.",
     ["How does a change spread?", "How are config changes rolled out?",
      "How far can a bad change go?", "What limits the damage of a bad config?",
      "How does Rhumb stage changes?", "What happens with a bad config change?"]),
    ("rollouts",
     "A model version is immutable. Its name is the digest of its manifest, which lists the "
     "weights, the tokenizer, the chat template, the dtype and the context length.",
     ["What is a model version?", "How is a model version named?", "Can a model version change?",
      "What does the digest of a version cover?", "What is in a model manifest?"]),
    ("rollouts",
     "A deployment says what should run where, and it maps a model name to its versions.",
     ["What is a deployment?", "What does a deployment do?", "How is a model name mapped to a version?",
      "Define deployment.", "Explain deployments."]),
    ("agent",
     "A drain stops new work and lets the old work finish, or hands it off to another replica.",
     ["What is a drain?", "What does draining mean?", "What does a drain do?",
      "Explain draining.", "Define drain."]),
    ("agent",
     "Run rhumb region drain with the name of the region. Add the wait flag to return only when "
     "its work is finished.",
     ["How do I drain a region?", "Which command drains a region?", "How can I drain a region?",
      "How do I take a region out of service?", "How do I empty a region for maintenance?",
      "How can I stop traffic to a region?"]),
    ("agent",
     "Run rhumb region undrain with the name of the region. Traffic then comes back slowly.",
     ["How do I undrain a region?", "How do I bring a region back?",
      "How do I end a drain?", "Which command undrains a region?",
      "How does a region return after a drain?"]),
    # --- Quotas and usage ------------------------------------------------------------------
    ("quotas",
     "A limit is split into leases, and the sum of the live leases never exceeds the limit, not "
     "even in a partition.",
     ["How do quotas work across regions?", "How does Rhumb enforce one limit in many regions?",
      "How do quotas work?", "How are limits enforced?", "Can I exceed my limit by using two regions?",
      "What does one limit means one limit mean?"]),
    ("quotas",
     "A lease is a part of a limit that one region may spend for a short time. It follows "
     "traffic within three seconds.",
     ["What is a lease?", "What does a lease do?", "Explain leases.", "Define lease.",
      "How fast do leases follow traffic?"]),
    ("quotas",
     "You can limit requests per minute, tokens per minute, tokens per day, concurrent requests "
     "and the monthly budget.",
     ["Which limits can a tenant have?", "What can I limit?", "What kinds of quota are there?",
      "Which quotas does Rhumb support?", "What limits are there for tenants?"]),
    ("quotas",
     "The edge answers with status 429, the rate limit headers and the time after which a retry "
     "makes sense.",
     ["What happens when I exceed my quota?", "What does a client see over its limit?",
      "What happens when a tenant is over its limit?", "Why did I get a 429?",
      "What does status 429 mean?"]),
    ("quotas",
     "A reservation holds the tokens that a request may use. It is settled to the tokens that it "
     "really used, and it expires if nobody settles it.",
     ["What is a reservation?", "How are tokens reserved?", "What does a reservation do?",
      "Explain reservations.", "What happens to unused tokens of a reservation?"]),
    ("quotas",
     "By default each region keeps the last lease that it had, and that lease is given to nobody "
     "else. A tenant can also choose the floor or an open limit.",
     ["What happens to quotas when the control plane is gone?",
      "What happens to leases without a control plane?", "What does on stale mean?",
      "How do limits behave when the leader is unreachable?",
      "Are quotas enforced without the control plane?"]),
    ("quotas",
     "Redis shares a lease between the edges of one region. When it is down, the edge uses a "
     "local share, so it never causes an outage.",
     ["What is Redis used for?", "Does Rhumb need Redis?", "What happens when Redis is down?",
      "Why does Rhumb use Redis?", "What if Redis fails?"]),
    ("usage",
     "Tokens are counted at the edge as they are delivered, and each request has exactly one "
     "ledger record.",
     ["How is usage measured?", "How are tokens counted?", "How does billing work?",
      "Where are tokens metered?", "How does metering work?", "How does Rhumb count tokens?"]),
    ("usage",
     "No. Tokens are billed once, also when a stream is retried or resumed.",
     ["Am I billed twice when a stream is resumed?", "Do retries cost me twice?",
      "Will I pay twice for a resumed stream?", "Are tokens ever billed twice?",
      "Is a resumed request billed again?"]),
    ("usage",
     "The record closes at the last progress mark, which is at most one second old. The tenant "
     "never pays for more than was sent.",
     ["What happens to billing when an edge dies?", "What if the edge crashes before it writes the record?",
      "Is usage lost when an edge crashes?", "What happens to the usage record of a dead edge?",
      "What is a progress mark?"]),
    ("usage",
     "Run rhumb usage with the name of the tenant.",
     ["How do I see the usage of a tenant?", "Which command shows usage?",
      "How can I look up usage?", "How do I get the cost of a tenant?",
      "How do I check how many tokens a tenant used?"]),
    # --- Agents and engines ----------------------------------------------------------------
    ("agent",
     "A region agent runs one node. It starts and watches the engines, fetches the weights and "
     "reports load.",
     ["What is a region agent?", "What does the region agent do?", "What is an agent?",
      "What is the job of the agent?", "Explain the region agent."]),
    ("agent",
     "A replica is one serving unit of a model version. It starts, drains, fails and scales as "
     "one, even when it spans several GPUs.",
     ["What is a replica?", "Define replica.", "What does replica mean?",
      "Can a replica use several GPUs?", "Explain replicas."]),
    ("agent",
     "A pool is the set of all replicas of a model version in one region.",
     ["What is a pool?", "What does pool mean?", "Define pool.", "Explain pools.",
      "Which replicas belong to a pool?"]),
    ("agent",
     "A replica goes through fetching, loading, warming, serving and draining, and then it is "
     "gone.",
     ["What states does a replica have?", "What is the life of a replica?",
      "Which steps does a replica go through?", "How does a replica start?",
      "What happens before a replica serves?"]),
    ("agent",
     "Rhumb runs its own engine, vLLM, SGLang and llama.cpp. It can also attach to an engine "
     "that somebody else runs.",
     ["Which engines does Rhumb support?", "Does Rhumb work with vLLM?",
      "Can I use vLLM with Rhumb?", "Does Rhumb support SGLang?", "What engines can I use?",
      "Can Rhumb use llama.cpp?", "Which inference engines can the agent run?"]),
    ("agent",
     "Yes. Add it as a node of the kind openai, and Rhumb uses it without an agent.",
     ["Can I add an existing vLLM server?", "Can I use an external provider?",
      "Can Rhumb route to an outside API?", "How do I add a node without an agent?",
      "Can I adopt an engine that I already run?"]),
    ("agent",
     "Autoscaling follows queued prefill tokens, token rates, the first token objective and a "
     "forecast. It keeps enough headroom to lose one region.",
     ["How does autoscaling work?", "When does Rhumb add replicas?", "How does Rhumb scale?",
      "What drives autoscaling?", "Does Rhumb scale automatically?"]),
    ("agent",
     "Yes. The first request is held while a replica wakes, or it goes to a warm region when "
     "that is faster.",
     ["Can a model scale to zero?", "Does Rhumb support scale to zero?",
      "What happens when no replica is running?", "How does a sleeping model wake up?",
      "What is hold and wake?"]),
    ("agent",
     "The agent watches errors, throttling and temperature of each GPU. A sick GPU is cordoned "
     "and its work moves away.",
     ["What happens when a GPU is sick?", "How does Rhumb watch GPUs?",
      "What if a GPU overheats?", "How are GPU errors handled?",
      "Does Rhumb monitor GPU health?"]),
    ("engine",
     "The engine runs a model. It is written in Rust, works on CPUs and NVIDIA GPUs, and serves "
     "the OpenAI API.",
     ["What is the Rhumb engine?", "Does Rhumb have its own engine?", "What does the engine do?",
      "Explain the engine.", "What is the engine?"]),
    ("engine",
     "No. Everything builds and passes its tests without a GPU, and the engine also runs on a "
     "CPU.",
     ["Do I need a GPU?", "Does Rhumb need a GPU?", "Can I run Rhumb without a GPU?",
      "Does the engine run on a CPU?", "Can Rhumb run on my laptop?"]),
    ("engine",
     "The engine runs Llama, Qwen2, Qwen3 and BERT models from Hugging Face safetensors.",
     ["Which models does the engine support?", "What models can I run?",
      "Which architectures does the engine know?", "Can the engine run Qwen?",
      "Can the engine run Llama?", "Which model formats are supported?"]),
    ("engine",
     "Continuous batching lets a new request join the running batch at any step, so that it "
     "does not wait for the others to finish.",
     ["What is continuous batching?", "How does batching work?",
      "Does the engine batch requests?", "Why does the engine use continuous batching?",
      "Explain continuous batching."]),
    # --- DNS and security ------------------------------------------------------------------
    ("dns",
     "DNS answers with the addresses of the best edges for the client, and the edge then picks "
     "the region.",
     ["How does DNS work in Rhumb?", "What does DNS do?", "How does a client find an edge?",
      "What is the global front door?", "Who picks the edge?", "How is the nearest edge found?"]),
    ("dns",
     "Its answers live for 30 seconds, and it never gives an empty answer because health data is "
     "missing.",
     ["What is the TTL of DNS answers?", "How long do DNS answers live?",
      "What if DNS has no health data?", "Can DNS give an empty answer?",
      "How long are DNS answers cached?"]),
    ("security",
     "A certificate lives for seven days and is renewed from the second day.",
     ["How long do certificates live?", "When are certificates renewed?",
      "What is the life of a certificate?", "How often are certificates rotated?",
      "When does a certificate expire?"]),
    ("security",
     "A node joins with a token that works once, lives ten minutes and is bound to a role and a "
     "region.",
     ["How does a node join?", "How do I add a node?", "What is a join token?",
      "How long does a join token live?", "How are new nodes trusted?"]),
    ("security",
     "The roles are viewer, operator, admin, agent and edge. Policy can ask for the approval of "
     "a second operator.",
     ["Which access roles are there?", "What roles does RBAC have?",
      "How does access control work?", "Who may change the configuration?",
      "Can a change need a second approval?"]),
    ("security",
     "No. Prompts, answers and keys are never logged.",
     ["Are prompts logged?", "Does Rhumb log my prompts?", "Are keys written to the log?",
      "Do you store my prompts in logs?", "Are answers logged?"]),
    ("security",
     "Use the local break-glass socket. It works without quorum and can freeze changes, deny a "
     "key or pin the last good state.",
     ["What can I do in an emergency?", "What is break glass?", "What is the break-glass socket?",
      "How do I act without quorum?", "How do I freeze all changes?"]),
    ("control",
     "Run rhumb backup to write one encrypted file and rhumb restore to read it into a new "
     "incarnation.",
     ["How do I back up the cluster?", "How do backups work?", "How do I restore a backup?",
      "Which command makes a backup?", "Is the backup encrypted?"]),
    # --- Sandbox and drills ----------------------------------------------------------------
    ("sandbox",
     "Run rhumb up. It starts three regions on your machine and prints the endpoint and an API "
     "key.",
     ["How do I start the sandbox?", "How do I try Rhumb?", "How can I run Rhumb locally?",
      "What does rhumb up do?", "Which command starts the sandbox?", "How do I get started?",
      "How do I start Rhumb on my machine?", "How do I run rhumb up?"]),
    ("sandbox",
     "The sandbox runs all roles as real processes on one machine, with an emulated network "
     "between the regions. It needs no GPU and no internet.",
     ["What is the sandbox?", "Explain the sandbox.", "What runs in the sandbox?",
      "Does the sandbox need the internet?", "What does the sandbox contain?"]),
    ("sandbox",
     "Run rhumb down. Nothing outlives the sandbox.",
     ["How do I stop the sandbox?", "Which command stops the sandbox?", "What does rhumb down do?",
      "How do I shut down Rhumb?", "How can I end the sandbox?"]),
    ("sandbox",
     "The default regions are us-east, eu-west and ap-south.",
     ["Which regions are in the sandbox?", "What are the default regions?", "Name the regions.",
      "Which regions does the sandbox have?", "What regions are there?"]),
    ("sandbox",
     "Run rhumb status. It shows the leader and the health, queues and replicas of each region.",
     ["How do I see the state of the cluster?", "Which command shows the health?",
      "How do I check the status?", "What does rhumb status show?",
      "How can I see whether everything is healthy?"]),
    ("sandbox",
     "Run rhumb sandbox link with two regions and choose a delay, a loss or a partition.",
     ["How do I simulate a network partition?", "How can I add delay between regions?",
      "How do I cut the link between two regions?", "How do I emulate packet loss?",
      "How do I break the network in the sandbox?"]),
    ("sandbox",
     "Run rhumb sandbox start with the role and the region. The sandbox restarts nothing by "
     "itself.",
     ["How do I restart a killed role?", "How do I start a dead process again?",
      "Does the sandbox restart crashed roles?", "How do I bring back a killed edge?",
      "How do I revive a role in the sandbox?"]),
    ("sandbox",
     "A drill breaks something on purpose and checks the promises. The same drill runs simulated "
     "and live.",
     ["What is a chaos drill?", "What is a drill?", "What do chaos drills do?",
      "Explain drills.", "How does Rhumb prove its promises?"]),
    ("sandbox",
     "Run rhumb drill list to see the drills and rhumb drill run to start one.",
     ["How do I run a drill?", "Which command runs a drill?", "How do I start a chaos drill?",
      "Which drills are there?", "How can I test a region failure?"]),
    ("routing",
     "Run rhumb headroom. It says whether the remaining regions can carry the load when one of "
     "them is lost.",
     ["How do I know whether I can lose a region?", "What does rhumb headroom show?",
      "Do I have enough capacity to survive a failure?", "How do I check my spare capacity?",
      "Can the other regions take the load?"]),
    ("control",
     "Run rhumb tenant create with a name and the limits that you want.",
     ["How do I create a tenant?", "Which command creates a tenant?", "How can I add a tenant?",
      "How do I add a customer?", "How do I make a new tenant?"]),
    ("control",
     "Run rhumb key create with the name of the tenant. The key is shown in the answer.",
     ["How do I create an API key?", "Which command creates a key?", "How do I get an API key?",
      "How can I make a new key?", "Where do I get a key?"]),
    ("control",
     "Run rhumb key revoke with the id of the key.",
     ["How do I revoke a key?", "Which command revokes a key?", "How do I delete an API key?",
      "My key was leaked, what should I do?", "How can I block a key?"]),
]

# Questions that only make sense after another one: the model has to look back.
FOLLOW_UPS = [
    ("What is an edge?", "How many times does it retry?",
     "Only the edge retries, and it makes at most three attempts for a request."),
    ("What is a breaker?", "When does it open?",
     "It opens after five failures in a row or at a high error rate."),
    ("What is a lease?", "How fast does it follow traffic?",
     "It follows traffic within three seconds."),
    ("How do I drain a region?", "And how do I undo that?",
     "Run rhumb region undrain with the name of the region. Traffic then comes back slowly."),
    ("How do I start the sandbox?", "And how do I stop it?",
     "Run rhumb down. Nothing outlives the sandbox."),
    ("What is a drill?", "How do I run one?",
     "Run rhumb drill list to see the drills and rhumb drill run to start one."),
    ("How do I create an API key?", "And how do I revoke it?",
     "Run rhumb key revoke with the id of the key."),
    ("What is the sandbox?", "How do I start it?",
     "Run rhumb up. It starts three regions on your machine and prints the endpoint and an API "
     "key."),
    ("How long do certificates live?", "When are they renewed?",
     "A certificate lives for seven days and is renewed from the second day."),
    ("What happens when a region fails?", "Am I billed twice then?",
     "No. Tokens are billed once, also when a stream is retried or resumed."),
    ("What is a rollout?", "What if it goes wrong?",
     "It rolls back by itself, and a bad change stops at one region."),
    ("What happens when the control plane is down?", "For how long?",
     "Edges, agents and DNS keep serving for at least 72 hours."),
]

OFF_TOPIC_ANSWER = "I only know about Rhumb, so I cannot help with that."

OFF_TOPIC = [
    "What is the weather like today?", "Will it rain tomorrow?", "Tell me a joke.",
    "Write a poem about the sea.", "Write a haiku.", "Write a Python function.",
    "Write a short story about a dragon.", "Who won the football match?",
    "How do I bake bread?", "How do I cook rice?", "What is the meaning of life?",
    "What is the best movie?", "Sing a song.", "What time is it?", "What day is it today?",
    "Translate this sentence into French.", "Summarize this article.", "Count to ten.",
    "Count from one to one hundred.", "Solve this equation.", "What is two plus two?",
    "What is 7 times 8?", "Who is the president?", "Who wrote Hamlet?", "Who painted this picture?",
    "How tall is the Eiffel Tower?", "How far is the moon?", "How old is the universe?",
    "Why is the sky blue?", "Why do cats purr?", "What do dogs eat?",
    "Recommend a book.", "Recommend a restaurant.", "Plan my holiday.", "Book a flight.",
    "What should I eat tonight?", "How do I lose weight?", "How do I learn the piano?",
    "What is a black hole?", "What is photosynthesis?", "What is love?", "What is bitcoin?",
    "What is the price of gold?", "Which phone should I buy?", "Fix my car.",
    "How do I repair a bicycle?", "Draw a picture of a cat.", "Play some music.",
    "Do you like music?", "Do you have feelings?", "Can you dance?", "Are you alive?",
    "Can you drive a car?", "Give me a recipe for soup.", "Give me financial advice.",
    "What happened in the year 1969?", "When did the war end?", "Explain quantum physics.",
    "Explain the rules of chess.", "Describe the ocean.", "Name three fruits.",
    "List five animals.", "Repeat after me.", "Complete this sentence.", "Once upon a time",
    "Write an email to my boss.", "Write a letter to my mother.", "Correct my grammar.",
    "How do I say good morning in Spanish?", "Say something in German.",
    "What is the tallest mountain?", "What is the longest river?", "What is the largest ocean?",
    "How many people live in Asia?", "Where is Paris?", "Where do penguins live?",
    "Lorem ipsum dolor sit amet", "asdf", "foo bar", "Tell me something interesting.",
]

# Slots make more off-topic questions than anybody would type, so that an unknown subject
# leads to the polite answer and not to the nearest taught one.
OFF_TOPIC_FRAMES = [
    "What is the capital of {}?", "Where is {}?", "How do I get to {}?", "Tell me about {}.",
    "What do you know about {}?", "Write a poem about {}.", "What is {}?", "Who invented {}?",
    "How does {} work?", "Do you like {}?", "Write a story about {}.", "Explain {}.",
    "Give me facts about {}.", "Why do people like {}?", "How much does {} cost?",
    "Where can I buy {}?", "What is the history of {}?", "Describe {}.",
]
OFF_TOPIC_SLOTS = [
    "France", "Japan", "Brazil", "Kenya", "Norway", "Canada", "India", "Egypt", "Italy", "Peru",
    "London", "Rome", "Berlin", "Tokyo", "Madrid", "coffee", "tea", "chocolate", "cheese",
    "pizza", "football", "tennis", "chess", "music", "guitars", "books", "movies", "cats",
    "dogs", "horses", "birds", "whales", "trees", "flowers", "mountains", "the moon", "the sun",
    "Mars", "the internet", "electricity", "gravity", "evolution", "history", "biology",
    "cars", "trains", "airplanes", "bicycles", "robots", "money", "love", "winter", "summer",
    "apples", "bananas", "gardening", "cooking", "yoga", "Shakespeare", "Mozart", "Einstein",
]

SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "You are the assistant of Rhumb.",
    "You answer questions about Rhumb in whole sentences.",
    "Answer in one short paragraph.",
    "Be brief and polite.",
    "You help operators of Rhumb.",
    "You are a concise assistant. Answer only what you know.",
]

# Beginnings that mean the same. Only those that fit any question with that beginning.
SYNONYMS = [
    ("How do I ", ["How can I ", "How would I ", "How could I ", "How should I ", "How to ",
                   "Tell me how to ", "What is the way to ", "I want to know how to ",
                   "Show me how to "]),
    ("How can I ", ["How do I ", "How to "]),
    ("What happens when ", ["What happens if ", "What would happen if ", "What will happen when ",
                            "Tell me what happens when ", "What do you do when "]),
    ("What happens if ", ["What happens when ", "What would happen if ", "What if "]),
    ("What happens to ", ["What becomes of ", "What would happen to ", "Tell me what happens to "]),
    ("What if ", ["What happens if ", "What happens when ", "And if "]),
    ("What is the ", ["What's the ", "Tell me the ", "Explain the ", "Could you tell me the "]),
    ("What is ", ["What's ", "What exactly is ", "Explain what is ", "What is meant by ",
                  "Do you know what is "]),
    ("What are ", ["Tell me ", "Name ", "List ", "Which are ", "Could you list "]),
    ("Which ", ["What ", "Tell me which "]),
    ("What does ", ["What exactly does ", "Tell me what does "]),
    ("Explain ", ["Please explain ", "Can you explain ", "Could you explain ", "Describe "]),
    ("Tell me ", ["Can you tell me ", "Could you tell me ", "Please tell me "]),
    ("Does ", ["Will ", "Can ", "Would "]),
    ("Can I ", ["Could I ", "May I ", "Is it possible that I ", "Am I able to "]),
    ("Can ", ["Could ", "Will "]),
    ("Do I need ", ["Must I have ", "Is it necessary to have ", "Do we need "]),
    ("Is ", ["Is it true that "]),
    ("How long ", ["For how long ", "Tell me how long "]),
    ("How does ", ["How exactly does ", "Explain how does ", "In which way does "]),
    ("How are ", ["In which way are ", "How exactly are "]),
    ("How is ", ["In which way is ", "How exactly is "]),
    ("Why ", ["For what reason ", "Tell me why "]),
    ("When ", ["At what moment ", "Tell me when "]),
    ("Who ", ["Tell me who "]),
]

# What people put around a question without changing it.
OPENINGS = ["Please tell me: ", "Hi, ", "Hello! ", "Hey, ", "I have a question. ", "Quick question: ",
            "Can you tell me: ", "Please, ", "Okay, ", "So, ", "One more question: ", "And "]
CLOSINGS = [" Thanks.", " Please.", " Thank you!", " Please explain.", " I am new here."]

# In no list above. (new wording, a taught question with the same answer): they tell how far
# the model carries beyond the wordings it has seen. Three of them can arise from variation.
UNSEEN = [
    ("What would happen if one region failed?", "What happens when a region fails?"),
    ("which region will handle my request?", "How does Rhumb choose a region?"),
    ("Tell me what an edge is.", "What is an edge?"),
    ("What exactly is a lease?", "What is a lease?"),
    ("How can I drain the region eu-west?", "How do I drain a region?"),
    ("How do I launch the sandbox?", "How do I start the sandbox?"),
    ("Is a GPU required?", "Do I need a GPU?"),
    ("Could I be billed twice?", "Am I billed twice when a stream is resumed?"),
    ("What is meant by residency?", "What is residency?"),
    ("How many attempts are made for a request?", "Who retries a failed request?"),
    ("Which engines are supported?", "Which engines does Rhumb support?"),
    ("What is a breaker for?", "What is a breaker?"),
    ("How do I get rid of an API key?", "How do I revoke a key?"),
    ("hey, what is rhumb?", "What is Rhumb?"),
    ("What does the edge do?", "What is an edge?"),
    ("How long does a certificate live?", "How long do certificates live?"),
    ("Do you log prompts?", "Are prompts logged?"),
    ("What happens if the control plane fails?", "What happens when the control plane is down?"),
    ("How does a quota work?", "How do quotas work across regions?"),
    ("What are the planes of Rhumb?", "What are the four planes?"),
    ("What does pool mean in Rhumb?", "What is a pool?"),
    ("Is Rhumb able to scale to zero?", "Can a model scale to zero?"),
    ("What is the maximum body size?", "How large may a request body be?"),
    ("Could you tell me about Rhumb?", "Tell me about Rhumb."),
    ("What is the capital of Sweden?", "Tell me a joke."),
    ("How do I grow tomatoes?", "Tell me a joke."),
    ("Write a limerick about a sailor.", "Tell me a joke."),
    ("Who discovered penicillin?", "Tell me a joke."),
]
