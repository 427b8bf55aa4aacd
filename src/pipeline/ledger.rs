//! The positions of one process in the cursor topic: read after fencing, taken over, written, and looked up when it is not known
//! whether the last transaction was committed.
//!
//! It belongs to the thread that writes the positions: the producer's with `--delivery exactly-once`, else the checkpointer's.
//! It knows no events.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::checkpoint::Position;
use crate::checkpoint::file::StateFile;
use crate::checkpoint::topic::{self, Entry, Key, Mark, Outcome};
use crate::sink::transaction::Trouble;
use crate::sink::{NotReady, Refused, Sink, Start};

/// A client that broke waits so long before it fences in its turn: a second instance that fenced it has written its claim by then.
const GRACE: Duration = Duration::from_secs(2);
/// The claim is committed by then, or tried anew with a new client.
const CLAIM: Duration = Duration::from_secs(10);

/// Tells a reader the saved position, or that there is none. Fails when it cannot be read.
pub type Found = Box<dyn FnMut(Option<&[u8]>) -> Result<(), String> + Send>;

/// One position of the topic.
pub struct Place {
    /// Which one.
    pub key: Key,
    /// The state file that the position was in before, with its text.
    pub file: Option<(StateFile, Vec<u8>)>,
    /// Called once.
    pub found: Found,
}

struct Slot {
    place: Place,
    /// The newest committed value.
    value: Option<Vec<u8>>,
    /// What the transaction has that is not known to be committed.
    written: Option<Vec<u8>>,
}

/// See the module.
pub struct Ledger {
    topic: String,
    /// By source; `None`: its position is not kept.
    slots: Vec<Option<Slot>>,
    keys: Vec<Key>,
    run: String,
    number: u64,
    cluster: Option<String>,
    /// The routes that events go by.
    routes: Vec<String>,
    /// The positions are ours, as far as we know.
    claimed: bool,
    /// [`GRACE`], but for tests of thousands of broken clients.
    pub(super) grace: Duration,
}

impl Ledger {
    /// `topic` holds the positions of `places`, one a source.
    pub fn new(topic: &str, routes: &[String], places: Vec<Option<Place>>) -> Self {
        Ledger {
            topic: topic.into(),
            keys: places.iter().flatten().map(|place| place.key.clone()).collect(),
            slots: places.into_iter().map(|place| Some(Slot { place: place?, value: None, written: None })).collect(),
            run: format!("{:016x}", fastrand::u64(..)),
            number: 0,
            cluster: None,
            routes: routes.to_vec(),
            claimed: false,
            grace: GRACE,
        }
    }

    /// The cursor topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Whether the position of the source is in the topic.
    pub fn keeps(&self, source: usize) -> bool {
        self.slots[source].is_some()
    }

    /// Whether the positions are ours, as far as we know: the first [`Ledger::open`] has succeeded.
    pub fn is_claimed(&self) -> bool {
        self.claimed
    }

    /// Makes the sink ready, fences, and reads the positions. The first time it tells the readers theirs, and makes them ours by
    /// writing them again; later it finds out whether the last transaction was committed, and gives that.
    pub fn open(&mut self, sink: &mut dyn Sink, start: Start<'_>) -> Result<bool, NotReady> {
        if self.claimed {
            std::thread::sleep(self.grace);
            // Before we fence anybody: whoever has taken over goes on undisturbed. Our own transaction, where it is open still, would
            // hide the positions until the broker ends it, after a minute.
            let is_open = sink.transactions().map_or(Ok(false), |transactions| transactions.has_open(&self.run))?;
            if !is_open {
                self.is_committed(sink)?;
            }
        }
        let cluster = RefCell::new(None);
        let note = |id: &str| {
            cluster.replace(Some(id.to_string()));
            Ok(())
        };
        sink.prepare(&note, start)?;
        self.cluster = cluster.into_inner().or(self.cluster.take());
        if self.claimed {
            return self.is_committed(sink);
        }
        let unnamed = self.keys.iter().map(|key| Key { instance: String::new(), ..key.clone() });
        let wanted: Vec<Key> = self.keys.iter().cloned().chain(unnamed).collect();
        self.choose(&look(sink, &wanted)?)?;
        let claimed = self.claim(sink);
        if let (Err(_), Some(transactions)) = (&claimed, sink.transactions()) {
            // Everything of it is reported now, and not to the client of a later attempt.
            let _ = transactions.abort();
        }
        // Reports say nothing that the commit does not say.
        let _ = sink.poll(&mut Vec::new());
        claimed?;
        self.claimed = true;
        for slot in self.slots.iter_mut().flatten() {
            let Place { key, file, found } = &mut slot.place;
            if let Some((file, _)) = file.take() {
                let path = file.path().display().to_string();
                match file.moved() {
                    Ok(moved) => log::info!(
                        event = "position", path = path, topic = self.topic.as_str();
                        "{key}: its position is in topic {} from now on; {path} is now {}", self.topic, moved.display()
                    ),
                    Err(e) => log::warn!(
                        event = "position", path = path, topic = self.topic.as_str();
                        "{key}: its position is in topic {} from now on; {path} cannot be renamed ({e}): remove it", self.topic
                    ),
                }
            }
            found(slot.value.as_deref()).map_err(NotReady::Ever)?;
        }
        Ok(true)
    }

