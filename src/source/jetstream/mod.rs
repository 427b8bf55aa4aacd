//! The reader of a Jetstream, of either wire: it asks for what is wanted, looks at the place of each event in the stream, and
//! hands the messages over.
//!
//! It owns the cursor that it asks for, which wire is spoken, unpacking, the detection of gaps and of silence. The connection
//! itself is the [`websocket`] module's; what is in a message the decoder's. It runs on a reader thread.

pub mod dictionary;
pub mod overlap;
pub mod position;
mod progress;
pub mod query;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::diagnosis::{Answer, Found, Meant};
use super::gaps::{Gaps, SAY_SEQ_GAP};
use super::job::{Frames, Intake, Seen, Stopped, Work};
use super::link::LOOK_UP;
use super::resume::{Gap, Verdict};
use super::silence::Silence;
use super::socket::{Event, Request, Socket};
use super::websocket::{self, Channel, Ended, Endpoint};
use super::{Host, Start};
use crate::atproto::jetstream::{self, Message, Notice};
use crate::atproto::time;
use crate::clock;
use crate::dead_letter::Reason;
use crate::health::Health;
use crate::log::plain::plain;
use crate::metrics::source::SourceMetrics;
use dictionary::{Dictionary, Missing};
pub use position::JetstreamPosition;
use progress::{Asked, Progress};
use query::{Wanted, Wire};

/// Bytes of one message at most: a record has 1 MB at most, and Go escapes some characters to six bytes.
const MAX_MESSAGE: usize = 16 << 20;
/// The least cursor that is a time, in microseconds since 1970: older than anything kept.
const OLDEST_US: u64 = 1_000_000_000_000_000;
/// A host that had no version 2 is asked for it again after so long.
const ONE_FOR: Duration = Duration::from_secs(3600);
/// Between connections when the next one asks for something else.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes of a name and of a message of the host's that are passed on.
const WORD: usize = 64;
const WORDS: usize = 500;

/// How a Jetstream is read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// `None`: version 2, and version 1 where the host has none.
    pub wire: Option<Wire>,
    /// Where a first start begins. A seq is one of version 2.
    pub start: Start,
    /// What the host is asked for.
    pub wanted: Wanted,
    /// Whether frames of version 2 are to be packed.
    pub packed: bool,
    /// How long a busy host may be silent before a new connection; `None`: for ever.
    pub silence: Option<Duration>,
    /// How long a first message waits for more of them.
    pub linger: Duration,
}

/// The reader.
pub struct Jetstream<I> {
    endpoint: Endpoint<I>,
    reading: Reading,
    dictionary: Dictionary,
    progress: Progress,
    frames: Frames,
    wire: Wire,
    /// Until when version 1 is spoken, where the host has no version 2.
    one_until: Option<Instant>,
    /// What the host is to be told before it sends anything.
    hello: Option<String>,
    /// A cursor that was too old was told.
    told_outdated: bool,
    unpacked: Vec<u8>,
    gaps: Gaps,
    silence: Silence,
}

