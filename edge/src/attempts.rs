//! Which attempts are made for a request, one after the other or two at once, until one has delivered a first event.
//!
//! Only the edge retries. Nothing of a node's answer reaches the client until then, so a node that says "200" and
//! dies costs the client nothing but time. An answer that was lost later goes on by attempts of another kind, which
//! count for themselves.

use crate::Edge;
use crate::answer::Stop;
use crate::attempt::{
    ATTEMPT_WORTH, Answering, Asked, Attempt, Failed, NodeFailed, Stage, Turn, purpose_as_str,
};
use crate::budgets::{Called, InLine};
use crate::decision_log::{Decision, What};
use crate::progress::{Delivered, NotResumable, Progress};
use crate::refusal::Refusal;
use crate::resume::Lost;
use crate::resume_buffer::Kept;
use bytes::Bytes;
use policy::{Ask, NoRoute, Purpose, route};
use std::pin::pin;
use std::time::{Duration, Instant};
use types::header;
use types::intent::Resume;
use types::{NodeKey, ReplicaId, ResumeLine, StreamPosition};

/// All attempts of one request.
pub(crate) struct Attempts<'a> {
    edge: &'a Edge,
    asked: &'a Asked,
    decision: &'a Decision,
    /// Until nobody can need it any more.
    body: Bytes,
    /// Until then some attempt must have brought a first event.
    deadline: Instant,
    /// Those that this round went to, in order.
    nodes: Vec<NodeKey>,
    /// Of all rounds.
    count: u32,
    /// How many attempts of this round a node had a hand in.
    worked_on: u32,
    /// That lost the answer, or failed this round.
    replicas: Vec<ReplicaId>,
    /// What further attempts of this round are for.
    purpose: Purpose,
    /// What a node of this round computes before it has a first token: the prompt, and of an answer that goes on what
    /// there is of it.
    tokens: u64,
    last: Option<NodeFailed>,
    begun_anew: u32,
    expected_gap: Duration,
}

/// An answer that shall go on, as a node needs it.
pub(crate) struct Resumed {
    body: Bytes,
    position: StreamPosition,
}

