//! The enricher: holds batches until their accounts are known, and sees to it that each look-up is made once. All of it is
//! the private state of one thread; only the caches are shared, and only it writes them.
//!
//! A batch comes here when a worker finds an account that is not in the caches. It leaves when the last of its look-ups is
//! answered or over its deadline; the sequencer puts it back in order. What waits here is bounded by the permits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};

use super::batch::Batch;
use super::fetcher::{self, Answered};
use super::metadata::{Metadata, Unfinished};
use crate::atproto::time;
use crate::enrich::cache::Found;
use crate::enrich::directory::{Desk, Directory, Outcome, PROFILES, Question, unverified};
use crate::enrich::document::Document;
use crate::enrich::{Account, Answer, Kind, Knowledge, Value, is_web};
use crate::health::Health;
use crate::metrics::{Handled, Metrics};

/// How often it looks around at least.
const LOOK_UP: Duration = Duration::from_millis(250);
/// Between the starts of two fetchers of one desk: each opens a connection, and a host whose queue for new ones is full lets
/// them wait for a second (Linux: the first retry of a SYN).
const START_EVERY: Duration = Duration::from_millis(1);
/// How often fetchers end that were idle since: each keeps some 200 kB.
const REST: Duration = Duration::from_secs(10);
/// Threads for the hosts of `did:web`, of which there are some hundreds.
const WEB: usize = 8;

pub struct Enricher {
    pub knowledge: Arc<Knowledge>,
    pub directory: Arc<Directory>,
    pub metadata: Metadata,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    pub unfinished: Receiver<Unfinished>,
    pub batches: Sender<Batch>,
}

/// One thing that is looked up of one account.
type Key = (Kind, Box<str>);

/// A look-up that is not answered yet.
struct LookUp {
    /// Tells it from an earlier one of the same account.
    serial: u64,
    stage: Stage,
    /// Its deadline is over: nobody waits for it any more.
    late: bool,
    /// `None`: there is none.
    deadline: Option<Instant>,
    /// Batches, and their holes, that its answer is for.
    waiting: Vec<Place>,
    /// What it will say is out of date: it is not kept, and asked for once more for these.
    stale: Option<Vec<Place>>,
}

/// How far a look-up is.
enum Stage {
    /// No fetcher has it yet.
    Backlog,
    Asked,
    /// The document is there, and its handle is looked up: in the backlog, or asked.
    Verifying {
        document: Arc<Document>,
        asked: bool,
    },
}

impl LookUp {
    /// What is known by now: a document whose handle is not verified yet is better than none.
    fn so_far(&self) -> Option<Value> {
        match &self.stage {
            Stage::Verifying { document, .. } => unverified(document).found.value(),
            _ => None,
        }
    }
}

/// A batch that waits, and its hole.
type Place = (u64, usize);

/// A batch that waits.
struct Waiting {
    batch: Batch,
    accounts: Vec<Account>,
    /// Answers that are still to come.
    left: usize,
}

/// The fetchers of one desk, and what waits for them.
struct Queue {
    /// Threads at most; they are started as they are needed.
    limit: usize,
    started: usize,
    last_start: Option<Instant>,
    busy: usize,
    /// The most that were busy since the last rest.
    most: usize,
    /// `None` ends the fetcher that takes it.
    questions: Sender<Option<Question>>,
    taken: Receiver<Option<Question>>,
    backlog: VecDeque<(u64, Key)>,
}

impl Queue {
    fn new(limit: usize) -> Self {
        // A question for each, and an end for each that was there before.
        let (questions, taken) = bounded(2 * limit);
        Queue { limit, started: 0, last_start: None, busy: 0, most: 0, questions, taken, backlog: VecDeque::new() }
    }

    /// Whether a question would be taken up at once.
    fn has_room(&self) -> bool {
        self.busy < self.started || (self.started < self.limit && self.next_start().is_none())
    }

    /// Ends the fetchers that had nothing to do since the last time. One of several stays.
    fn rest(&mut self) {
        let most = std::mem::replace(&mut self.most, self.busy).max(1);
        while self.started > most && self.questions.try_send(None).is_ok() {
            self.started -= 1;
        }
    }

    /// How long until one more fetcher may be started.
    fn next_start(&self) -> Option<Duration> {
        START_EVERY.checked_sub(self.last_start?.elapsed()).filter(|left| !left.is_zero())
    }
}

