//! The reader of a relay (or a PDS): `com.atproto.sync.subscribeRepos`.
//!
//! It looks only at a message's kind and seq, and hands it over. It owns the cursor that it asks for, the detection of gaps
//! and of silence, and what the host's own messages mean. The connection itself is the [`websocket`]
//! module's; what is in a frame the decoder's. It runs on a reader thread.

mod said;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::diagnosis::Meant;
use super::gaps::{Gaps, SAY_SEQ_GAP};
use super::job::{Intake, Seen, Stopped, Work};
use super::link::LOOK_UP;
use super::pace::PATIENCE;
use super::resume::{Gap, JUMP, Verdict};
use super::seeking;
use super::silence::Silence;
use super::socket::{Event, Request};
use super::stepping::Stepping;
use super::stream::{Arrival, Stream};
use super::websocket::{self, Channel, Ended, Endpoint};
use super::{Host, Start};
use crate::checkpoint::Position;
use crate::dead_letter::Reason;
use crate::health::Health;
use crate::metrics::source::SourceMetrics;
pub(super) use said::{error_of, stranger};

/// How long the first frame of a live start waits for a second one that agrees with its seq.
const AGREE: Duration = Duration::from_secs(1);
const PATH: &str = "/xrpc/com.atproto.sync.subscribeRepos";
/// Bytes of one message at most: relays send frames up to 5 MB (indigo), and a little more for the envelope.
pub(super) const MAX_MESSAGE: usize = 5_500_000;

/// The reader of a firehose: a relay, a PDS or another host with the same endpoint.
pub struct Relay<I> {
    endpoint: Endpoint<I>,
    start: Start,
    /// The stream begins at a time, and no event came yet: nothing was delivered before, so that nothing can be missing.
    begins_at_time: bool,
    stream: Stream,
    gaps: Gaps,
    /// The first frame of a live start, which waits in `stream` for a second one: its seq, and since when.
    alone: Option<(u64, Instant)>,
    /// What the present connection was asked to begin behind, and when it began.
    asked: Option<u64>,
    began: Instant,
    silence: Silence,
    /// The way past a message that breaks each connection.
    stepping: Stepping,
}

impl<I: Intake> Relay<I> {
    /// `saved` is the cursor of an earlier run; it goes before `start`.
    pub fn new(
        host: Host,
        index: usize,
        start: Start,
        saved: Option<u64>,
        intake: I,
        metrics: Arc<SourceMetrics>,
        health: Arc<Health>,
    ) -> Self {
        let start = saved.map_or(start, Start::At);
        let name = host.name.clone();
        let endpoint = Endpoint::new(host, &name, index, intake, metrics, health);
        if let Some(seq) = saved {
            // Until the first new event that is where we are.
            endpoint.link.gauges.last_seq_received.set(seq as i64);
            endpoint.link.gauges.last_seq_delivered.set(seq as i64);
        }
        Relay {
            endpoint,
            start,
            begins_at_time: false,
            stream: Stream::new(match start {
                Start::Live | Start::Time(_) => None,
                Start::At(seq) => Some(seq),
            }),
            gaps: Gaps::new(SAY_SEQ_GAP),
            alone: None,
            asked: None,
            began: Instant::now(),
            silence: Silence::new(Some(PATIENCE)),
            stepping: Stepping::default(),
        }
    }

    /// How long a busy host may be silent before a new connection; `None`: for ever.
    pub fn silence(mut self, patience: Option<Duration>) -> Self {
        self.silence = Silence::new(patience);
        self
    }

