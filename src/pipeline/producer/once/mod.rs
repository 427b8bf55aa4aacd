//! Delivery by transactions: batches in, records and positions out together. All of it is the private state of one thread.
//!
//! Batches wait in a queue, in order, until the transaction that holds them is committed. [`Plan`] says when that is, and what to
//! send alone after a refusal; [`Ledger`] writes the positions, and knows what became of a transaction whose client broke.
//! What is not committed is sent again from the front of the queue, in the next transaction.

mod ending;
mod records;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::transaction::{Place, Plan};
use super::{DRAIN, ENDING, LOOK_UP, PREPARE_AGAIN, Producer};
use crate::checkpoint::Position;
use crate::decode::batch::{Batch, Record};
use crate::health::InFlight;
use crate::pipeline::inbox::Inbox;
use crate::pipeline::ledger::Ledger;
use crate::sink::transaction::{Trouble, Turn};
use crate::sink::{Background, Delivery, End, NotReady, Returned, Start, State, Token};

/// A batch until it is committed.
struct Held {
    batch: Batch,
    /// Its dead letters, as records.
    letters: Vec<Returned>,
}

impl Held {
    fn items(&self) -> usize {
        self.batch.records.len() + self.letters.len()
    }
}

/// How it goes on after a step.
#[derive(PartialEq)]
enum Next {
    On,
    /// The end was asked for, and what is left cannot be delivered in time.
    Stop,
}

/// The producer at work, with transactions.
pub struct Once {
    p: Producer,
    ledger: Ledger,
    plan: Plan,
    /// What is not committed. The batch at the front has the number `first`.
    queue: VecDeque<Held>,
    first: u64,
    /// Where the open transaction stands: the batch, counted from the front, and the record in it.
    at: (usize, usize),
    /// Bytes and frames of the batches that it holds whole.
    bytes: usize,
    frames: usize,
    /// The place of each record that was sent in it; the first has the token `base`.
    sent: Vec<Place>,
    base: Token,
    /// A record came back: the transaction is to be aborted. With the reason, where it is one that people should see.
    failed: Option<Option<String>>,
    /// A batch was too large for its topic: only a new client knows the limit of now.
    too_large: bool,
    /// Nothing is begun before.
    pause: Option<Instant>,
    /// Positions were put into the open transaction: by them its outcome can be found.
    saving: bool,
    /// The commit was asked for and gave an error: the broker may have carried it out all the same, and some answers make the
    /// client take a transaction that is committed for one that it has aborted.
    is_doubtful: bool,
    finished: bool,
    drain_until: Option<Instant>,
    done: Vec<Delivery>,
}

impl Once {
    /// `interval`: how long a transaction stays open at most. `bytes`: how much it holds at most.
    pub fn new(producer: Producer, ledger: Ledger, interval: Duration, bytes: usize) -> Self {
        Once {
            p: producer,
            ledger,
            plan: Plan::new(interval, bytes),
            queue: VecDeque::new(),
            first: 0,
            at: (0, 0),
            bytes: 0,
            frames: 0,
            sent: Vec::new(),
            base: 0,
            failed: None,
            too_large: false,
            pause: None,
            saving: false,
            is_doubtful: false,
            finished: false,
            drain_until: None,
            done: Vec::new(),
        }
    }

    /// As [`Producer::run`].
    pub fn run(mut self, inbox: &Inbox<Batch>, mut start: impl FnMut(Background)) -> Result<(), String> {
        let ended = self.deliver(inbox, &mut start);
        // Readers must not wait for permits that nobody gives back any more.
        self.p.permits.close();
        match ended {
            Ok(()) | Err(End::Closed) => Ok(()),
            Err(End::Failed(reason)) => Err(reason),
        }
    }

    /// Makes the client, if it is our turn. `None`: it is not.
    fn attempt(&mut self, start: Start<'_>) -> Result<Option<bool>, NotReady> {
        let turn = self.p.sink.transactions().map_or(Ok(Turn::Ours), |transactions| transactions.turn());
        let turn = match (self.ledger.is_claimed(), turn) {
            (false, turn) => turn?,
            // Its client broke: it would fence whoever works in its place.
            (true, Ok(Turn::Others)) => return Err(self.ledger.taken_over()),
            // As long as nobody does, it goes on, whatever the group says.
            (true, _) => Turn::Ours,
        };
        self.stands_by(turn == Turn::Others);
        match turn {
            Turn::Ours => self.ledger.open(self.p.sink.as_mut(), start).map(Some),
            Turn::Others => Ok(None),
            Turn::Unknown => {
                self.p.health.sink(Err("joining the consumer group of the instances".into()));
                Ok(None)
            }
        }
    }

    fn stands_by(&mut self, stands_by: bool) {
        self.p.metrics.standby.set(stands_by.into());
        match (self.p.health.stands_by(stands_by), stands_by) {
            (false, true) => log::info!(
                event = "standby";
                "standby: another instance works; this one takes over when it stops or is not heard of"
            ),
            (true, false) => log::info!(event = "active"; "standby: it is the turn of this instance now"),
            _ => {}
        }
    }

    /// Makes the client, at the start and after it broke. Whether the last transaction was committed.
    fn open(&mut self, inbox: &Inbox<Batch>, start: Start<'_>) -> Result<Option<bool>, End> {
        let mut said = None;
        loop {
            self.p.health.turn();
            let mut again = PREPARE_AGAIN;
            match self.attempt(start) {
                Ok(None) => again = LOOK_UP,
                Ok(Some(committed)) => {
                    self.p.is_ready(said);
                    return Ok(Some(committed));
                }
                Err(why) => {
                    self.stands_by(false);
                    self.p.not_ready(why, &mut said)?;
                }
            }
            let until = Instant::now() + again;
            while Instant::now() < until {
                if self.look_around(inbox) == Next::Stop || (self.p.permits.is_closed() && self.queue.is_empty()) {
                    return Ok(None);
                }
                std::thread::sleep(LOOK_UP);
            }
        }
    }

