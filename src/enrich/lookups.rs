//! Which look-ups are made, and who waits for them. A value without channels, threads or a clock: it is told what arrives,
//! what was answered and what time it is, and says what to ask and which batches are complete. What a batch is, it does not
//! know. It owns the state of every look-up that is not answered; of the shared caches it is the only writer while events
//! flow. The thread `enricher` drives it (`pipeline::enricher`).
//!
//! A look-up is identified by its account and [`Kind`], and is asked once, however many batches wait for it:
//!
//! ```text
//!   Backlog --asked--> Asked --document with a handle--> Verifying (in the backlog, then asked) --> settled
//!                        +--any other answer-----------------------------------------------------> settled
//! ```
//!
//! - When its deadline is over, the batches go on with what is known by then. A look-up that was asked already stays, late:
//!   its answer is cached. One that was not asked is dropped, so that the backlog of a slow provider stays bounded.
//! - An event that makes an answer old (a new handle, a new profile) while the look-up is under way makes it stale: whoever
//!   waited before gets the answer, nothing is cached, and the look-up is made again for those that came since.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::cache::Found;
use super::document::Document;
use super::question::{Outcome, PROFILES, Provider, Question, unverified};
use super::{AccountData, Answer, Kind, Knowledge, Value};

/// When something is told to [`LookUps`].
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Deadlines are counted by this.
    pub instant: Instant,
    /// Milliseconds since 1970: what is cached holds until such a time.
    pub ms: i64,
}

/// One look-up that a batch needs.
pub struct Wanted {
    /// Which of the batch's accounts it is for: an index into [`Arrival::accounts`].
    pub account: usize,
    /// What is looked up.
    pub kind: Kind,
    /// Of whom.
    pub did: Box<str>,
    /// Whether only an answer will do that is asked for from now on: the event says that older ones are no longer true.
    pub fresh: bool,
}

/// A batch that lacks something.
pub struct Arrival<B> {
    /// Given back with [`Complete`].
    pub batch: B,
    /// When it was read.
    pub received: Instant,
    /// What the caches had, for each place of the batch that needs an account.
    pub accounts: Vec<AccountData>,
    /// What is missing: at least one.
    pub wanted: Vec<Wanted>,
}

/// A batch that waits for nothing any more.
pub struct Complete<B> {
    /// As it arrived.
    pub batch: B,
    /// As they arrived, with what was found. What is missing still has no answer, or none in time.
    pub accounts: Vec<AccountData>,
}

/// All look-ups that are not answered, and the batches that wait for them.
pub struct LookUps<B> {
    knowledge: Arc<Knowledge>,
    waiting: HashMap<u64, Waiting<B>>,
    lookups: HashMap<Key, LookUp>,
    /// Ascending.
    deadlines: VecDeque<(Instant, u64, Key)>,
    /// By [`Provider`]: look-ups that nobody was asked yet, oldest first. One whose serial is no longer current is skipped.
    backlogs: [VecDeque<(u64, Key)>; Provider::ALL.len()],
    complete: Vec<Complete<B>>,
    serial: u64,
}

/// One thing that is looked up about one account.
type Key = (Kind, Box<str>);

/// A batch that waits, and the index of its account.
type Place = (u64, usize);

struct Waiting<B> {
    batch: B,
    received: Instant,
    accounts: Vec<AccountData>,
    /// Answers that are still to come.
    left: usize,
}

/// A look-up that is not answered yet.
struct LookUp {
    /// Tells it from an earlier one of the same key.
    serial: u64,
    stage: Stage,
    /// Its deadline is over: nobody waits for it any more.
    late: bool,
    /// `None`: it has none.
    deadline: Option<Instant>,
    /// Who gets its answer.
    waiting: Vec<Place>,
    /// `Some`: its answer will be out of date. It is not cached, and the look-up is made once more for these.
    stale: Option<Vec<Place>>,
}

enum Stage {
    /// Nobody was asked yet.
    Backlog,
    Asked,
    /// The document is there, and its handle is looked up: in the backlog, or asked.
    Verifying {
        document: Arc<Document>,
        asked: bool,
    },
}

impl LookUp {
    /// What is known by now: a document whose handle is not verified is better than none.
    fn so_far(&self) -> Option<Value> {
        match &self.stage {
            Stage::Verifying { document, .. } => unverified(document).found.value(),
            _ => None,
        }
    }
}