impl<I: Intake> Jetstream<I> {
    /// `saved` is the position of an earlier run; it goes before `reading.start`.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        host: Host,
        index: usize,
        reading: Reading,
        dictionary: Dictionary,
        saved: Option<JetstreamPosition>,
        intake: I,
        metrics: Arc<SourceMetrics>,
        health: Arc<Health>,
    ) -> Self {
        let name = host.name.clone();
        let endpoint = Endpoint::new(host, &name, index, intake, metrics, health);
        let endpoint = Endpoint { linger: reading.linger, ..endpoint };
        if let Some(seq) = saved.as_ref().and_then(|saved| saved.seq).filter(|seq| *seq > 0) {
            // Until the first new event that is where we are.
            endpoint.link.gauges.last_seq_received.set(seq as i64);
            endpoint.link.gauges.last_seq_delivered.set(seq as i64);
        }
        Jetstream {
            endpoint,
            dictionary,
            progress: Progress::new(saved, reading.start),
            frames: Frames::default(),
            wire: Wire::Two,
            one_until: None,
            hello: None,
            told_outdated: false,
            unpacked: Vec::new(),
            gaps: Gaps::new(SAY_SEQ_GAP),
            silence: Silence::new(reading.silence),
            reading,
        }
    }

    /// Reads until the end is asked for. Whatever happens to the connection, it comes back.
    pub fn run(mut self) {
        websocket::run(&mut self);
    }

    /// The id of the dictionary that frames are to be packed with.
    fn dictionary(&mut self) -> Result<Option<u32>, Ended> {
        if self.wire == Wire::One || !self.reading.packed {
            return Ok(None);
        }
        match self.dictionary.id(&self.endpoint.host) {
            Ok(id) => Ok(Some(id)),
            Err(Missing::NotThere) if self.reading.wire.is_none() => {
                self.fall_back();
                Ok(None)
            }
            Err(Missing::NotThere) => {
                Err(Ended::Lost("it has no zstd dictionary: is it a Jetstream of version 2?".into()))
            }
            Err(Missing::Failed(why)) => Err(Ended::Lost(why)),
        }
    }

    /// The host has no version 2.
    fn fall_back(&mut self) {
        let (host, packed) = (&self.endpoint.host.name, self.reading.packed);
        let and = if packed { ", whose messages are not packed" } else { "" };
        log::warn!(
            event = "wire", host = host;
            "{host}: it has no version 2 of Jetstream: reading version 1{and}, which has neither seqs nor sync events"
        );
        (self.wire, self.one_until) = (Wire::One, Some(Instant::now() + ONE_FOR));
    }

    fn binary(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        if self.wire == Wire::One || !self.reading.packed {
            self.keep(bytes, Seen::Binary)?;
            return match Found::by_binary(bytes).filter(|_| self.endpoint.fresh == 0) {
                Some(found) => {
                    Err(Ended::Lost(format!("its messages are binary: {}", found.in_place_of(Meant::Jetstream))))
                }
                None => Ok(()),
            };
        }
        let mut unpacked = std::mem::take(&mut self.unpacked);
        let result = match self.dictionary.unpack(bytes, MAX_MESSAGE, &mut unpacked) {
            Ok(()) => self.text(&unpacked),
            // The dictionary was kept from an earlier run: with the server's own the frame comes again.
            Err(why) if self.dictionary.forget() => Err(Ended::Lost(format!("{why}; the dictionary is fetched anew"))),
            Err(why) => Ok(self.keep(bytes, Seen::Bad(why))?),
        };
        if unpacked.capacity() <= 1 << 20 {
            self.unpacked = unpacked;
        }
        result
    }

    fn text(&mut self, text: &[u8]) -> Result<(), Ended> {
        let event = match jetstream::parse(text) {
            Ok(Message::Event(event)) => event,
            Ok(Message::Info(notice)) => return self.info(text, &notice),
            Ok(Message::Error(notice)) => return self.error(&notice),
            Err(detail) => return self.unreadable(text, detail),
        };
        self.silence.heard(&self.endpoint.link);
        if !self.progress.is_placed(&event) {
            return if self.progress.is_new(event.id()) { Ok(self.keep(text, Seen::BadSeq)?) } else { Ok(()) };
        }
        if let Some(position) = self.progress.begins(&event) {
            self.progress.found(&self.endpoint.host.name, &event);
            self.endpoint.intake.begin(position)?;
        }
        let (verdict, came_on) = self.progress.judge(&event);
        match verdict {
            Verdict::Repeat => {
                // A connection that comes on need not be waited for as one that brings nothing.
                self.endpoint.fresh += u64::from(came_on);
                self.endpoint.link.metrics.repeated_frame();
                return Ok(());
            }
            Verdict::New => {}
            Verdict::Gap(gap) if self.wire == Wire::Two && gap.kind == "host_reset" => return self.reset(gap),
            Verdict::Gap(gap) => self.gap(gap)?,
        }
        self.endpoint.fresh += 1;
        self.told_outdated = false;
        Ok(self.keep(text, Seen::Json)?)
    }

    /// The host counts anew, or its events are another archive's. The time of the last event means something there as well.
    fn reset(&mut self, gap: Gap) -> Result<(), Ended> {
        self.gap(gap)?;
        self.hand_over()?;
        self.progress.reset();
        Err(Ended::Again(PAUSE))
    }

    /// The host keeps nothing that is so old. What came since mostly stands behind a gap.
    fn too_old(&mut self, message: &str) -> Result<(), Stopped> {
        if let Some(message) = self.progress.too_old(&plain(message, WORDS)) {
            self.gap(Gap { kind: "outdated_cursor", message })?;
        }
        self.progress.reset();
        self.told_outdated = true;
        Ok(())
    }

    /// A message of which nothing can be read.
    fn unreadable(&mut self, text: &[u8], detail: String) -> Result<(), Ended> {
        if !self.progress.is_new(jetstream::id_of_bytes(text)) {
            return Ok(());
        }
        self.keep(text, Seen::Bad(detail))?;
        let found = std::str::from_utf8(text).ok().and_then(Found::by_text);
        match found.filter(|found| self.endpoint.fresh == 0 && *found != Found::Jetstream) {
            Some(found) => {
                Err(Ended::Lost(format!("its messages are another's: {}", found.in_place_of(Meant::Jetstream))))
            }
            None => Ok(()),
        }
    }

    fn info(&mut self, text: &[u8], notice: &Notice<'_>) -> Result<(), Ended> {
        let (name, message) = (plain(&notice.name, WORD), plain(&notice.message, WORDS));
        let host = &self.endpoint.host.name;
        log::warn!(event = "info_frame", host = host, reason = name, error = message; "{host}: info {name}: {message}");
        match (name.as_str(), self.progress.asked) {
            // The oldest was asked for, or the gap was told when the cursor was refused.
            ("OutdatedCursor", asked) if asked == Asked::Oldest || self.told_outdated || self.progress.is_seeking() => {
                return Ok(());
            }
            ("OutdatedCursor", Asked::Since(_)) if self.progress.goes_on() => {
                self.endpoint.link.metrics.gap("outdated_cursor");
            }
            ("FutureCursor", Asked::Seq(seq)) => {
                let message = format!("the cursor {seq} is in the host's future ({message}): going on by the time");
                return self.reset(Gap { kind: "host_reset", message });
            }
            _ => {}
        }
        Ok(self.keep(text, Seen::Json)?)
    }

    fn error(&mut self, notice: &Notice<'_>) -> Result<(), Ended> {
        let (name, message) = (plain(&notice.name, WORD), plain(&notice.message, WORDS));
        self.endpoint.link.metrics.received_frames.inc();
        self.endpoint.link.metrics.error_frame(&name);
        if name == "ConsumerTooSlow" {
            let message = format!("the host says so ({message}); going on behind the last event");
            return Ok(self.gap(Gap { kind: "consumer_too_slow", message })?);
        }
        // The host closes next, if it means it.
        let host = &self.endpoint.host.name;
        log::warn!(event = "error_frame", host = host, reason = name, error = message; "{host}: error {name}: {message}");
        Ok(())
    }

    fn gap(&mut self, gap: Gap) -> Result<(), Stopped> {
        let Some(notice) = self.gaps.tell(&self.endpoint.link, gap) else { return Ok(()) };
        self.hand_over()?;
        self.endpoint.intake.put(notice, None)
    }

    /// Adds a message to the next hand-over.
    fn keep(&mut self, bytes: &[u8], seen: Seen) -> Result<(), Stopped> {
        if !self.frames.has_room(bytes.len()) {
            self.hand_over()?;
        }
        self.frames.push(bytes, seen);
        if self.frames.is_full() { self.hand_over() } else { Ok(()) }
    }
}