    /// The positions of the last [`Ledger::save`] are committed.
    pub fn committed(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            slot.value = slot.written.take().or(slot.value.take());
        }
    }

    /// Whether the last [`Ledger::save`] is committed, by the topic. Nothing of it may be open any more.
    pub fn is_committed(&mut self, sink: &mut dyn Sink) -> Result<bool, NotReady> {
        self.outcome(&look(sink, &self.keys)?)
    }

    fn outcome(&mut self, entries: &[Entry]) -> Result<bool, NotReady> {
        match topic::outcome(entries, &self.keys, &self.run, self.number) {
            Outcome::Committed => {
                self.committed();
                Ok(true)
            }
            Outcome::Aborted => Ok(false),
            Outcome::TakenOver => Err(self.taken_over()),
        }
    }

    /// Another instance goes on in place of this one.
    pub fn taken_over(&self) -> NotReady {
        NotReady::Ever(format!(
            "fenced: another atkafka with the same identity has taken over the positions in topic {}; this process ends, and what it has not committed is delivered by the other",
            self.topic
        ))
    }

    /// Takes each position from the topic, or from a state file that is newer.
    fn choose(&mut self, entries: &[Entry]) -> Result<(), NotReady> {
        for slot in self.slots.iter_mut().flatten() {
            let key = &slot.place.key;
            slot.value = entries.iter().find(|entry| entry.key == *key).and_then(|entry| entry.value.clone());
            if let Some((file, text)) = &slot.place.file {
                let is_newer = slot.value.as_ref().is_none_or(|value| topic::is_later(text, value));
                if is_newer {
                    log::info!(
                        event = "position", path:% = file.path().display(), topic = self.topic.as_str();
                        "{key}: taking over the position in {}", file.path().display()
                    );
                    slot.value = Some(text.clone());
                }
            }
            let has_one = |of: &Key| entries.iter().any(|entry| entry.key == *of && entry.value.is_some());
            if slot.value.is_none() && has_one(&Key { instance: String::new(), ..key.clone() }) {
                log::warn!(
                    event = "position", topic = self.topic.as_str();
                    "{key}: it has no position yet, and begins anew. Topic {} has one without a name: to go on there, leave out --instance-id",
                    self.topic
                );
            }
            let before = slot.value.as_deref().map(topic::routes);
            if let Some(before) = before.filter(|before| *before != self.routes) {
                let text = |routes: &[String]| if routes.is_empty() { "none".into() } else { routes.join(", ") };
                log::warn!(
                    event = "routes", topic = self.topic.as_str();
                    "{key}: other routes than those of the saved position ({} before, {} now): events up to it stay in the topics where they are",
                    text(&before),
                    text(&self.routes)
                );
            }
            let of = slot.value.as_deref().and_then(topic::cluster);
            if let (Some(of), Some(ours)) = (of, &self.cluster)
                && of != *ours
            {
                return Err(NotReady::Settings(format!(
                    "--cursor-topic {}: the position of {key} is of the Kafka cluster {of}, and --bootstrap-servers is the cluster {ours}, whose topic does not have the events up to it. Check --bootstrap-servers; or give another --cursor-topic to start anew there",
                    self.topic
                )));
            }
        }
        Ok(())
    }

    /// Writes what is there again, as ours: an instance that we fenced sees by it that it is not to go on.
    fn claim(&mut self, sink: &mut dyn Sink) -> Result<(), NotReady> {
        let not_written =
            |why: String| NotReady::Yet(format!("positions cannot be written to topic {}: {why}", self.topic));
        let Some(transactions) = sink.transactions() else { return Err(not_written("no transactions".into())) };
        transactions.begin().map_err(|e| not_written(text(e)))?;
        let mark = Mark { run: self.run.clone(), number: self.number };
        for slot in self.slots.iter().flatten() {
            let saved = transactions.save(&slot.place.key.bytes(), slot.value.as_deref(), &mark);
            saved.map_err(|refused| not_written(reason(refused)))?;
        }
        let until = Instant::now() + CLAIM;
        loop {
            match transactions.commit() {
                Ok(()) => return Ok(()),
                Err(Trouble::Again(_)) if Instant::now() < until => {}
                Err(e) => return Err(not_written(text(e))),
            }
        }
    }

    /// Puts the positions that have moved into the open transaction, by source. Each transaction has one at least, by which its
    /// outcome can be found; where none has moved, that is a committed one. To be followed by [`Ledger::committed`] once it is.
    pub fn save(&mut self, sink: &mut dyn Sink, moved: &[(usize, Position)]) -> Result<(), Refused> {
        self.number += 1;
        let mark = Mark { run: self.run.clone(), number: self.number };
        self.slots.iter_mut().flatten().for_each(|slot| slot.written = None);
        let transactions = sink.transactions().ok_or_else(|| Refused::Error("no transactions".into()))?;
        let mut written = false;
        for (source, position) in moved {
            let Some(slot) = &mut self.slots[*source] else { continue };
            let key = &slot.place.key;
            let value = topic::value(key, self.cluster.as_deref(), &self.routes, position).map_err(Refused::Error)?;
            transactions.save(&key.bytes(), Some(&value), &mark)?;
            slot.written = Some(value);
            written = true;
        }
        match self.slots.iter().flatten().next() {
            Some(slot) if !written => transactions.save(&slot.place.key.bytes(), slot.value.as_deref(), &mark),
            _ => Ok(()),
        }
    }
}

fn look(sink: &mut dyn Sink, wanted: &[Key]) -> Result<Vec<Entry>, NotReady> {
    match sink.transactions() {
        Some(transactions) => transactions.look(wanted),
        None => Err(NotReady::Ever("the output has no transactions".into())),
    }
}

/// The words of a trouble.
pub fn text(trouble: Trouble) -> String {
    match trouble {
        Trouble::Again(text) | Trouble::Abort(text) | Trouble::Lost(text) => text,
    }
}

/// Why a position was not taken.
pub fn reason(refused: Refused) -> String {
    match refused {
        Refused::Error(why) | Refused::TooLarge { detail: why, .. } => why,
        Refused::Full => "the client's queue is full".into(),
        Refused::Broken | Refused::Ended(_) => "the client broke".into(),
    }
}
