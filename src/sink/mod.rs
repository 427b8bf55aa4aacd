//! Where records go. A sink takes them in order and says which ones are safe; it never drops one. It owns the connection
//! to the brokers, and knows neither sources, batches nor positions. The producer's thread calls it; what may block runs
//! on the threads `delivery` and `renewal`.

mod complaint;
pub mod diagnosis;
mod files;
pub mod kafka;
pub mod kafka_options;
pub mod librdkafka;
pub mod limits;
pub mod lines;
mod oauth;
mod probe;
pub mod rights;
pub mod transaction;

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::dead_letter::Reason;

/// Comes back with the delivery. It names the batch that a record belongs to.
pub type Token = usize;

/// Which topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The topic of events with this index (see [`Routes`](crate::route::Routes)); 0 is the output topic.
    Events(u16),
    /// The topic of dead letters.
    DeadLetters,
}

/// A record on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Where it goes.
    pub topic: Topic,
    /// Empty: the record has no key.
    pub key: &'a [u8],
    /// The value, as it is written.
    pub value: &'a [u8],
    /// Milliseconds since 1970.
    pub time_ms: i64,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// A record that came back, kept so that it can be sent again.
#[derive(Debug)]
pub struct Returned {
    /// Where it goes.
    pub topic: Topic,
    /// Empty: the record has no key.
    pub key: Vec<u8>,
    /// The value, as it is written.
    pub value: Vec<u8>,
    /// Names and values.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Returned {
    /// A copy, for later.
    pub fn of(record: &Outgoing<'_>) -> Returned {
        Returned {
            topic: record.topic,
            key: record.key.to_vec(),
            value: record.value.to_vec(),
            headers: record.headers.iter().map(|(key, value)| (key.to_string(), value.to_vec())).collect(),
        }
    }
}

/// What became of one record.
#[derive(Debug)]
pub struct Delivery {
    /// As it was given to [`Sink::send`].
    pub token: Token,
    /// Whether the broker acknowledged it.
    pub result: Result<(), Box<Failure>>,
}

/// A record that was not acknowledged.
#[derive(Debug)]
pub struct Failure {
    /// What the broker or the client said.
    pub error: String,
    /// What it means for this record.
    pub verdict: Verdict,
    /// The record itself, to be sent again.
    pub record: Returned,
}

/// What a failure means for the record that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The broker refused its batch for good, because of at least one of the batch's records. It may be this one.
    Never(Reason),
    /// It may be taken later.
    Later,
    /// It came back only because another one was refused.
    Collateral,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in one of ours is whole at any instant.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The line about a topic that was made.
fn created(topic: &str, partitions: Option<usize>, by_default: bool) -> String {
    let count = match partitions {
        None => return format!("topic {topic} created"),
        Some(1) => "1 partition".to_string(),
        Some(n) => format!("{n} partitions"),
    };
    let whose = if by_default { " (the broker's default)" } else { "" };
    format!(
        "topic {topic} created with {count}{whose}: so many consumers of a group can share it; for more, give --topic-partitions before it is made, or kafka-topics.sh --alter --partitions N, which from then on puts accounts on other partitions"
    )
}

/// Starts a thread for work of the sink's.
pub type Start<'a> = &'a mut dyn FnMut(Background);

/// Work for a thread of its own.
pub struct Background {
    /// The thread's name.
    pub name: &'static str,
    /// To be called again and again until it says `false`. One call blocks for some seconds at most.
    pub work: Box<dyn FnMut() -> bool + Send>,
}

/// Why a record was not taken.
#[derive(Debug)]
pub enum Refused {
    /// Not now: try the same record again when deliveries have come.
    Full,
    /// Never: it is so many bytes larger than the topic allows.
    TooLarge {
        /// Its size and the limit, in words.
        detail: String,
        /// Bytes over the limit.
        excess: usize,
    },
    /// Not now, for a reason that people should see.
    Error(String),
    /// The sink is broken, see [`State::Broken`].
    Broken,
    /// Never again: the sink is at its end.
    Ended(End),
}

/// How a sink ends for good.
#[derive(Debug, Clone)]
pub enum End {
    /// The reader of our output closed it: nothing more is wanted.
    Closed,
    /// It cannot go on.
    Failed(String),
}

/// Why a sink is not ready to take records.
#[derive(Debug)]
pub enum NotReady {
    /// It may be later.
    Yet(String),
    /// It never will be.
    Ever(String),
    /// It is not the one that the settings mean.
    Settings(String),
}

impl NotReady {
    /// The reason alone.
    pub fn text(self) -> String {
        match self {
            NotReady::Yet(why) | NotReady::Ever(why) | NotReady::Settings(why) => why,
        }
    }
}

/// How a sink is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It takes records, and nothing is known that keeps them from being delivered.
    Well,
    /// It takes records, and delivers none at present, for this reason. It goes on trying by itself.
    Hindered(String),
    /// It takes nothing any more, and gives back what it holds, until [`Sink::prepare`] has made it anew.
    Broken,
}

/// Whether the Kafka cluster of this id is the one that the saved positions are of; if not, why it is refused.
pub type SameCluster<'a> = &'a dyn Fn(&str) -> Result<(), String>;

/// An output. It takes records one by one and says later what became of each. It knows neither sources nor positions, and
/// the producer's thread alone calls it.
pub trait Sink: Send {
    /// Connects, asks whether it is the right cluster where the client can tell, creates topics. Called until it is well, and
    /// again when the sink is broken and holds nothing; each call may block for some seconds. What the sink needs threads for,
    /// it starts here.
    fn prepare(&mut self, same_cluster: SameCluster<'_>, start: Start<'_>) -> Result<(), NotReady>;

    /// Takes a record. Does not wait for the broker.
    fn send(&mut self, record: &Outgoing<'_>, token: Token) -> Result<(), Refused>;

    /// Called when nothing more is at hand: pushes out what was only collected.
    fn flush(&mut self) -> Result<(), End>;

    /// Moves what became of records into `done`. Where that comes later than the call, the thread that called
    /// [`Sink::prepare`] is unparked when there is something to move.
    fn poll(&mut self, done: &mut Vec<Delivery>) -> Result<(), End>;

    /// The thread that calls is about to sleep until a batch or a delivery comes. `Some`: it is to sleep no longer than this,
    /// and is not unparked before for what it can [`Sink::poll`] then. It may be held here for some milliseconds, where what
    /// is sent soon is better sent together.
    fn nap(&mut self) -> Option<Duration> {
        None
    }

    /// Whether the limits of the topics on times have changed since records were last sent: a record that was refused for its
    /// time may be taken now. Says yes once for each change.
    fn takes_other_times(&mut self) -> bool {
        false
    }

    /// How it is. Cheap.
    fn state(&mut self) -> State {
        State::Well
    }

    /// Transactions, where the sink has them and is set up for them.
    fn transactions(&mut self) -> Option<&mut dyn transaction::Transactions> {
        None
    }
}
