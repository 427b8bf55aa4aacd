//! What is asked of the brokers before records flow: who they are, and what the topics take. Absent topics are made here.
//!
//! The producer thread runs it. It sends no record.

use std::collections::HashMap;
use std::ffi::CString;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{Client as RdClient, ClientContext};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::types::RDKafkaRespErr;

use super::context::{AdminContext, Context};
use super::{ASK, CLIENT_MAX_MESSAGE, Librdkafka, TIME_REFUSED};
use crate::sink::limits::{self, Limits, Unknown};
use crate::sink::{NotReady, SameCluster, created, diagnosis, locked};

/// By then it is mostly clear whether a broker can be reached at all.
const FIRST_ASK: Duration = Duration::from_secs(1);
/// `max.message.bytes` of a topic that we create. A record has at most 1 MB, and JSON needs up to six bytes for one of
/// them (control characters); a dead letter has up to 5.5 MB.
const CREATED_MAX_MESSAGE: &str = "8388608";

/// What the topics take.
pub(super) struct Topics {
    /// Of each topic of events.
    pub(super) events: Vec<Limits>,
    /// `None`: there is no topic for them.
    pub(super) dead_letters: Option<Limits>,
}

impl Librdkafka {
    /// Asks the brokers who they are, and what the topics take.
    pub(super) fn ask(&mut self, same_cluster: SameCluster<'_>) -> Result<Topics, NotReady> {
        locked(&self.shared.words).clear();
        // Of the records themselves it is only said that they are not valid.
        let fatal = self.open.as_ref().and_then(|open| open.producer.client().fatal_error());
        self.time_refused |= fatal.is_some_and(|(_, why)| why.contains(TIME_REFUSED));
        let ever = |e| self.unusable(e);
        let admin =
            AdminClient::from_config_and_context(&self.config, AdminContext(self.context(false))).map_err(ever)?;
        let probe: BaseProducer<Context> =
            BaseProducer::from_config_and_context(&self.config, self.context(false)).map_err(ever)?;
        self.authorize(admin.inner())?;
        self.authorize(probe.client())?;
        // With its answer the client has the cluster's id, too; very old brokers have none.
        let metadata = self.metadata(&probe)?;
        if let Some(id) = probe.client().fetch_cluster_id(ASK) {
            same_cluster(&id).map_err(NotReady::Settings)?;
        }
        let positions_only = self.identity.as_ref().is_some_and(|identity| identity.positions_only);
        let names = self.options.topics.iter().chain(&self.options.dead_letter_topic).filter(|_| !positions_only);
        let names: Vec<&str> = names.map(String::as_str).collect();
        let mut events = if names.is_empty() { Vec::new() } else { self.topics(&probe, &admin, &metadata, &names)? };
        let dead_letters = if events.len() > self.options.topics.len() { events.pop() } else { None };
        if let Some(identity) = &self.identity {
            self.cursor_topic(&probe, &admin, identity)?;
        }
        Ok(Topics { events, dead_letters })
    }

    /// No client can be made. A file may be half written just now.
    pub(super) fn unusable(&self, e: KafkaError) -> NotReady {
        if self.open.is_some() { NotReady::Yet(e.to_string()) } else { NotReady::Ever(e.to_string()) }
    }