struct Run<'m> {
    e: Enricher,
    handled: Handled<'m>,
    answers_in: Sender<Answered>,
    answers: Receiver<Answered>,
    waiting: HashMap<u64, Waiting>,
    lookups: HashMap<Key, LookUp>,
    /// In order.
    deadlines: VecDeque<(Instant, u64, Key)>,
    /// By [`Desk`].
    queues: [Queue; 4],
    serial: u64,
}

impl Enricher {
    /// Runs until the workers are gone and nothing waits.
    pub fn run(self) {
        let metrics = self.metrics.clone();
        let n = self.knowledge.settings.concurrency;
        let (answers_in, answers) = bounded(2 * n + WEB);
        let mut run = Run {
            handled: Handled::new(&metrics),
            e: self,
            answers_in,
            answers,
            waiting: HashMap::new(),
            lookups: HashMap::new(),
            deadlines: VecDeque::new(),
            queues: [
                Queue::new(n),
                Queue::new(WEB),
                // Both go to one host. A question for profiles is for up to 25 accounts, and so is the memory of its answer.
                Queue::new(n.div_ceil(8)),
                Queue::new((n - n.div_ceil(8)).max(1)),
            ],
            serial: 0,
        };
        run.run();
    }
}

impl Run<'_> {
    fn run(&mut self) {
        let mut unfinished = self.e.unfinished.clone();
        let mut open = true;
        let answers = self.answers.clone();
        let (mut looked, mut rested) = (Instant::now(), Instant::now());
        loop {
            let deadline = self.deadlines.front().map(|(at, ..)| at.saturating_duration_since(Instant::now()));
            let start = self
                .queues
                .iter()
                .filter(|q| !q.backlog.is_empty() && q.started < q.limit)
                .filter_map(Queue::next_start);
            let until = start.chain(deadline).fold(LOOK_UP, Duration::min);
            select! {
                recv(unfinished) -> message => match message {
                    Ok(message) => {
                        self.accept(message);
                        while let Ok(message) = unfinished.try_recv() {
                            self.accept(message);
                        }
                    }
                    // The workers are gone: nothing comes any more.
                    Err(_) => (open, unfinished) = (false, never()),
                },
                recv(answers) -> answered => if let Ok(answered) = answered {
                    self.answered(answered);
                    while let Ok(answered) = answers.try_recv() {
                        self.answered(answered);
                    }
                },
                default(until) => {}
            }
            // In this order: with a deadline of 0 nobody waits, and the answer is still for the next event.
            self.ask();
            self.expire();
            if looked.elapsed() >= LOOK_UP {
                looked = Instant::now();
                self.report();
            }
            if rested.elapsed() >= REST {
                rested = Instant::now();
                self.queues.iter_mut().for_each(Queue::rest);
            }
            if self.waiting.is_empty() && !open {
                self.report();
                return;
            }
        }
    }

    /// Takes a batch, and sees to its look-ups.
    fn accept(&mut self, unfinished: Unfinished) {
        let Unfinished { batch, accounts, missing } = unfinished;
        self.serial += 1;
        let id = self.serial;
        let dids: Vec<Box<str>> = missing.iter().map(|m| batch.did(batch.holes[m.hole].record).into()).collect();
        self.waiting.insert(id, Waiting { batch, accounts, left: missing.len() });
        for (m, did) in missing.into_iter().zip(dids) {
            self.want((m.kind, did), m.forget.covers(m.kind), (id, m.hole));
        }
    }

    /// `fresh`: only an answer that is asked for from now on will do.
    fn want(&mut self, key: Key, fresh: bool, place: Place) {
        if fresh {
            // An answer may have come in since the worker dropped it.
            self.e.knowledge.drop_one(key.0, &key.1);
        }
        match self.lookups.get_mut(&key) {
            Some(lookup) if lookup.late => {
                if fresh {
                    lookup.stale.get_or_insert_default();
                }
                let value = lookup.so_far().filter(|_| lookup.stale.is_none());
                self.give(place, value);
            }
            Some(lookup) if fresh && !matches!(lookup.stage, Stage::Backlog) => {
                lookup.stale.get_or_insert_default().push(place);
            }
            Some(lookup) => lookup.stale.as_mut().unwrap_or(&mut lookup.waiting).push(place),
            // Or another batch had it looked up meanwhile.
            None => match self.e.knowledge.cached(key.0, &key.1, time::now_ms()).filter(|_| !fresh) {
                Some(found) => self.give(place, found.value()),
                None => {
                    let deadline = self.deadline(&key);
                    self.start(key, vec![place], deadline);
                }
            },
        }
    }

    /// When a look-up that begins now is late.
    fn deadline(&self, key: &Key) -> Option<Instant> {
        let settings = &self.e.knowledge.settings;
        // Whoever made a `did:web` may take its host away: nobody waits for that longer than for others.
        (!settings.required || desk(key) == Desk::Web).then(|| Instant::now() + settings.timeout)
    }

    fn start(&mut self, key: Key, waiting: Vec<Place>, deadline: Option<Instant>) {
        self.serial += 1;
        let serial = self.serial;
        if let Some(at) = deadline {
            self.remind(at, serial, &key);
        }
        self.queue(desk(&key)).backlog.push_back((serial, key.clone()));
        self.lookups.insert(key, LookUp { serial, stage: Stage::Backlog, late: false, deadline, waiting, stale: None });
    }

    fn remind(&mut self, at: Instant, serial: u64, key: &Key) {
        // Nearly always the last one: all have the same time.
        let place = self.deadlines.partition_point(|(other, ..)| *other <= at);
        self.deadlines.insert(place, (at, serial, key.clone()));
    }

    fn queue(&mut self, desk: Desk) -> &mut Queue {
        &mut self.queues[desk as usize]
    }

    /// Look-ups whose deadline is over: whoever waits goes on without.
    fn expire(&mut self) {
        let now = Instant::now();
        while self.deadlines.front().is_some_and(|(at, ..)| *at <= now)
            && let Some((_, serial, key)) = self.deadlines.pop_front()
        {
            let required = self.e.knowledge.settings.required;
            let Some(lookup) = self.lookups.get_mut(&key).filter(|l| l.serial == serial) else { continue };
            match &lookup.stage {
                // What is left is the AppView's.
                Stage::Verifying { .. } if required => continue,
                // It is not kept in the backlog of a host that is too slow, which would have no bound else.
                Stage::Verifying { document, asked: false } => {
                    let answer = unverified(document);
                    self.settle(&key, Some(answer));
                    continue;
                }
                _ => {}
            }
            lookup.late = true;
            let (value, places) = (lookup.so_far(), std::mem::take(&mut lookup.waiting));
            let stale: Vec<Place> = lookup.stale.iter_mut().flat_map(std::mem::take).collect();
            if matches!(lookup.stage, Stage::Backlog) {
                self.lookups.remove(&key);
            }
            for place in places {
                self.give(place, value.clone());
            }
            for place in stale {
                self.give(place, None);
            }
        }
    }

    /// Gives the fetchers what they can take.
    fn ask(&mut self) {
        for desk in [Desk::Plc, Desk::Web, Desk::Profiles, Desk::Handles] {
            loop {
                // A host that is down holds nobody.
                let closed = self.e.directory.is_closed(desk);
                let queue = self.queue(desk);
                if !closed && !queue.has_room() {
                    break;
                }
                let Some(key) = self.next(desk) else { break };
                let document = match self.lookups.get(&key).map(|l| &l.stage) {
                    Some(Stage::Verifying { document, .. }) => Some(document.clone()),
                    _ => None,
                };
                if closed {
                    self.settle(&key, document.as_deref().map(unverified));
                    continue;
                }
                let question = match desk {
                    Desk::Plc | Desk::Web if key.0 == Kind::Document => Question::Document(key.1),
                    Desk::Plc | Desk::Web => Question::Created(key.1),
                    Desk::Profiles => {
                        let mut dids = vec![key.1];
                        while dids.len() < PROFILES
                            && let Some((_, did)) = self.next(desk)
                        {
                            dids.push(did);
                        }
                        Question::Profiles(dids)
                    }
                    Desk::Handles => match document {
                        Some(document) => Question::Handle(key.1, document),
                        None => continue,
                    },
                };
                self.hand_over(desk, question);
            }
        }
    }

    /// The next look-up of a backlog that is still wanted; it counts as asked.
    fn next(&mut self, desk: Desk) -> Option<Key> {
        while let Some((serial, key)) = self.queue(desk).backlog.pop_front() {
            if let Some(lookup) = self.lookups.get_mut(&key).filter(|l| l.serial == serial) {
                match &mut lookup.stage {
                    Stage::Verifying { asked, .. } => *asked = true,
                    stage => *stage = Stage::Asked,
                }
                return Some(key);
            }
        }
        None
    }

    fn hand_over(&mut self, desk: Desk, question: Question) {
        let (directory, answers) = (self.e.directory.clone(), self.answers_in.clone());
        let queue = self.queue(desk);
        if queue.busy == queue.started {
            let (taken, name) = (queue.taken.clone(), format!("fetch-{}", queue.started));
            queue.last_start = Some(Instant::now());
            match super::try_spawn(&name, move || fetcher::run(directory, desk, taken, answers)) {
                Ok(_) => queue.started += 1,
                // Those that are there go on.
                Err(e) => {
                    log::warn!(
                        event = "no_thread", error:% = e;
                        "no thread for another look-up: {e}; there are {}", queue.started
                    );
                    queue.limit = queue.started.max(1);
                }
            }
        }
        queue.busy += 1;
        queue.most = queue.most.max(queue.busy);
        // Each fetcher that is left takes one, and we hold its other end: this neither waits for long nor fails.
        let _ = queue.questions.send(Some(question));
    }

    fn answered(&mut self, answered: Answered) {
        let Answered { desk, question, outcomes } = answered;
        self.queue(desk).busy -= 1;
        let (kind, dids) = match question {
            Question::Document(did) | Question::Handle(did, _) => (Kind::Document, vec![did]),
            Question::Created(did) => (Kind::Created, vec![did]),
            Question::Profiles(dids) => (Kind::Profile, dids),
        };
        for (did, outcome) in dids.into_iter().zip(outcomes) {
            let key = (kind, did);
            match &outcome {
                Some(Answer { found: Found::Value(Value::Document(document)), .. })
                    if desk != Desk::Handles && document.handle.is_some() && self.verifies() =>
                {
                    let timeout = self.e.knowledge.settings.timeout;
                    match self.lookups.get_mut(&key) {
                        // It is asked for once more anyway.
                        Some(lookup) if lookup.stale.is_some() => self.settle(&key, outcome),
                        Some(lookup) => {
                            lookup.stage = Stage::Verifying { document: document.clone(), asked: false };
                            let (serial, late) = (lookup.serial, lookup.late);
                            if late {
                                self.remind(Instant::now() + timeout, serial, &key);
                            }
                            self.queue(Desk::Handles).backlog.push_back((serial, key));
                        }
                        None => {}
                    }
                }
                _ => self.settle(&key, outcome),
            }
        }
    }

    /// Whether handles are written, and there is somebody who can tell whether they are right.
    fn verifies(&self) -> bool {
        let settings = &self.e.knowledge.settings;
        settings.write_documents && settings.api.is_some()
    }

    /// The end of a look-up.
    fn settle(&mut self, key: &Key, outcome: Outcome) {
        let Some(lookup) = self.lookups.remove(key) else { return };
        let outcome = outcome.map(|answer| Answer { found: answer.found.map(|value| value.copied()), ..answer });
        if let Some(answer) = outcome.as_ref().filter(|_| lookup.stale.is_none()) {
            self.e.knowledge.learn(key.0, &key.1, answer);
        }
        let value = outcome.and_then(|answer| answer.found.value());
        for place in lookup.waiting {
            self.give(place, value.clone());
        }
        if let Some(places) = lookup.stale.filter(|places| !places.is_empty()) {
            // They have waited since then.
            self.start(key.clone(), places, lookup.deadline);
        }
    }

    /// Puts an answer where it is waited for; a batch that has all of them goes on.
    fn give(&mut self, (id, hole): Place, value: Option<Value>) {
        let Some(waiting) = self.waiting.get_mut(&id) else { return };
        if let Some(value) = value {
            waiting.accounts[hole].set(value);
        }
        waiting.left -= 1;
        if waiting.left > 0 {
            return;
        }
        if let Some(Waiting { mut batch, accounts, .. }) = self.waiting.remove(&id) {
            self.e.metadata.fill(&mut batch, &accounts);
            batch.count(&mut self.handled);
            // Fails when the producer is gone: then nobody needs it any more.
            let _ = self.e.batches.send(batch);
        }
    }

    fn report(&self) {
        self.e.health.enriching_since(self.waiting.values().map(|w| w.batch.received).min());
        self.e.metrics.fetch_queue.set(self.lookups.len() as i64);
        for (kind, entries, bytes) in self.e.knowledge.sizes() {
            self.e.metrics.cache(kind, entries, bytes);
        }
    }
}

/// Where the first question of a look-up goes.
fn desk((kind, did): &Key) -> Desk {
    match kind {
        Kind::Document if is_web(did) => Desk::Web,
        Kind::Document | Kind::Created => Desk::Plc,
        Kind::Profile => Desk::Profiles,
    }
}
