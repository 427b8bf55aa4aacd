//! A proxy before a broker that speaks Kafka's protocol well enough to spoil single requests: it answers an error, or cuts the
//! connection, with the broker having carried the request out or not. The broker says its own address in answers; there the
//! proxy puts its own, so that a client never goes around it.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// Requests that can be spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// Events: a batch of several records of a topic other than that of positions.
    Events,
    /// A position.
    Position,
    FindCoordinator,
    InitProducerId,
    AddPartitions,
    Commit,
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The broker does not get the request; the answer is this error.
    Refused(i16),
    /// The broker carries the request out, and the answer is this error all the same.
    Denied(i16),
    /// The broker does not get the request, and the connection is cut.
    CutBefore,
    /// The broker carries the request out, and the connection is cut in place of the answer.
    CutBehind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub what: What,
    pub how: How,
    /// Requests of the kind that pass before.
    pub skip: usize,
}

#[derive(Default)]
struct Shared {
    waiting: VecDeque<Fault>,
    /// Faults that have struck.
    struck: Vec<Fault>,
    /// Requests by kind, spoilt or not.
    seen: HashMap<What, usize>,
}

pub struct Proxy {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread of the proxy panics")
}

impl Proxy {
    /// Before the broker at `127.0.0.1:PORT`.
    pub fn start(broker: &str) -> Proxy {
        let broker: u16 = broker.strip_prefix("127.0.0.1:").and_then(|port| port.parse().ok()).expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let all = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = all.clone();
                std::thread::spawn(move || serve(client, broker, port, &shared));
            }
        });
        Proxy { port, shared }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Strikes once those before it have.
    pub fn inject(&self, fault: Fault) {
        locked(&self.shared).waiting.push_back(fault);
    }

    /// Faults that have not struck yet.
    pub fn waiting(&self) -> usize {
        locked(&self.shared).waiting.len()
    }

    pub fn struck(&self) -> Vec<Fault> {
        locked(&self.shared).struck.clone()
    }

    /// How many requests of the kind came.
    pub fn seen(&self, what: What) -> usize {
        locked(&self.shared).seen.get(&what).copied().unwrap_or(0)
    }
}

/// What is done with an answer of the broker.
enum Answer {
    /// It has the address of the broker in it.
    Addresses,
    Replaced(Vec<u8>),
    Cut,
}

fn serve(client: TcpStream, broker: u16, own: u16, shared: &Mutex<Shared>) -> Option<()> {
    let host = TcpStream::connect(("127.0.0.1", broker)).ok()?;
    // By correlation id.
    let answers: Arc<Mutex<HashMap<i32, Answer>>> = Arc::default();
    let to_client = Arc::new(Mutex::new(client.try_clone().ok()?));
    let (from_host, from_client, mut to_host) = (host.try_clone().ok()?, client, host);
    let (expected, answering, socket) = (answers.clone(), to_client.clone(), from_client.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = pass_answers(from_host, &answering, &expected, broker, own);
        let _ = socket.shutdown(Shutdown::Both);
    });
    let mut reading = from_client;
    while let Some(bytes) = frame(&mut reading) {
        let request = Request::read(&bytes)?;
        if matches!(request.api, METADATA | FIND_COORDINATOR) {
            locked(&answers).insert(request.correlation, Answer::Addresses);
        }
        match strike(&request, shared) {
            None => {}
            Some(How::Refused(error)) => {
                send(&mut locked(&to_client), &request.refusal(error))?;
                continue;
            }
            Some(How::Denied(error)) => {
                locked(&answers).insert(request.correlation, Answer::Replaced(request.refusal(error)));
            }
            Some(How::CutBehind) => {
                locked(&answers).insert(request.correlation, Answer::Cut);
            }
            Some(How::CutBefore) => break,
        }
        if send(&mut to_host, &bytes).is_none() {
            break;
        }
    }
    let _ = (reading.shutdown(Shutdown::Both), to_host.shutdown(Shutdown::Both));
    Some(())
}

