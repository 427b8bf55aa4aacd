//! Positions in the cursor topic. They are read without anybody noticing; a change fences whoever writes them, is one transaction,
//! and nothing is changed where that fails.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::position::{self, Position};
use super::{Change, Failed, Found, Place, changed};
use crate::checkpoint::saved;
use crate::checkpoint::topic::{self, Entry, Key, Mark};
use crate::config::Chosen;
use crate::metrics::Metrics;
use crate::pipeline::{self, ledger};
use crate::sink::kafka_options::Kafka;
use crate::sink::librdkafka::Librdkafka;
use crate::sink::librdkafka::inspect::Inspector;
use crate::sink::transaction::{Identity, Trouble};
use crate::sink::{Background, NotReady, Sink};

/// Positions that are listed at most.
const MOST: usize = 10_000;
/// What may pass, such as a coordinator that is just being chosen, is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(300);

/// Those that are chosen, by key, deleted ones as well: they say who had them; and whether there are more than [`MOST`].
pub fn all(kafka: Kafka, topic: &str, chosen: &Chosen) -> Result<(Vec<Found>, bool), String> {
    let inspector = Inspector::connect(kafka)?;
    if inspector.topic(topic).is_none() {
        return Err(format!(
            "topic {topic} does not exist, or this client may not see it: the first start of atkafka creates it; or allow Describe"
        ));
    }
    let (mut all, mut more) = (BTreeMap::<Key, Found>::new(), false);
    inspector.positions(topic, &|key| chosen.takes(key), &mut |_, entry| match all.len() >= MOST
        && !all.contains_key(&entry.key)
    {
        true => more = true,
        false => drop(all.insert(entry.key.clone(), found(topic, entry))),
    })?;
    Ok((all.into_values().collect(), more))
}

fn found(topic: &str, entry: Entry) -> Found {
    let position = read(&entry.key, entry.value.as_deref());
    Found { key: entry.key, position, place: Place::Record { topic: topic.into(), writer: entry.writer } }
}

fn read(key: &Key, value: Option<&[u8]>) -> Result<Position, String> {
    let Some(value) = value else { return Ok(Position::default()) };
    let (host, output, position) = position::read(&key.source, value)?;
    match host == key.host && output == key.output {
        true => Ok(position),
        false => Err(format!("is that of {host} into {output}: was it copied?")),
    }
}

pub fn change(
    kafka: Kafka,
    topic: &str,
    found: &Found,
    change: &Change,
    print: &mut dyn FnMut(&str),
) -> Result<(), Failed> {
    let key = &found.key;
    // Before anybody is fenced.
    let state = match change {
        Change::Set(to) => Some(position::made(key, *to).map_err(Failed::Usage)?),
        Change::Delete => None,
    };
    let transactional_id = match &found.place {
        Place::Record { writer: Some(writer), .. } => writer.clone(),
        _ => topic::transactional_id(std::slice::from_ref(key)),
    };
    print(&format!(
        "an atkafka that runs with the transactional id {transactional_id} is fenced by this: it says so and ends with 1\n"
    ));
    let identity = Identity {
        transactional_id,
        cursor_topic: topic.into(),
        largest: 0,
        positions_only: true,
        takeover_after: None,
    };
    let client = Librdkafka::new(kafka, Metrics::default().sink)
        .map_err(|e| Failed::Usage(format!("--kafka-config: {e}")))?
        .transactional(identity);
    let mut client = Client { sink: Box::new(client), cluster: None };
    client.fence().map_err(Failed::Run)?;
    // Nobody else writes it from here on.
    let value = client.value(key).map_err(Failed::Run)?;
    let before = read(key, value.as_deref());
    let after = match state {
        None => None,
        Some(state) => {
            let (cluster, routes) = match &before {
                Ok(position) => (position.cluster.clone().or(client.cluster.clone()), position.routes.clone()),
                Err(_) => (client.cluster.clone(), Vec::new()),
            };
            let text = saved::text(&key.host, &key.output, cluster.as_deref(), &routes, state.as_ref(), 0);
            let mut text = text.map_err(Failed::Run)?;
            text.truncate(text.trim_end().len());
            Some(text.into_bytes())
        }
    };
    client.write(key, after.as_deref()).map_err(|why| {
        Failed::Run(format!("{why}; nothing was changed, or an atkafka that started meanwhile has the position again"))
    })?;
    let after = after.map(|value| read(key, Some(&value))).transpose().map_err(Failed::Run)?;
    changed(key, &before, after.as_ref(), print);
    Ok(())
}

/// A Kafka client that writes one position.
struct Client {
    sink: Box<dyn Sink>,
    /// The cluster's id.
    cluster: Option<String>,
}

impl Client {
    /// Ends what whoever has this identity has open, and refuses them from then on.
    fn fence(&mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        let cluster = std::cell::RefCell::new(None);
        let note = |id: &str| {
            cluster.replace(Some(id.to_string()));
            Ok(())
        };
        // Its work ends with the process.
        let mut start =
            |Background { name, mut work }: Background| drop(pipeline::spawn(name, move || while work() {}));
        loop {
            match self.sink.prepare(&note, &mut start) {
                Ok(()) => break,
                Err(NotReady::Yet(_)) if Instant::now() < until => std::thread::sleep(PAUSE),
                Err(why) => return Err(why.text()),
            }
        }
        self.cluster = cluster.into_inner();
        Ok(())
    }

    /// The newest value of a position.
    fn value(&mut self, key: &Key) -> Result<Option<Vec<u8>>, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let transactions = self.sink.transactions().ok_or("the client has no transactions")?;
            match transactions.look(std::slice::from_ref(key)) {
                Ok(entries) => return Ok(entries.into_iter().next_back().and_then(|entry| entry.value)),
                Err(NotReady::Yet(_)) if Instant::now() < until => std::thread::sleep(PAUSE),
                Err(why) => return Err(why.text()),
            }
        }
    }

    /// Writes a position, or deletes it, in a transaction.
    fn write(&mut self, key: &Key, value: Option<&[u8]>) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        let transactions = self.sink.transactions().ok_or("the client has no transactions")?;
        transactions.begin().map_err(ledger::text)?;
        // Another run than any that the record may know: whoever reads it sees that somebody else has taken over.
        let mark = Mark { run: format!("{:016x}", fastrand::u64(..)), number: 0 };
        transactions.save(&key.bytes(), value, &mark).map_err(ledger::reason)?;
        loop {
            match transactions.commit() {
                Ok(()) => return Ok(()),
                Err(Trouble::Again(_)) if Instant::now() < until => {}
                Err(trouble) => {
                    let _ = transactions.abort();
                    return Err(ledger::text(trouble));
                }
            }
        }
    }
}