    /// Gives a new client its token, where there are any: it would ask for one by a callback that nobody serves yet.
    pub(super) fn authorize(&self, client: &RdClient<impl ClientContext>) -> Result<(), NotReady> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let token = tokens.get().map_err(NotReady::Yet)?;
        let unusable = || NotReady::Yet("the token endpoint gives a token that librdkafka cannot use".into());
        let text = CString::new(token.text).map_err(|_| unusable())?;
        let principal = CString::new(token.principal).map_err(|_| unusable())?;
        // SAFETY: the client and both texts live until the call returns, which copies them; without extensions and without
        // a place for an error's text, as it may be called.
        let code = unsafe {
            rdkafka::bindings::rd_kafka_oauthbearer_set_token(
                client.native_ptr(),
                text.as_ptr(),
                token.ends_ms,
                principal.as_ptr(),
                std::ptr::null_mut(),
                0,
                std::ptr::null_mut(),
                0,
            )
        };
        match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            _ => Err(unusable()),
        }
    }

    /// Why `error` came: by its cause, where that can be found, else with the newest that the client said. `brokers`: the
    /// addresses that an answer named, if there was one.
    pub(super) fn yet(&self, error: &str, brokers: &[String]) -> NotReady {
        let words = locked(&self.shared.words).clone();
        NotReady::Yet(diagnosis::of(&self.client, &words, brokers).unwrap_or_else(|| match self.shared.last_words() {
            None => error.into(),
            Some(last) => format!("{error} ({last})"),
        }))
    }

    /// What the brokers say of themselves and their topics.
    pub(super) fn metadata(&self, probe: &BaseProducer<Context>) -> Result<Metadata, NotReady> {
        let mut error = None;
        for patience in [FIRST_ASK, ASK - FIRST_ASK] {
            match probe.client().fetch_metadata(None, patience) {
                Ok(metadata) => return Ok(metadata),
                Err(e) => error = Some(e),
            }
            // Logs and errors wait in the main queue, which only this empties; the admin client never does.
            probe.poll(Duration::from_millis(50));
            if diagnosis::is_sure(&self.client, &locked(&self.shared.words)) {
                break;
            }
        }
        let error = error.map(|e| e.to_string()).unwrap_or_default();
        Err(self.yet(&format!("no answer from {}: {error}", self.options.servers.join(",")), &[]))
    }

    /// What these topics take, in their order, after making those that are absent and may be made: one request of each kind
    /// for all of them.
    pub(super) fn topics(
        &self,
        probe: &BaseProducer<Context>,
        admin: &AdminClient<AdminContext>,
        metadata: &Metadata,
        names: &[&str],
    ) -> Result<Vec<Limits>, NotReady> {
        let brokers: Vec<String> = metadata.brokers().iter().map(|b| format!("{}:{}", b.host(), b.port())).collect();
        let is_there = |name: &&str| metadata.topics().iter().any(|t| t.name() == *name);
        let mut absent: Vec<&str> = names.iter().copied().filter(|name| !is_there(name)).collect();
        absent.sort_unstable();
        absent.dedup();
        if !absent.is_empty() {
            match self.create(probe, admin, &absent, &brokers) {
                // One that was there before: its records wait until it is again, and those of the others do not.
                Err(NotReady::Yet(why)) if self.open.is_some() && absent.len() < names.len() => log::debug!("{why}"),
                other => other?,
            }
        }
        let silence = |why: &str| {
            // Where nobody answered, it may be that no broker can be reached at the address that it goes by.
            let words = locked(&self.shared.words).clone();
            diagnosis::of(&self.client, &words, &brokers).ok_or_else(|| why.to_string())
        };
        let answers = match limits::read(admin, names) {
            Ok(answers) => answers,
            Err(unknown) => match silence(&unknown.text) {
                Ok(line) => return Err(NotReady::Yet(line)),
                Err(text) => names.iter().map(|_| Err(Unknown { text: text.clone(), is_silence: true })).collect(),
            },
        };
        Ok(names
            .iter()
            .zip(answers)
            .map(|(name, answer)| answer.unwrap_or_else(|why| self.unknown(name, &why)))
            .collect())
    }

    /// What is taken for the limits of a topic that cannot be read.
    fn unknown(&self, name: &str, why: &Unknown) -> Limits {
        // Not again for each client that is made.
        let is_new = self.said_unknown.borrow_mut().insert(name.to_string());
        let level = if is_new { log::Level::Warn } else { log::Level::Debug };
        log::log!(
            level, event = "limits_unknown", topic = name, error = why.text;
            "the limits of topic {name} cannot be read ({}): records of any size and time are sent, and the broker decides; the right DescribeConfigs on the topic lets atkafka know them",
            why.text
        );
        let unknown = Limits::of_bytes(CLIENT_MAX_MESSAGE);
        if self.time_refused { unknown.of_the_present() } else { unknown }
    }

    /// How many partitions topics have that were just made: the brokers may need a moment to know it. Without those of which it
    /// is not known by then.
    fn partitions(&self, probe: &BaseProducer<Context>, names: &[&str]) -> HashMap<String, usize> {
        let until = Instant::now() + FIRST_ASK;
        let mut found = HashMap::new();
        while Instant::now() < until && found.len() < names.len() {
            let Ok(metadata) = probe.client().fetch_metadata(None, FIRST_ASK) else { break };
            let made = metadata.topics().iter().filter(|t| names.contains(&t.name()) && !t.partitions().is_empty());
            found.extend(made.map(|t| (t.name().to_string(), t.partitions().len())));
            if found.len() < names.len() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        found
    }

    /// The limits of these topics as they are now, in their order: somebody may have changed them since the start. `None` where
    /// one is not known. One request for all.
    /// A client only for this: one that is kept would collect errors which nobody takes out of its queue.
    pub(super) fn limits_now(&self, names: &[&str]) -> Vec<Option<Limits>> {
        let read = || {
            let admin = AdminClient::from_config_and_context(&self.config, AdminContext(self.context(true))).ok()?;
            self.authorize(admin.inner()).ok()?;
            limits::read(&admin, names).ok()
        };
        match read() {
            Some(limits) => limits.into_iter().map(Result::ok).collect(),
            None => vec![None; names.len()],
        }
    }

    /// A topic refused the time of a record: which times it takes is asked anew, for the client that is there.
    pub(super) fn read_times_again(&mut self) {
        self.time_refused = true;
        let names: Vec<&str> = self.options.topics.iter().map(String::as_str).collect();
        let read = self.limits_now(&names);
        let Some(open) = &mut self.open else { return };
        for (limits, read) in open.events.iter_mut().zip(read) {
            let now = read.unwrap_or(limits.of_the_present());
            self.other_times |= now.times() != limits.times();
            *limits = now;
        }
    }

    fn create(
        &self,
        probe: &BaseProducer<Context>,
        admin: &AdminClient<AdminContext>,
        names: &[&str],
        brokers: &[String],
    ) -> Result<(), NotReady> {
        let new = &self.options.new_topic;
        let all = names.join(", ");
        let (noun, verb) = if names.len() == 1 { ("topic", "does") } else { ("topics", "do") };
        if !new.create {
            return Err(NotReady::Yet(format!("{noun} {all} {verb} not exist, and --no-create-topic is given")));
        }
        let topics: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                NewTopic::new(
                    name,
                    new.partitions.unwrap_or(-1),
                    TopicReplication::Fixed(new.replication.unwrap_or(-1)),
                )
                .set("max.message.bytes", CREATED_MAX_MESSAGE)
            })
            .collect();
        let options = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
        let answers = pollster::block_on(admin.create_topics(&topics, &options))
            .map_err(|e| self.yet(&format!("{noun} {all} cannot be created: {e}"), brokers))?;
        let (mut made, mut failed) = (Vec::new(), None);
        for answer in &answers {
            match answer {
                Ok(name) => made.push(name.as_str()),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    failed.get_or_insert_with(|| format!("topic {name} does not exist and cannot be created: {code}"));
                }
            }
        }
        let partitions = if made.is_empty() { HashMap::new() } else { self.partitions(probe, &made) };
        for name in made {
            log::info!(
                event = "topic_created", topic = name;
                "{}", created(name, partitions.get(name).copied(), new.partitions.is_none())
            );
        }
        if answers.len() < names.len() {
            failed.get_or_insert_with(|| format!("no answer about some of the topics {all}"));
        }
        failed.map_or(Ok(()), |why| Err(NotReady::Yet(why)))
    }
}
