//! The connections of a [search](super::seek) for the seq at which a time begins: a few events are read on each, and none is
//! handed over. Part of the relay's reader, on its thread, before its own connections.

use std::time::{Duration, Instant};

use super::diagnosis::Meant;
use super::job::{Intake, Stopped};
use super::link::LOOK_UP;
use super::relay::{MAX_MESSAGE, error_of, request, stranger};
use super::seek::{Answer, Ask, Event, Found, Next, Place, SAMPLE, Seek};
use super::socket::{self, Request};
use super::stream::Arrival;
use super::websocket::{self, Channel, Ended, Endpoint};
use crate::atproto::{frame, time};
use crate::checkpoint::Position;

/// How long the first event of a host's history is waited for.
const OLDEST: Duration = Duration::from_secs(30);
/// The same inside of it, where silence mostly means that there is none.
const OTHERS: Duration = Duration::from_secs(5);
/// How long an event waits for others.
const GATHER: Duration = Duration::from_millis(300);

/// Finds the seq behind which the events since `since_ms` stand, and saves it. A host that is away is tried again as ever.
pub fn search<I: Intake>(endpoint: &mut Endpoint<I>, since_ms: i64) -> Result<u64, Stopped> {
    let mut seeking = Seeking {
        since: time::format_ms(since_ms),
        seek: Seek::new(since_ms),
        waits: false,
        began: Instant::now(),
        sample: Vec::with_capacity(SAMPLE),
        first: None,
        endpoint,
    };
    seeking.tell_health();
    websocket::run(&mut seeking);
    let Next::Found(found) = seeking.seek.next() else { return Err(Stopped) };
    seeking.tell(found);
    // A restart would look for another time where it is `2h ago`, and begin elsewhere.
    endpoint.intake.begin(Position::of_seqs((found.seq, found.seq)))?;
    Ok(found.seq)
}

struct Seeking<'a, I> {
    endpoint: &'a mut Endpoint<I>,
    seek: Seek,
    /// What is looked for, as text.
    since: String,
    /// The present connection, which is there since `began`, has no answer yet.
    waits: bool,
    began: Instant,
    /// The events that came on it, and when the first one did.
    sample: Vec<Event>,
    first: Option<Instant>,
}

impl<I: Intake> Seeking<'_, I> {
    /// Events do not flow yet, although the host may be there.
    fn tell_health(&self) {
        let link = &self.endpoint.link;
        link.health.source(link.index, Err(format!("looking for the seq at which {} begins", self.since)));
    }

    fn tell(&self, found: Found) {
        let (host, since, Found { seq, connections, .. }) = (&self.endpoint.host.name, &self.since, found);
        let of = |ms| time::format_ms(ms);
        let what = match found.place {
            Place::Behind(ms) => format!("beginning behind seq {seq}, which is of {}", of(ms)),
            Place::Newest(ms) => format!("beginning live, behind the newest one, seq {seq}, which is of {}", of(ms)),
            Place::Oldest(ms) => {
                format!(
                    "the oldest one that the host keeps is later, seq {}, of {}: beginning with it",
                    seq + 1,
                    of(ms)
                )
            }
            Place::Empty => "the host gave none when asked for its oldest: beginning with whatever it has".into(),
        };
        let level = if self.endpoint.link.health.is_of_many() { log::Level::Debug } else { log::Level::Info };
        log::log!(
            level, event = "position", host = host, seq = seq;
            "{host}: asked for events since {since}: {what} ({connections} connections)"
        );
    }

    fn ask(&self) -> Option<Ask> {
        match self.seek.next() {
            Next::Ask(ask) => Some(ask),
            Next::Found(_) => None,
        }
    }

    fn binary(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        match Arrival::of(bytes) {
            Arrival::Event { seq: Some(seq), body, .. } => {
                if let Some(time_ms) = frame::time(&bytes[body..]).and_then(time::parse_ms) {
                    self.first.get_or_insert_with(Instant::now);
                    self.sample.push(Event { seq, time_ms });
                    self.endpoint.fresh += 1;
                }
            }
            Arrival::Error(body) => {
                let (name, message) = error_of(&self.endpoint.host, &bytes[body..]);
                if name == "FutureCursor" {
                    return Err(self.answer());
                }
                self.endpoint.link.metrics.error_frame(&name);
                return Err(Ended::Lost(format!("error frame {name}: {message}")));
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends the connection where it has told enough.
    fn look(&mut self) -> Result<(), Ended> {
        let patience = if self.ask() == Some(Ask::Behind(0)) { OLDEST } else { OTHERS };
        let gathered = self.sample.len() >= SAMPLE || self.first.is_some_and(|first| first.elapsed() >= GATHER);
        if gathered || self.began.elapsed() >= patience { Err(self.answer()) } else { Ok(()) }
    }

    /// What came is the answer.
    fn answer(&mut self) -> Ended {
        self.waits = false;
        self.seek.answer(match &self.sample[..] {
            [] => Answer::Nothing,
            events => Answer::Events(events),
        });
        log::debug!(
            "{}: {:?} of {}, then {:?}",
            self.endpoint.host.name,
            self.sample.first(),
            self.sample.len(),
            self.seek.next()
        );
        if self.ask().is_some() { Ended::Served } else { Ended::Done }
    }
}

impl<I: Intake> Channel for Seeking<'_, I> {
    type Intake = I;
    const MEANT: Meant = Meant::Relay;
    const MAX_MESSAGE: usize = MAX_MESSAGE;

    fn endpoint(&self) -> &Endpoint<I> {
        self.endpoint
    }

    fn endpoint_mut(&mut self) -> &mut Endpoint<I> {
        self.endpoint
    }

    fn request(&mut self) -> Result<Request, Ended> {
        if std::mem::take(&mut self.waits) {
            // What came before it ended counts all the same.
            self.seek.answer(if self.sample.is_empty() { Answer::Broke } else { Answer::Events(&self.sample) });
        }
        self.sample.clear();
        self.first = None;
        match self.ask() {
            Some(Ask::Behind(seq)) => Ok(request(Some(seq))),
            Some(Ask::Live) => Ok(request(None)),
            None => Err(Ended::Done),
        }
    }

    fn connected(&mut self) {
        self.tell_health();
        (self.waits, self.began) = (true, Instant::now());
    }

    fn message(&mut self, event: socket::Event) -> Result<(), Ended> {
        match event {
            socket::Event::Binary(bytes) => self.binary(&bytes)?,
            socket::Event::Text(text) => stranger(&text).map_or(Ok(()), Err)?,
            socket::Event::Broken(reason) => return Err(Ended::Lost(reason)),
            _ => {}
        }
        self.look()
    }

    fn waiting(&self) -> usize {
        0
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        Ok(())
    }

    fn quiet(&mut self, _idle: bool) -> Result<Duration, Ended> {
        self.look()?;
        Ok(if self.first.is_some() { GATHER / 10 } else { LOOK_UP })
    }
}