impl<B> LookUps<B> {
    /// None yet. Answers are read from and written to the caches of `knowledge`, whose settings say how long is waited.
    pub fn new(knowledge: Arc<Knowledge>) -> Self {
        LookUps {
            knowledge,
            waiting: HashMap::new(),
            lookups: HashMap::new(),
            deadlines: VecDeque::new(),
            backlogs: Default::default(),
            complete: Vec::new(),
            serial: 0,
        }
    }

    /// Takes a batch, and begins the look-ups that it needs and nobody has begun.
    pub fn arrive(&mut self, arrival: Arrival<B>, now: Now) {
        let Arrival { batch, received, accounts, wanted } = arrival;
        self.serial += 1;
        let id = self.serial;
        self.waiting.insert(id, Waiting { batch, received, accounts, left: wanted.len() });
        for Wanted { account, kind, did, fresh } in wanted {
            self.want((kind, did), fresh, (id, account), now);
        }
    }

    /// Takes the outcomes of a question, one for each account in its order.
    pub fn answered(&mut self, question: Question, outcomes: Vec<Outcome>, now: Now) {
        let verified = matches!(question, Question::Handle(..));
        let (kind, dids) = question.into_accounts();
        for (did, outcome) in dids.into_iter().zip(outcomes) {
            let key = (kind, did);
            match &outcome {
                Some(Answer { found: Found::Value(Value::Document(document)), .. })
                    if !verified && document.handle.is_some() && self.verifies() =>
                {
                    let document = document.clone();
                    self.verify(key, document, outcome, now);
                }
                _ => self.settle(&key, outcome, now),
            }
        }
    }

    /// The next question for a provider that can take one. Its look-ups count as asked: an answer has to follow.
    pub fn next_question(&mut self, provider: Provider) -> Option<Question> {
        let key = self.next(provider)?;
        Some(match provider {
            Provider::Plc | Provider::DidWeb if key.0 == Kind::Document => Question::Document(key.1),
            Provider::Plc | Provider::DidWeb => Question::Created(key.1),
            Provider::Profiles => {
                let mut dids = vec![key.1];
                while dids.len() < PROFILES
                    && let Some((_, did)) = self.next(provider)
                {
                    dids.push(did);
                }
                Question::Profiles(dids)
            }
            Provider::Handles => {
                // Each look-up in this backlog has its document.
                let document = self.document(&key)?;
                Question::Handle(key.1, document)
            }
        })
    }

    /// Ends all look-ups in a provider's backlog without an answer: it is down, and holds nobody up.
    pub fn give_up(&mut self, provider: Provider, now: Now) {
        while let Some(key) = self.next(provider) {
            let outcome = self.document(&key).as_deref().map(unverified);
            self.settle(&key, outcome, now);
        }
    }