/// Why an answer cannot go on elsewhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsaved {
    #[error("it is not resumable, by {}", .0.as_str())]
    NotResumable(NotResumable),
    #[error("it was resumed {RESUMES_MAX} times already")]
    TooOften,
    #[error("too many streams are being resumed")]
    Budget,
    #[error("no node can take it: {0}")]
    NoRoute(NoRoute),
    #[error("nobody took it in {attempts} attempt(s); at last: {last}")]
    Failed { attempts: usize, last: String },
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(edge: &'a Edge, asked: &'a Asked, decision: &'a Decision, body: Bytes) -> Self {
        let deadline = Instant::now() + asked.waits.first_token;
        let (nodes, replicas) = (Vec::new(), Vec::new());
        let (count, worked_on, begun_anew) = (0, 0, 0);
        edge.budgets().first_sent(asked.prompt_tokens, edge.clock.now());
        Self {
            edge,
            asked,
            decision,
            body,
            deadline,
            nodes,
            count,
            worked_on,
            replicas,
            purpose: Purpose::Retry,
            tokens: asked.prompt_tokens,
            last: None,
            begun_anew,
            expected_gap: Duration::ZERO,
        }
    }

    /// For answers that take longer than others to begin.
    pub(crate) fn within(self, first_token_max: Duration) -> Self {
        Self { deadline: Instant::now() + first_token_max, ..self }
    }

    pub(crate) fn edge(&self) -> &'a Edge {
        self.edge
    }

    pub(crate) fn asked(&self) -> &'a Asked {
        self.asked
    }

    pub(crate) fn decision(&self) -> &'a Decision {
        self.decision
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The node of the latest attempt. Where it was a hedge, the answer may come from the one before.
    pub(crate) fn node(&self) -> Option<&NodeKey> {
        self.nodes.last()
    }

    /// The next answer that begins. It stays on the heap: by value, each future that it is handed through would hold
    /// room for it.
    pub(crate) async fn begin(&mut self) -> Result<Box<Answering<'a>>, Stop> {
        loop {
            let purpose = if self.nodes.is_empty() { Purpose::First } else { Purpose::Retry };
            let attempt = self.choose(purpose, None).map_err(|refused| self.refuse(refused))?;
            match self.open_or_hedge(attempt).await {
                Ok(answering) => return Ok(Box::new(answering)),
                Err(Failed::Request { status, body }) => {
                    return Err(Stop::Engine { status, body: body.into() });
                }
                Err(Failed::Node(failed)) => self.failed(failed)?,
            }
        }
    }

    /// Notes a failure that cost the client nothing. `Err` = no attempt is left.
    pub(crate) fn failed(&mut self, failed: NodeFailed) -> Result<(), Stop> {
        let stage = self.note(failed);
        let may_go_on = self.worked_on < ATTEMPTS_MAX && self.nodes.len() < ATTEMPTS_WITH_DEAD_NODES_MAX;
        if !(may_go_on && self.is_in_time()) {
            return Err(self.exhausted().into());
        }
        // The prompt was computed for nothing; a wave of such failures must not become twice that wave of prompts.
        if stage == Stage::Head && !self.may_pay_for_retry() {
            self.decision.add(What::Refused { why: "the budget of retries is spent".to_owned() });
            return Err(self.exhausted().into());
        }
        Ok(())
    }

    /// Leaves a whole answer behind that could not be completed. `Err` = there will be no other.
    pub(crate) fn begin_anew(&mut self, lost: &Lost) -> Result<(), Stop> {
        self.begun_anew += 1;
        if !lost.may_begin_anew() || self.begun_anew >= ATTEMPTS_MAX || !self.may_pay_for_retry() {
            return Err(self.exhausted().into());
        }
        self.deadline = Instant::now() + self.asked.waits.first_token;
        (self.purpose, self.tokens) = (Purpose::Retry, self.asked.prompt_tokens);
        Ok(())
    }

    fn may_pay_for_retry(&self) -> bool {
        let (edge, now) = (self.edge, self.edge.clock.now());
        let may = edge.budgets().take_retry(self.asked.prompt_tokens, now);
        if !may {
            edge.metrics.budget_refused.with_label_values(&["retry"]).inc();
        }
        may
    }

    fn may_pay_for_hedge(&self) -> bool {
        let may = self.edge.budgets().take_hedge(self.edge.clock.now());
        if !may {
            self.edge.metrics.budget_refused.with_label_values(&["hedge"]).inc();
        }
        may
    }

    fn note(&mut self, failed: NodeFailed) -> Stage {
        let stage = failed.stage;
        self.pass_over(failed.replica.as_ref());
        self.worked_on += u32::from(stage != Stage::NotReached);
        self.last = Some(failed);
        stage
    }

    /// Names a replica to the nodes as one that is not to be asked again.
    fn pass_over(&mut self, replica: Option<&ReplicaId>) {
        let Some(replica) = replica.filter(|replica| !self.replicas.contains(replica)) else { return };
        if self.replicas.len() >= REPLICAS_MAX {
            self.replicas.remove(0);
        }
        self.replicas.push(replica.clone());
    }

    fn exhausted(&self) -> Refusal {
        let last = self.last.as_ref();
        Refusal::AttemptsFailed {
            attempts: self.count,
            retry_after: last.and_then(|failed| failed.retry_after),
        }
    }

    pub(crate) fn refuse(&self, refused: Refusal) -> Refusal {
        self.decision.add(What::Refused { why: refused.to_string() });
        // What happened to this request says more than what the table looks like after it.
        if self.last.is_some() { self.exhausted() } else { refused }
    }

    /// The attempt that the policy wants now.
    pub(crate) fn choose(
        &mut self,
        purpose: Purpose,
        resumed: Option<&Resumed>,
    ) -> Result<Attempt<'a>, Refusal> {
        let (edge, asked) = (self.edge, self.asked);
        let (turn, choice) = {
            // The table is changed under this lock, so both are of one moment.
            let mut health = edge.health();
            let table = edge.routing_table()?;
            let (ask, now) = (self.ask(purpose), edge.clock.now());
            let mut choice = route(&table, &mut health, &edge.region, ask, now, fastrand::u64(..))?;
            if !table.nodes.contains_key(&choice.node) {
                let tried: Vec<_> = self.nodes.iter().cloned().chain([choice.node]).collect();
                let ask = Ask { tried: &tried, ..ask };
                choice = route(&table, &mut health, &edge.region, ask, now, fastrand::u64(..))?;
            }
            let entry = table.nodes.get(&choice.node).ok_or(NoRoute::NoNodes)?.clone();
            (Turn::take(edge, &mut health, &choice, entry), choice)
        };
        self.nodes.push(choice.node.clone());
        self.count += 1;
        self.decision.add(What::Sent {
            attempt: self.count,
            node: choice.node,
            purpose: purpose_as_str(purpose),
            reason: choice.reason.as_str(),
            predicted: choice.predicted.into(),
        });
        let tried = self.replicas.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let (path, body, from) = match resumed {
            Some(resumed) => (header::RESUME_PATH, resumed.body.clone(), Some(resumed.position)),
            None => (asked.endpoint.path(), self.body.clone(), None),
        };
        Ok(Attempt {
            asked,
            decision: self.decision,
            turn,
            predicted: Duration::from_micros(choice.predicted.total_us()),
            number: self.count,
            tried,
            deadline: self.deadline,
            path,
            body,
            from,
        })
    }

    fn ask(&self, purpose: Purpose) -> Ask<'_> {
        let asked = self.asked;
        Ask {
            version: asked.version,
            regions: asked.regions.as_deref(),
            priority: asked.priority,
            prompt_tokens: self.tokens,
            prefix: &asked.prefix,
            tried: &self.nodes,
            purpose,
        }
    }

    /// Whether another node than the last would take the request, for what this round is for.
    pub(crate) fn is_elsewhere(&self) -> impl Fn() -> bool + use<'a> {
        let (edge, asked, tried) = (self.edge, self.asked, self.nodes.clone());
        let (purpose, prompt_tokens) = (self.purpose, self.tokens);
        move || {
            let ask = Ask {
                version: asked.version,
                regions: asked.regions.as_deref(),
                priority: asked.priority,
                prompt_tokens,
                prefix: &asked.prefix,
                tried: &tried,
                purpose,
            };
            // Of one moment with the table.
            let mut health = edge.health();
            let Ok(table) = edge.routing_table() else { return false };
            let chosen = route(&table, &mut health, &edge.region, ask, edge.clock.now(), fastrand::u64(..));
            chosen.is_ok_and(|choice| tried.last() != Some(&choice.node) && !choice.reason.is_doubtful())
        }
    }

    /// One attempt; and beside it a second one if the first is later than most.
    async fn open_or_hedge(&mut self, attempt: Attempt<'a>) -> Result<Answering<'a>, Failed> {
        let (after, paid_by) = self.second_after(&attempt);
        let (began, region) = (Instant::now(), attempt.turn.node.region.clone());
        let opened = self.open_or_second(attempt, after, paid_by).await;
        if opened.is_ok() {
            // Also of one that was given up for the second: or else the late would vanish from the picture.
            let (edge, version) = (self.edge, self.asked.version);
            edge.budgets().first_token(&region, version, began.elapsed(), edge.clock.now());
        }
        opened
    }

    /// One attempt; and beside it a second one if the first has not begun after so long.
    async fn open_or_second(
        &mut self,
        attempt: Attempt<'a>,
        after: Duration,
        paid_by: PaidBy<'_>,
    ) -> Result<Answering<'a>, Failed> {
        let mut first = pin!(attempt.open(self.is_elsewhere()));
        let second = tokio::select! {
            biased;
            opened = &mut first => return opened,
            second = self.second(after, paid_by) => second,
        };
        let Some(second) = second else { return first.await };
        let hedges = &self.edge.metrics.hedges;
        let mut second = Box::pin(second.open(self.is_elsewhere()));
        // The loser is dropped, which its node learns at once.
        let (opened, winner) = tokio::select! {
            biased;
            opened = &mut first => (opened, "first"),
            opened = &mut second => (opened, "second"),
        };
        let (failed, is_first) = match opened {
            Ok(answering) => {
                hedges.with_label_values(&[winner]).inc();
                return Ok(answering);
            }
            Err(Failed::Node(failed)) => (failed, winner == "first"),
            Err(refused) => return Err(refused),
        };
        self.note(failed);
        let (opened, winner) = if is_first { (second.await, "second") } else { (first.await, "first") };
        hedges.with_label_values(&[if opened.is_ok() { winner } else { "none" }]).inc();
        opened
    }

    /// When a second attempt is made beside the first, and who pays for it.
    fn second_after(&self, attempt: &Attempt<'_>) -> (Duration, PaidBy<'static>) {
        let edge = self.edge;
        let hedge = (self.count == 1).then(|| {
            let region = &attempt.turn.node.region;
            edge.budgets().hedge_after(region, self.asked.version, self.asked.prompt_tokens, edge.clock.now())
        });
        match hedge.flatten() {
            Some(after) => (after, PaidBy::Hedges),
            // Whatever the prompt: one that hangs in an engine must not spend the time of all attempts.
            // But what is slow by prediction hangs nowhere, however impatient the model's clients are.
            None => {
                let late = self.asked.waits.first_token / LATE_SHARE;
                (late.max(SLOW_TIMES * attempt.predicted), PaidBy::Retries)
            }
        }
    }

    /// The attempt beside one that has not begun after so long; `None` = there is nowhere to go, or nothing to pay with.
    async fn second(&mut self, after: Duration, paid_by: PaidBy<'_>) -> Option<Attempt<'a>> {
        tokio::time::sleep(after).await;
        // The late node counts once more: where all were tried alike, a draw might else choose it again.
        let late = self.nodes.len();
        self.nodes.extend(self.nodes.last().cloned());
        let second = self.paid_second(paid_by);
        self.nodes.remove(late);
        second
    }

    fn paid_second(&mut self, paid_by: PaidBy<'_>) -> Option<Attempt<'a>> {
        // Beside the first at the same node it would only wait in the same line.
        if !self.is_in_time() || !self.is_elsewhere()() {
            return None;
        }
        let (purpose, resumed) = match paid_by {
            PaidBy::Hedges => (self.may_pay_for_hedge().then_some(Purpose::Hedge)?, None),
            PaidBy::Retries => (self.may_pay_for_retry().then_some(Purpose::Hedge)?, None),
            PaidBy::Resumes(resumed) => {
                // In a storm it would stand before those that have not been tried once.
                let mut place = InLine::enter(self.edge, self.asked.priority, self.tokens)?;
                if !matches!(place.called(), Called::Now) {
                    return None;
                }
                (Purpose::Resume, Some(resumed))
            }
        };
        self.choose(purpose, resumed).ok()
    }

    /// Whether another attempt in this round could do anything but fail.
    fn is_in_time(&self) -> bool {
        let waits = &self.asked.waits;
        let round = if self.purpose == Purpose::Resume { waits.stall } else { waits.first_token };
        Instant::now() + ATTEMPT_WORTH.min(round / 4) < self.deadline
    }

    /// What another node would need, should the answer break off.
    pub(crate) fn keep(&self) -> Result<Kept, NotResumable> {
        if self.asked.resume == Resume::Off {
            return Err(NotResumable::Policy);
        }
        if self.asked.answers > 1 {
            return Err(NotResumable::SeveralAnswers);
        }
        self.edge.resume_buffer.keep(self.body.len()).map_err(|_| NotResumable::Buffer)
    }

    /// No attempt will need the body any more.
    pub(crate) fn forget_body(&mut self) {
        self.body = Bytes::new();
    }

    /// Begins a round of attempts that shall go on with an answer: where it was, and whether that node still is a
    /// place to go.
    pub(crate) fn lost(&mut self, node: Option<&NodeKey>, replica: Option<&ReplicaId>) {
        self.nodes.clear();
        self.nodes.extend(node.cloned());
        self.worked_on = 0;
        self.purpose = Purpose::Resume;
        // What failed an earlier round may have come back, and a list that only grows ends in a refusal.
        self.replicas.clear();
        self.pass_over(replica);
    }

    /// Asks other replicas to go on with an answer, until one has.
    pub(crate) async fn resume(&mut self, progress: &Progress) -> Result<Box<Answering<'a>>, Unsaved> {
        let kept = progress.kept().map_err(Unsaved::NotResumable)?;
        if progress.delivered().joins.count >= RESUMES_MAX {
            return Err(Unsaved::TooOften);
        }
        // As the node counted them: a guess by the body's length would let padding spend the budget of all.
        let Delivered { prompt_tokens, completion_tokens, .. } = progress.delivered();
        self.tokens = prompt_tokens.saturating_add(completion_tokens);
        // Before anything is copied: in a storm the line is long.
        self.wait_in_line().await?;
        let position = progress.position();
        let line = ResumeLine {
            path: self.asked.endpoint.path().to_owned(),
            token_ids: kept.token_ids(),
            hash: position.hash(),
            seed: self.asked.seed,
        };
        let body = Bytes::from([&line.to_line()[..], &self.body].concat());
        let resumed = Resumed { body, position };
        // The client has waited once already, and sees the answer stand still.
        self.deadline = Instant::now() + self.asked.waits.stall;
        self.last = None;
        let before = self.nodes.len();
        loop {
            let made = self.nodes.len() - before;
            let attempt = match self.choose(Purpose::Resume, Some(&resumed)) {
                Ok(attempt) => attempt,
                Err(Refusal::NoRoute(refused)) if self.last.is_none() => {
                    return Err(Unsaved::NoRoute(refused));
                }
                Err(_) => return Err(self.unsaved(made)),
            };
            // The client sees the answer stand still already, and this node may hang as the last one did.
            let late = (RESUME_LATE_TIMES * attempt.predicted).clamp(RESUME_LATE_MIN, RESUME_LATE_MAX);
            let opened = self.open_or_second(attempt, late, PaidBy::Resumes(&resumed)).await;
            let made = self.nodes.len() - before;
            match opened {
                Ok(answering) => return Ok(Box::new(answering)),
                Err(Failed::Node(failed)) => drop(self.note(failed)),
                // Not to a resume: it was not refused when it began.
                Err(Failed::Request { .. }) => return Err(self.unsaved(made)),
            }
            if made >= RESUME_ATTEMPTS_MAX || !self.is_in_time() {
                return Err(self.unsaved(made));
            }
        }
    }

    /// Waits until the survivors can compute one more such prompt.
    async fn wait_in_line(&mut self) -> Result<(), Unsaved> {
        let edge = self.edge;
        let mut place = InLine::enter(edge, self.asked.priority, self.tokens).ok_or(Unsaved::Budget)?;
        let expected = place.expected();
        self.expected_gap = self.expected_gap.max(expected);
        edge.metrics.resume_expected_seconds.observe(expected.as_secs_f64());
        // A client that waits for longer is better told at once.
        if expected > self.asked.waits.stall {
            return Err(Unsaved::Budget);
        }
        if !expected.is_zero() {
            let wait_ms = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
            self.decision.add(What::Paced { wait_ms });
        }
        loop {
            match place.called() {
                Called::Now => return Ok(()),
                Called::In(wait) => tokio::time::sleep(wait).await,
                Called::Never => return Err(Unsaved::Budget),
            }
        }
    }

    /// The longest time that a resume of this request had to expect before it was sent.
    pub(crate) fn expected_gap(&self) -> Duration {
        self.expected_gap
    }

    fn unsaved(&self, attempts: usize) -> Unsaved {
        let last = self.last.as_ref().map_or_else(String::new, |failed| failed.reason.clone());
        Unsaved::Failed { attempts, last }
    }
}