    fn deliver(&mut self, inbox: &Inbox<Batch>, start: Start<'_>) -> Result<(), End> {
        if self.open(inbox, start)?.is_none() {
            self.undelivered();
            return Ok(());
        }
        let mut looked = Instant::now();
        loop {
            let now = Instant::now();
            let wait = self.plan.left(now).map_or(LOOK_UP, |left| left.clamp(Duration::from_millis(1), LOOK_UP));
            inbox.wait(if self.finished { ENDING } else { wait });
            self.finished |= !self.take(inbox);
            self.collect()?;
            self.send()?;
            let next = match self.failed.take() {
                Some(why) => self.abort(why, inbox, start)?,
                None if self.is_due() => self.commit(inbox, start)?,
                None => Next::On,
            };
            if looked.elapsed() >= LOOK_UP {
                looked = Instant::now();
                if let State::Hindered(why) = self.p.sink.state() {
                    self.p.health.sink(Err(why));
                } else if self.queue.is_empty() {
                    self.p.health.sink(Ok(()));
                }
                if self.look_around(inbox) == Next::Stop || next == Next::Stop {
                    self.undelivered();
                    return Ok(());
                }
            } else if next == Next::Stop {
                self.undelivered();
                return Ok(());
            }
            if (self.finished || self.p.permits.is_closed()) && self.p.permits.is_idle() {
                return Ok(());
            }
        }
    }

    fn undelivered(&self) {
        if !self.p.permits.is_idle() {
            log::warn!(
                event = "not_delivered";
                "not everything in flight was committed in {} s: it is read again after the restart", DRAIN.as_secs()
            );
        }
    }

    /// What is done now and then whatever else goes on: batches are taken in, and health is told.
    fn look_around(&mut self, inbox: &Inbox<Batch>) -> Next {
        self.p.health.turn();
        // To stay in the group.
        let _ = self.p.sink.transactions().map(|transactions| transactions.turn());
        self.take(inbox);
        let now = Instant::now();
        let handed_over = |lane: &super::Lane| lane.handed_over.load(std::sync::atomic::Ordering::Relaxed);
        let lanes = self.p.lanes.iter_mut();
        let missing = lanes.filter_map(|lane| lane.sequencer.missing_since(handed_over(lane), now));
        self.p.health.undecoded_since(missing.min());
        for source in 0..self.p.lanes.len() {
            let oldest = self.queue.iter().map(|held| &held.batch).find(|batch| batch.source == source);
            let time_ms = |batch: &Batch| batch.position.as_ref().map_or(0, |position| position.time_ms);
            self.p
                .health
                .in_flight(source, oldest.map(|batch| InFlight { received: batch.received, time_ms: time_ms(batch) }));
        }
        if !self.p.permits.is_closed() {
            return Next::On;
        }
        let until = *self.drain_until.get_or_insert(now + DRAIN);
        if now >= until { Next::Stop } else { Next::On }
    }

    /// Takes in what came. `false`: nothing comes any more.
    fn take(&mut self, inbox: &Inbox<Batch>) -> bool {
        inbox.take(|batch| self.accept(batch))
    }

    /// Puts a batch into its place; what is next in order goes to the queue, and holds from now on only what is kept of it.
    fn accept(&mut self, batch: Batch) {
        self.p.health.decoded(batch.source, batch.frames, batch.unreadable);
        let source = batch.source;
        self.p.lanes[source].sequencer.put(batch);
        while let Some(mut batch) = self.p.lanes[source].sequencer.take() {
            let mut letters = Vec::new();
            for letter in std::mem::take(&mut batch.dead) {
                letters.extend(self.letter(source, &letter, None));
            }
            batch.bytes.shrink_to_fit();
            batch.records.shrink_to_fit();
            let mut held = Held { batch, letters };
            let kept = kept(&held);
            match kept.checked_sub(held.batch.cost) {
                Some(more) => self.p.permits.grow(more),
                None => self.p.permits.release(0, held.batch.cost - kept),
            }
            held.batch.cost = kept;
            self.queue.push_back(held);
        }
    }

    fn is_due(&self) -> bool {
        let (batch, index) = self.at;
        // Never with nothing in it: the output may have taken none of the first batch yet.
        if !self.plan.is_open() || index > 0 || batch == 0 {
            return false;
        }
        let ending = (self.finished || self.p.permits.is_closed()) && batch == self.queue.len();
        ending || self.plan.is_due(Instant::now(), self.bytes, self.frames, self.first + batch as u64)
    }

    fn transactions(
        &mut self,
        step: impl FnOnce(&mut dyn crate::sink::transaction::Transactions) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        match self.p.sink.transactions() {
            Some(transactions) => step(transactions),
            None => Err(Trouble::Lost("the output has no transactions".into())),
        }
    }
}

/// Bytes that are kept of a batch until it is committed.
fn kept(held: &Held) -> usize {
    /// The list of places and the bookkeeping of the batch.
    const OVERHEAD: usize = 256;
    let letter = |letter: &Returned| size_of::<Returned>() + letter.value.len() + 256;
    OVERHEAD
        + size_of::<Held>()
        + held.batch.bytes.capacity()
        + held.batch.records.capacity() * (size_of::<Record>() + size_of::<Place>())
        + held.letters.iter().map(letter).sum::<usize>()
        + held.batch.position.as_ref().map_or(0, Position::bytes)
}

#[cfg(test)]
mod tests;