    /// Ends the waiting for look-ups whose deadline is over.
    pub fn expire(&mut self, now: Now) {
        while self.deadlines.front().is_some_and(|(at, ..)| *at <= now.instant)
            && let Some((_, serial, key)) = self.deadlines.pop_front()
        {
            let required = self.knowledge.settings.required;
            let Some(lookup) = self.lookups.get_mut(&key).filter(|l| l.serial == serial) else { continue };
            match &lookup.stage {
                // What is left is the AppView's, whose answers are waited for.
                Stage::Verifying { .. } if required => continue,
                // It is not kept in the backlog of a provider that is too slow, which would have no bound otherwise.
                Stage::Verifying { document, asked: false } => {
                    let answer = unverified(document);
                    self.settle(&key, Some(answer), now);
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

    /// The batches that were completed since the last call, in the order in which they were.
    pub fn take_complete(&mut self) -> Vec<Complete<B>> {
        std::mem::take(&mut self.complete)
    }

    /// When [`LookUps::expire`] has something to do next. `None`: no look-up has a deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(at, ..)| *at)
    }

    /// Whether a provider's backlog has anything. It may be a look-up that nobody wants any more.
    pub fn has_backlog(&self, provider: Provider) -> bool {
        !self.backlogs[provider as usize].is_empty()
    }

    /// When the oldest batch that waits was read. `None`: none waits.
    pub fn oldest(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.received).min()
    }

    /// Whether no batch waits.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Look-ups that are not answered, late ones included.
    pub fn unanswered(&self) -> usize {
        self.lookups.len()
    }

    fn want(&mut self, key: Key, fresh: bool, place: Place, now: Now) {
        if fresh {
            // An answer may have come in since the worker dropped the old one.
            self.knowledge.drop_one(key.0, &key.1);
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
            // Another batch may have had it looked up since the worker asked the caches.
            None => match self.knowledge.cached(key.0, &key.1, now.ms).filter(|_| !fresh) {
                Some(found) => self.give(place, found.value()),
                None => {
                    let settings = &self.knowledge.settings;
                    // Whoever made a `did:web` may take its host away: it is never waited for without a limit.
                    let limited = !settings.required || Provider::of(key.0, &key.1) == Provider::DidWeb;
                    let deadline = limited.then(|| now.instant + settings.timeout);
                    self.start(key, vec![place], deadline);
                }
            },
        }
    }

    fn start(&mut self, key: Key, waiting: Vec<Place>, deadline: Option<Instant>) {
        self.serial += 1;
        let serial = self.serial;
        if let Some(at) = deadline {
            self.remind(at, serial, &key);
        }
        self.backlogs[Provider::of(key.0, &key.1) as usize].push_back((serial, key.clone()));
        self.lookups.insert(key, LookUp { serial, stage: Stage::Backlog, late: false, deadline, waiting, stale: None });
    }

    fn remind(&mut self, at: Instant, serial: u64, key: &Key) {
        // Nearly always behind the last one: all wait for the same time.
        let place = self.deadlines.partition_point(|(other, ..)| *other <= at);
        self.deadlines.insert(place, (at, serial, key.clone()));
    }

    /// The next look-up of a backlog that is still wanted; it counts as asked.
    fn next(&mut self, provider: Provider) -> Option<Key> {
        while let Some((serial, key)) = self.backlogs[provider as usize].pop_front() {
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

    /// The document of a look-up whose handle is being verified.
    fn document(&self, key: &Key) -> Option<Arc<Document>> {
        match &self.lookups.get(key)?.stage {
            Stage::Verifying { document, .. } => Some(document.clone()),
            _ => None,
        }
    }

    /// Whether handles are written, and there is somebody who can tell whether they are right.
    fn verifies(&self) -> bool {
        let settings = &self.knowledge.settings;
        settings.write_documents && settings.api.is_some()
    }

    fn verify(&mut self, key: Key, document: Arc<Document>, outcome: Outcome, now: Now) {
        let Some(lookup) = self.lookups.get_mut(&key) else { return };
        if lookup.stale.is_some() {
            // It is looked up once more anyway.
            return self.settle(&key, outcome, now);
        }
        lookup.stage = Stage::Verifying { document, asked: false };
        let (serial, late) = (lookup.serial, lookup.late);
        if late {
            // Nobody waits, and yet it must not stay in a backlog for ever.
            self.remind(now.instant + self.knowledge.settings.timeout, serial, &key);
        }
        self.backlogs[Provider::Handles as usize].push_back((serial, key));
    }

    /// The end of a look-up.
    fn settle(&mut self, key: &Key, outcome: Outcome, now: Now) {
        let Some(lookup) = self.lookups.remove(key) else { return };
        let outcome = outcome.map(|answer| Answer { found: answer.found.map(|value| value.copied()), ..answer });
        if let Some(answer) = outcome.as_ref().filter(|_| lookup.stale.is_none()) {
            self.knowledge.learn(key.0, &key.1, answer, now.ms);
        }
        let value = outcome.and_then(|answer| answer.found.value());
        for place in lookup.waiting {
            self.give(place, value.clone());
        }
        if let Some(places) = lookup.stale.filter(|places| !places.is_empty()) {
            // The deadline stays: they have waited since then.
            self.start(key.clone(), places, lookup.deadline);
        }
    }

    /// Puts an answer where it is waited for. A batch that has all of them is complete.
    fn give(&mut self, (id, account): Place, value: Option<Value>) {
        let Some(waiting) = self.waiting.get_mut(&id) else { return };
        if let Some(value) = value {
            waiting.accounts[account].set(value);
        }
        waiting.left -= 1;
        if waiting.left > 0 {
            return;
        }
        if let Some(Waiting { batch, accounts, .. }) = self.waiting.remove(&id) {
            self.complete.push(Complete { batch, accounts });
        }
    }
}

#[cfg(test)]
mod tests;