/// Whose budget a second attempt beside the first is taken from.
#[derive(Clone, Copy)]
enum PaidBy<'r> {
    Hedges,
    Retries,
    /// It goes on with this.
    Resumes(&'r Resumed),
}

/// More would only multiply an outage's load.
const ATTEMPTS_MAX: u32 = 3;
/// Nodes that are dead or silent get none of that load. So many lead out of two regions that died at once, before
/// any probe has found them out.
const ATTEMPTS_WITH_DEAD_NODES_MAX: usize = 6;
/// Per break: two dead regions and a full third.
const RESUME_ATTEMPTS_MAX: usize = 6;
/// Agents refuse a list of more than 32.
const REPLICAS_MAX: usize = 12;
/// Per answer. One that breaks more often breaks its engines.
const RESUMES_MAX: u32 = 8;
/// A resume that takes so many times what was predicted is late. Predictions are guesses of a mean.
const RESUME_LATE_TIMES: u32 = 2;
/// New connections and the engine's next step have room in it; with the silence before and the second attempt's own
/// time, the client waits for about a second.
const RESUME_LATE_MIN: Duration = Duration::from_millis(300);
/// However long a queue there was said to be: a sixth of what answers usually have to stand still.
const RESUME_LATE_MAX: Duration = Duration::from_secs(5);
/// A third of what all attempts have together.
const LATE_SHARE: u32 = 3;
/// A first token that takes so many times what was predicted.
const SLOW_TIMES: u32 = 2;