    /// How long a first message waits for more of them.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.endpoint.linger = linger;
        self
    }

    /// Reads until the end is asked for. Whatever happens to the connection, it comes back.
    pub fn run(mut self) {
        if let Start::Time(since_ms) = self.start {
            let Ok(seq) = seeking::search(&mut self.endpoint, since_ms) else { return };
            (self.start, self.begins_at_time, self.stream) = (Start::At(seq), true, Stream::new(Some(seq)));
        }
        websocket::run(&mut self);
    }

    fn binary(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let arrival = Arrival::of(bytes);
        match &arrival {
            Arrival::Event { seq, .. } => {
                let seq = *seq;
                self.silence.heard(&self.endpoint.link);
                self.got_past(seq)?;
                match seq {
                    Some(seq) if !self.event(seq)? => return Ok(()),
                    _ => {}
                }
            }
            Arrival::Info(body) => self.info(&bytes[*body..]),
            Arrival::Error(body) => return self.error_frame(&bytes[*body..]),
            Arrival::Unknown => self.endpoint.link.metrics.unknown_frame(),
            Arrival::Unreadable(_) => {}
        }
        match arrival.seen() {
            Some(seen) => Ok(self.keep(bytes, seen)?),
            None => Ok(()),
        }
    }

    /// An event with a seq. Whether it is new; if so, all that is to be done before it is handed over is done.
    fn event(&mut self, seq: u64) -> Result<bool, Stopped> {
        if std::mem::take(&mut self.begins_at_time) || self.stepping.is_on() {
            // The latter is said below, and with a better reason than an old cursor.
            self.stream.resume.told_outdated();
        }
        let begins = self.begins();
        self.release(Some(seq))?;
        if !self.is_new(seq)? {
            return Ok(false);
        }
        if self.stepping.passed_over(&self.endpoint.link) {
            let message = format!(
                "a message that breaks each connection was passed over: events before seq {seq} may be missing"
            );
            self.gap(Gap { kind: "over_limit", message }, None)?;
        }
        self.endpoint.fresh += 1;
        if begins {
            // It waits alone: what came before it does not.
            self.hand_over()?;
            self.alone = Some((seq, Instant::now()));
        }
        Ok(true)
    }

    /// A message that was not read whole: a dead letter, and a gap where it may have been an event.
    fn too_long(&mut self, size: u64, start: &[u8]) -> Result<(), Ended> {
        let (event, seq) = match Arrival::of(start) {
            Arrival::Event { seq, .. } => (true, seq),
            _ => (false, None),
        };
        if event {
            self.silence.heard(&self.endpoint.link);
        }
        self.got_past(seq)?;
        self.release(seq)?;
        let mut reached = None;
        if let Some(seq) = seq {
            let begins = self.begins();
            if begins {
                self.endpoint.intake.begin(Position::of_seqs((seq - 1, seq - 1)))?;
            }
            if !self.is_new(seq)? {
                return Ok(());
            }
            if begins {
                // It cannot wait for a second one, and without its seq the next connection would be live again.
                self.stream.resume.settle();
            }
            self.endpoint.fresh += 1;
            reached = Some(self.stream.here(seq));
        }
        let (host, metrics) = (&self.endpoint.host.name, &self.endpoint.link.metrics);
        metrics.received_frames.inc();
        metrics.dead_letter(Reason::OverLimit).inc();
        if !event {
            log::warn!(
                event = "over_limit", host = host, bytes = size;
                "{host}: a message of {size} bytes or more, over the limit of {MAX_MESSAGE}, which is no event: passed over"
            );
            return Ok(());
        }
        let which = seq.map(|seq| format!(", seq {seq},")).unwrap_or_default();
        let message =
            format!("an event of {size} bytes or more{which} is over the limit of {MAX_MESSAGE}: it was not read");
        Ok(self.gap(Gap { kind: "over_limit", message }, reached)?)
    }

    /// An event with this seq may show that the connection got past the place where others broke. Two do not, since each
    /// connection may begin with them: the cursor's own event, where cursors are inclusive, and the one behind a jump that
    /// is not confirmed. A lower one is of a host that counts anew.
    fn got_past(&mut self, seq: Option<u64>) -> Result<(), Ended> {
        let resume = &self.stream.resume;
        match seq {
            Some(seq) if seq != resume.cursor() && seq != resume.last() => self.stepping.unbroken(),
            _ => Ok(()),
        }
    }

    /// Whether the next event is the first of a live start.
    fn begins(&self) -> bool {
        self.stream.resume.last() == 0 && self.start == Start::Live
    }

    /// Whether the event with this seq is new. A repeat is counted, and a gap is reported.
    fn is_new(&mut self, seq: u64) -> Result<bool, Stopped> {
        match self.stream.judge(seq) {
            Verdict::Repeat => {
                self.endpoint.link.metrics.repeated_frame();
                return Ok(false);
            }
            Verdict::New => {}
            Verdict::Gap(gap) => self.gap(gap, None)?,
        }
        Ok(true)
    }

    /// Tells a gap. Its `info` event brings the stream to `reached`.
    fn gap(&mut self, gap: Gap, reached: Option<(u64, u64)>) -> Result<(), Stopped> {
        let Some(notice) = self.gaps.tell(&self.endpoint.link, gap) else { return Ok(()) };
        self.hand_over()?;
        self.endpoint.intake.put(notice, reached.map(Position::of_seqs))
    }

    /// Ends the wait of a live start's first frame. From now on nothing may be lost: without a position, a kill before
    /// the first save would start live again. Where the two frames do not agree, one of them is wrong, and the lower seq
    /// counts.
    fn release(&mut self, second: Option<u64>) -> Result<(), Stopped> {
        let Some((first, _)) = self.alone.take() else { return Ok(()) };
        self.stream.resume.settle();
        let lowest = second.map_or(first, |second| second.min(first)) - 1;
        let agreed = second.is_none_or(|second| second >= first && second - first <= JUMP);
        self.stream.stand_at((if agreed { first } else { lowest }, first));
        self.endpoint.intake.begin(Position::of_seqs((lowest, lowest)))
    }

    /// Adds a message to the next hand-over.
    fn keep(&mut self, bytes: &[u8], seen: Seen) -> Result<(), Stopped> {
        if !self.stream.has_room(bytes.len()) {
            self.hand_over()?;
        }
        if self.stream.push(bytes, seen) { self.hand_over() } else { Ok(()) }
    }
}

