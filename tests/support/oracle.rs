//! What must arrive, and what did.
#![allow(dead_code)] // each test file uses a part of it

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use atkafka_fixtures::network::{Kind, Network};
use serde::Deserialize;

use crate::support::Arrived;

/// One event. `what` is verb and path of an op, else the kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    pub seq: u64,
    pub did: String,
    pub what: String,
}

/// Frames of a simulated network, and what has to come out of each.
pub struct Traffic {
    pub frames: Arc<Vec<Vec<u8>>>,
    /// By frame: account, and verb and path or kind.
    events: Vec<Vec<(String, String)>>,
}

impl Traffic {
    pub fn network(seed: u64, accounts: usize, frames: usize) -> Traffic {
        println!("network seed {seed}");
        let (mut bytes, mut events) = (Vec::with_capacity(frames), Vec::with_capacity(frames));
        for frame in Network::new(seed, accounts).frames(frames) {
            events.push(match frame.kind {
                Kind::Commit => frame
                    .truth
                    .iter()
                    .map(|op| (op.did.clone(), format!("{} {}/{}", op.action, op.collection, op.rkey)))
                    .collect(),
                Kind::Sync => vec![(frame.did.clone(), "sync".into())],
                Kind::Identity => vec![(frame.did.clone(), "identity".into())],
                Kind::Account => vec![(frame.did.clone(), "account".into())],
            });
            bytes.push(frame.bytes);
        }
        for kind in ["sync", "identity", "account"] {
            assert!(events.iter().flatten().any(|(_, what)| what == kind), "the network has no #{kind}");
        }
        Traffic { frames: Arc::new(bytes), events }
    }

    /// What must come out of the frames `indices` of a looped run, when frame `i` has the seq `first + i`.
    pub fn served(&self, first: u64, indices: Range<u64>) -> Vec<Event> {
        let frame = |i: u64| self.events[i as usize % self.events.len()].iter().map(move |event| (first + i, event));
        let all = indices.flat_map(frame);
        all.map(|(seq, (did, what))| Event { seq, did: did.clone(), what: what.clone() }).collect()
    }
}

/// How what arrived differs from what had to.
#[derive(Debug, Default)]
pub struct Verdict {
    pub missing: Vec<Event>,
    /// Again, whole and right.
    pub repeated: usize,
    /// First occurrences behind a later event of their partition, and accounts on two partitions.
    pub out_of_order: Vec<Event>,
    /// What nobody sent.
    pub foreign: Vec<Event>,
    /// The longest way, in seqs, that a partition goes back: what one restart repeats.
    pub step_back: u64,
    /// Names in `info` events.
    pub infos: Vec<String>,
}

#[derive(Deserialize)]
struct Json {
    did: Option<String>,
    seq: Option<u64>,
    operation: Option<Operation>,
    identity: Option<serde::de::IgnoredAny>,
    account: Option<serde::de::IgnoredAny>,
    sync: Option<serde::de::IgnoredAny>,
    info: Option<Info>,
}

#[derive(Deserialize)]
struct Operation {
    action: String,
    collection: String,
    rkey: String,
}

#[derive(Deserialize)]
struct Info {
    name: String,
}

/// Lines of standard output as records without key in one partition. A last one that was cut off is left out.
pub fn of_lines(lines: &[String]) -> Vec<Arrived> {
    let whole = lines.len() - usize::from(lines.last().is_some_and(|l| sonic_rs::from_str::<Json>(l).is_err()));
    let record = |line: &String| Arrived {
        partition: 0,
        key: None,
        value: line.clone().into_bytes(),
        time_ms: None,
        headers: Vec::new(),
    };
    lines[..whole].iter().map(record).collect()
}

/// The seq of a record, where it has one.
pub fn seq_of(arrived: &Arrived) -> Option<u64> {
    parse(arrived).seq
}

fn parse(arrived: &Arrived) -> Json {
    sonic_rs::from_slice(&arrived.value).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&arrived.value)))
}

/// Compares; `expected` in upstream's order, `arrived` in the order of each partition.
pub fn compare(expected: &[Event], arrived: &[Arrived]) -> Verdict {
    let places: HashMap<&Event, usize> = expected.iter().enumerate().map(|(place, event)| (event, place)).collect();
    assert_eq!(places.len(), expected.len(), "each event of the truth is different");
    let mut verdict = Verdict::default();
    let mut seen = HashSet::new();
    let mut homes: HashMap<String, i32> = HashMap::new();
    // By partition: the highest place so far, and the seq before.
    let mut partitions: HashMap<i32, (usize, u64)> = HashMap::new();
    for record in arrived {
        let json = parse(record);
        if let Some(info) = json.info {
            verdict.infos.push(info.name);
            continue;
        }
        let what = match json {
            Json { operation: Some(op), .. } => format!("{} {}/{}", op.action, op.collection, op.rkey),
            Json { identity: Some(_), .. } => "identity".into(),
            Json { account: Some(_), .. } => "account".into(),
            Json { sync: Some(_), .. } => "sync".into(),
            _ => "nothing known".into(),
        };
        let event = Event { seq: json.seq.unwrap_or(0), did: json.did.unwrap_or_default(), what };
        if let Some(key) = &record.key {
            assert_eq!(*key, event.did, "the key is the account");
        }
        let Some(place) = places.get(&event) else {
            verdict.foreign.push(event);
            continue;
        };
        let home = *homes.entry(event.did.clone()).or_insert(record.partition);
        let (highest, before) = partitions.entry(record.partition).or_default();
        verdict.step_back = verdict.step_back.max(before.saturating_sub(event.seq));
        *before = event.seq;
        if !seen.insert(*place) {
            verdict.repeated += 1;
        } else if *place < *highest || home != record.partition {
            verdict.out_of_order.push(event);
        } else {
            *highest = *place;
        }
    }
    verdict.missing = (0..expected.len()).filter(|i| !seen.contains(i)).map(|i| expected[i].clone()).collect();
    println!("{} expected, {} arrived: {verdict}", expected.len(), arrived.len());
    verdict
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |events: &[Event]| format!("{} {:?}", events.len(), &events[..events.len().min(3)]);
        write!(
            f,
            "missing {}, repeated {}, out of order {}, foreign {}, longest step back {} seqs, infos {:?}",
            part(&self.missing),
            self.repeated,
            part(&self.out_of_order),
            part(&self.foreign),
            self.step_back,
            self.infos
        )
    }
}

impl Verdict {
    /// Everything, in order; some of it maybe more than once.
    #[track_caller]
    pub fn at_least_once(&self) -> &Verdict {
        let whole = self.missing.is_empty() && self.out_of_order.is_empty() && self.foreign.is_empty();
        assert!(whole, "{self}");
        self
    }

    /// Everything, in order, nothing twice.
    #[track_caller]
    pub fn once(&self) -> &Verdict {
        self.at_least_once();
        assert_eq!(self.repeated, 0, "{self}");
        self
    }
}