impl<I: Intake> Channel for Jetstream<I> {
    type Intake = I;
    const MEANT: Meant = Meant::Jetstream;
    const MAX_MESSAGE: usize = MAX_MESSAGE;

    fn endpoint(&self) -> &Endpoint<I> {
        &self.endpoint
    }

    fn endpoint_mut(&mut self) -> &mut Endpoint<I> {
        &mut self.endpoint
    }

    fn request(&mut self) -> Result<Request, Ended> {
        let one = self.one_until.is_some_and(|until| Instant::now() < until);
        self.wire = self.reading.wire.unwrap_or(if one { Wire::One } else { Wire::Two });
        let dictionary = self.dictionary()?;
        let cursor = match self.progress.ask(self.wire) {
            Asked::Live => None,
            Asked::Oldest => Some(OLDEST_US),
            Asked::Since(cursor) | Asked::Seq(cursor) => Some(cursor),
        };
        let (path_and_query, hello) = self.reading.wanted.ask(self.wire, cursor, dictionary);
        self.hello = hello;
        Ok(Request { path_and_query, protocol: (self.wire == Wire::Two).then_some("xrpc.v1.json") })
    }

    fn refused(&mut self, answer: &Answer) -> Result<Option<Ended>, Stopped> {
        let error = answer.error();
        let next = match (answer.status, error.error.as_str()) {
            (404 | 405 | 501, _) if self.wire == Wire::Two && self.reading.wire.is_none() => {
                self.fall_back();
                true
            }
            (400, "CursorTooOld") => {
                self.too_old(&error.message)?;
                true
            }
            (400, "UnknownZstdDictionary") => self.dictionary.forget(),
            (414 | 431, _) if self.reading.wanted.forget_dids() => {
                let host = &self.endpoint.host.name;
                log::warn!(
                    event = "filter", host = host;
                    "{host}: the list of accounts is too long for a request there; it sends those of all, which are filtered here"
                );
                true
            }
            _ => false,
        };
        Ok(next.then_some(Ended::Again(PAUSE)))
    }