/// The firehose behind this seq; without one, live.
pub(super) fn request(cursor: Option<u64>) -> Request {
    let query = cursor.map(|seq| format!("?cursor={seq}")).unwrap_or_default();
    Request::of(format!("{PATH}{query}"))
}

impl<I: Intake> Channel for Relay<I> {
    type Intake = I;
    const MEANT: Meant = Meant::Relay;
    const MAX_MESSAGE: usize = MAX_MESSAGE;

    fn endpoint(&self) -> &Endpoint<I> {
        &self.endpoint
    }

    fn endpoint_mut(&mut self) -> &mut Endpoint<I> {
        &mut self.endpoint
    }

    fn request(&mut self) -> Result<Request, Ended> {
        self.asked = match (self.stream.resume.cursor(), self.start) {
            (0, Start::Live) => None,
            (cursor, _) => Some(cursor + self.stepping.ask()),
        };
        Ok(request(self.asked))
    }

    fn connected(&mut self) {
        let host = &self.endpoint.host.name;
        let from = match self.asked {
            Some(0) => "from the oldest event kept".into(),
            Some(seq) => format!("going on behind seq {seq}"),
            None => "live".to_string(),
        };
        let level = if self.endpoint.link.health.is_of_many() { log::Level::Debug } else { log::Level::Info };
        log::log!(level, event = "connected", host = host, seq = self.asked; "{host}: connected, {from}");
        self.began = Instant::now();
        self.silence.connected(self.began);
        self.stream.resume.connected(self.asked.map(|seq| seq - self.stepping.ask()));
    }

    fn message(&mut self, event: Event) -> Result<(), Ended> {
        match event {
            Event::Binary(bytes) => self.binary(&bytes),
            Event::Text(text) => self.text(&text),
            Event::Broken(reason) => Err(self.stepping.broke(&self.endpoint.link, self.asked, reason)),
            Event::TooLong(size, start) => self.too_long(size, &start),
            Event::Control | Event::Nothing | Event::Closed(_) => Ok(()),
        }
    }

    fn waiting(&self) -> usize {
        self.stream.len()
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        self.release(None)?;
        let Some((frames, position)) = self.stream.take() else { return Ok(()) };
        self.endpoint.link.received(&frames, position.as_ref());
        self.endpoint.intake.put(Work::Frames(frames), position)
    }

    /// A first frame waits for a second one.
    fn pass_on(&mut self) -> Result<(), Stopped> {
        match self.alone {
            Some((_, since)) if since.elapsed() < AGREE && !self.endpoint.intake.stopped() => Ok(()),
            _ => self.hand_over(),
        }
    }

    fn quiet(&mut self, idle: bool) -> Result<Duration, Ended> {
        self.stepping.silent(self.began.elapsed())?;
        if idle {
            self.silence.told(&self.endpoint.link)?;
        }
        let longest = self.alone.map_or(LOOK_UP, |(_, since)| AGREE.saturating_sub(since.elapsed()));
        Ok(longest.min(LOOK_UP))
    }
}