/// The fault that is due for this request.
fn strike(request: &Request<'_>, shared: &Mutex<Shared>) -> Option<How> {
    let what = request.what()?;
    let mut shared = locked(shared);
    *shared.seen.entry(what).or_default() += 1;
    let next = shared.waiting.front_mut().filter(|fault| fault.what == what)?;
    if next.skip > 0 {
        next.skip -= 1;
        return None;
    }
    let fault = shared.waiting.pop_front()?;
    shared.struck.push(fault);
    Some(fault.how)
}

fn pass_answers(
    mut host: TcpStream,
    client: &Mutex<TcpStream>,
    answers: &Mutex<HashMap<i32, Answer>>,
    broker: u16,
    own: u16,
) -> Option<()> {
    let address = |port: u16| [&b"127.0.0.1"[..], &i32::from(port).to_be_bytes()].concat();
    let (theirs, ours) = (address(broker), address(own));
    while let Some(mut bytes) = frame(&mut host) {
        let correlation = i32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
        let answer = locked(answers).remove(&correlation);
        match answer {
            None => {}
            Some(Answer::Addresses) => {
                while let Some(at) = bytes.windows(theirs.len()).position(|window| window == theirs) {
                    bytes[at..at + ours.len()].copy_from_slice(&ours);
                }
            }
            Some(Answer::Replaced(other)) => bytes = other,
            Some(Answer::Cut) => break,
        }
        send(&mut locked(client), &bytes)?;
    }
    let _ = host.shutdown(Shutdown::Both);
    Some(())
}

/// The next request or answer, without its length.
fn frame(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn send(to: &mut TcpStream, bytes: &[u8]) -> Option<()> {
    to.write_all(&[&(bytes.len() as u32).to_be_bytes(), bytes].concat()).ok()
}

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const FIND_COORDINATOR: i16 = 10;
const INIT_PRODUCER_ID: i16 = 22;
const ADD_PARTITIONS: i16 = 24;
const END_TXN: i16 = 26;

/// Names, and what there is of each partition.
type Topics<'a, P> = Vec<(&'a [u8], Vec<P>)>;

struct Request<'a> {
    api: i16,
    version: i16,
    correlation: i32,
    /// Behind the header.
    body: Fields<'a>,
}

impl<'a> Request<'a> {
    fn read(bytes: &'a [u8]) -> Option<Request<'a>> {
        let mut fields = Fields { bytes, compact: false };
        let (api, version, correlation) = (fields.i16()?, fields.i16()?, fields.i32()?);
        // The versions from which on lengths are varints and there are tagged fields.
        let compact = match api {
            PRODUCE => version >= 9,
            INIT_PRODUCER_ID => version >= 2,
            FIND_COORDINATOR | ADD_PARTITIONS | END_TXN => version >= 3,
            _ => false,
        };
        fields.text()?;
        fields.compact = compact;
        fields.tags()?;
        Some(Request { api, version, correlation, body: fields })
    }

    fn what(&self) -> Option<What> {
        match self.api {
            FIND_COORDINATOR => Some(What::FindCoordinator),
            INIT_PRODUCER_ID => Some(What::InitProducerId),
            ADD_PARTITIONS => Some(What::AddPartitions),
            END_TXN => Some(if self.body.bytes.last() == Some(&1) { What::Commit } else { What::Abort }),
            PRODUCE => {
                let topics = self.produced()?;
                let (topic, partitions) = topics.first()?;
                match topic.ends_with(b".cursor") {
                    true => Some(What::Position),
                    false => partitions.iter().all(|(_, records)| *records > 1).then_some(What::Events),
                }
            }
            _ => None,
        }
    }

    /// The topics of a request to produce, and the partitions of each with how many records they get.
    fn produced(&self) -> Option<Topics<'a, (i32, i32)>> {
        let mut body = self.body;
        body.text()?;
        body.i16()?;
        body.i32()?;
        body.each(|topic| {
            let name = topic.text()?;
            let partitions = topic.each(|partition| {
                let (index, batch) = (partition.i32()?, partition.bytes()?);
                partition.tags()?;
                // The number of records stands at the end of the batch's header.
                Some((index, i32::from_be_bytes(batch.get(57..61)?.try_into().ok()?)))
            })?;
            topic.tags()?;
            Some((name, partitions))
        })
    }