    fn connected(&mut self) {
        let host = &self.endpoint.host.name;
        let version = if self.wire == Wire::One { 1 } else { 2 };
        let from = match self.progress.asked {
            Asked::Live => "live".into(),
            Asked::Oldest => "from the oldest event kept".into(),
            Asked::Since(us) => format!("going on from {}", time::format_ms((us / 1_000) as i64)),
            Asked::Seq(seq) => format!("going on behind seq {seq}"),
        };
        log::info!(event = "connected", host = host, version = version; "{host}: connected, version {version}, {from}");
        self.silence.connected(Instant::now());
        let now_us = u64::try_from(clock::now_ms()).unwrap_or(0) * 1_000;
        self.progress.connected(self.reading.wanted.is_filter(), now_us);
    }

    fn message(&mut self, event: Event) -> Result<(), Ended> {
        match event {
            Event::Text(text) => self.text(text.as_bytes()),
            Event::Binary(bytes) => self.binary(&bytes),
            Event::TooLong(size, _) => {
                self.endpoint.link.metrics.received_frames.inc();
                self.endpoint.link.metrics.dead_letter(Reason::OverLimit).inc();
                let over = format!("a message of {size} bytes or more is over the limit of {MAX_MESSAGE}");
                Ok(self.gap(Gap { kind: "over_limit", message: format!("{over}: it was not read") })?)
            }
            Event::Broken(reason) => Err(Ended::Lost(reason)),
            Event::Control | Event::Nothing | Event::Closed(_) => Ok(()),
        }
    }

    fn waiting(&self) -> usize {
        self.frames.list.len()
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        let Some(frames) = self.frames.take() else { return Ok(()) };
        let position = self.progress.take();
        self.endpoint.link.received(&frames, position.as_ref());
        self.endpoint.intake.put(Work::Frames(frames), position)
    }

    fn quiet(&mut self, idle: bool) -> Result<Duration, Ended> {
        self.progress.through();
        if idle {
            self.silence.told(&self.endpoint.link)?;
        }
        Ok(LOOK_UP)
    }

    fn speak(&mut self, socket: &mut Socket) -> Result<(), Ended> {
        let Some(hello) = self.hello.take() else { return Ok(()) };
        socket.queue(hello).and_then(|()| socket.flush()).map_err(Ended::Lost)
    }
}