    /// The topics of a request to add partitions to a transaction, and their partitions.
    fn added(&self) -> Option<Topics<'a, i32>> {
        let mut body = self.body;
        body.text()?;
        body.i32()?;
        body.i32()?;
        body.i16()?;
        body.each(|topic| Some((topic.text()?, topic.each(Fields::i32)?)))
    }

    /// The answer that refuses it with this error, whole.
    fn refusal(&self, error: i16) -> Vec<u8> {
        let mut out = Out { bytes: Vec::new(), compact: self.body.compact };
        out.i32(self.correlation);
        out.tags();
        match (self.api, self.version) {
            (END_TXN, 0..=2) => {
                out.i32(0);
                out.i16(error);
            }
            (INIT_PRODUCER_ID, 0..=4) => {
                out.i32(0);
                out.i16(error);
                out.i64(-1);
                out.i16(-1);
                out.tags();
            }
            (FIND_COORDINATOR, 1..=2) => {
                out.i32(0);
                out.i16(error);
                // No message, node -1, an empty host and port -1.
                out.i16(-1);
                out.i32(-1);
                out.i16(0);
                out.i32(-1);
            }
            (ADD_PARTITIONS, 0..=2) => {
                let topics = self.added().expect("AddPartitionsToTxn");
                out.i32(0);
                out.count(topics.len());
                for (name, partitions) in topics {
                    out.text(name);
                    out.count(partitions.len());
                    partitions.iter().for_each(|partition| {
                        out.i32(*partition);
                        out.i16(error);
                    });
                }
            }
            (PRODUCE, 3..=12) => {
                let topics = self.produced().expect("Produce");
                out.count(topics.len());
                for (name, partitions) in topics {
                    out.text(name);
                    out.count(partitions.len());
                    for (partition, _) in partitions {
                        out.i32(partition);
                        out.i16(error);
                        // Offset, time of the log, and its start.
                        out.i64(-1);
                        out.i64(-1);
                        if self.version >= 5 {
                            out.i64(-1);
                        }
                        if self.version >= 8 {
                            out.count(0);
                            out.no_text();
                        }
                        out.tags();
                    }
                    out.tags();
                }
                out.i32(0);
                out.tags();
            }
            other => panic!("no answer is known for {other:?}"),
        }
        out.bytes
    }
}

/// Fields of a request, from the front on.
#[derive(Clone, Copy)]
struct Fields<'a> {
    bytes: &'a [u8],
    compact: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn varint(&mut self) -> Option<usize> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.take(1)?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
            shift += 7;
        }
    }

    /// A length: that of nothing is 0.
    fn length(&mut self, plain: impl Fn(&mut Self) -> Option<i32>) -> Option<usize> {
        match self.compact {
            true => Some(self.varint()?.saturating_sub(1)),
            false => Some(plain(self)?.max(0) as usize),
        }
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.length(|fields| fields.i16().map(i32::from))?;
        self.take(length)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length(Self::i32)?;
        self.take(length)
    }

    fn each<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length = self.length(Self::i32)?;
        (0..length).map(|_| read(self)).collect()
    }

    fn tags(&mut self) -> Option<()> {
        if self.compact {
            for _ in 0..self.varint()? {
                self.varint()?;
                let length = self.varint()?;
                self.take(length)?;
            }
        }
        Some(())
    }
}

/// An answer.
struct Out {
    bytes: Vec<u8>,
    compact: bool,
}

impl Out {
    fn i16(&mut self, value: i16) {
        self.bytes.extend(value.to_be_bytes());
    }

    fn i32(&mut self, value: i32) {
        self.bytes.extend(value.to_be_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.bytes.extend(value.to_be_bytes());
    }

    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn count(&mut self, count: usize) {
        if self.compact { self.varint(count + 1) } else { self.i32(count as i32) }
    }

    fn text(&mut self, text: &[u8]) {
        if self.compact {
            self.varint(text.len() + 1)
        } else {
            self.i16(text.len() as i16)
        }
        self.bytes.extend(text);
    }

    fn no_text(&mut self) {
        if self.compact { self.varint(0) } else { self.i16(-1) }
    }

    fn tags(&mut self) {
        if self.compact {
            self.bytes.push(0);
        }
    }
}
