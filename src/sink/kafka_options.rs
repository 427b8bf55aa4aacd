//! What the user said about Kafka, for both clients: values without behaviour, made by `config`.

use std::fmt;

use super::Topic;
use crate::client::Client;
use crate::route::Routes;

/// How Kafka is written to.
#[derive(Debug, Clone)]
pub struct Kafka {
    /// `host:port` of brokers to ask first.
    pub servers: Vec<String>,
    /// `--output-topic`, and behind it those that routes name.
    pub topics: Vec<String>,
    /// Which event goes to which of them.
    pub routes: Routes,
    /// The topic of dead letters. `None`: they are only counted and logged.
    pub dead_letter_topic: Option<String>,
    /// Which client is used.
    pub client: KafkaClient,
    /// How batches are compressed.
    pub codec: Codec,
    /// librdkafka properties, over our own.
    pub config: Vec<(String, String)>,
    /// `None`: plain TCP.
    pub tls: Option<Tls>,
    /// `None`: no login.
    pub sasl: Option<Sasl>,
    /// Whether and how absent topics are made.
    pub new_topic: NewTopic,
    /// Bytes; the client's queue is held to it as well.
    pub memory_limit: usize,
}

impl Kafka {
    /// The name of a topic; empty for that of dead letters where there is none.
    pub fn name(&self, topic: Topic) -> &str {
        match topic {
            Topic::Events(index) => self.topics.get(usize::from(index)).map_or("", String::as_str),
            Topic::DeadLetters => self.dead_letter_topic.as_deref().unwrap_or_default(),
        }
    }

    /// Which topic has this name.
    pub fn topic(&self, name: &str) -> Topic {
        match self.topics.iter().position(|topic| topic == name) {
            Some(index) => Topic::Events(index as u16),
            None => Topic::DeadLetters,
        }
    }

    /// All names: of events, and of dead letters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(String::as_str).chain(self.dead_letter_topic.as_deref())
    }
}

/// The two clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaClient {
    /// librdkafka, for every broker.
    Librdkafka,
    /// The `kafka` crate, for brokers before 4.0.
    Kafka,
}

/// How Kafka compresses a batch of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// By name, in the order of their numbers.
    pub const NAMES: [(&str, Codec); 5] = [
        ("none", Codec::None),
        ("gzip", Codec::Gzip),
        ("snappy", Codec::Snappy),
        ("lz4", Codec::Lz4),
        ("zstd", Codec::Zstd),
    ];

    /// As flags and librdkafka write it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].0
    }
}

/// Files in PEM form.
#[derive(Debug, Clone)]
pub struct Tls {
    /// CAs to trust in place of the system's.
    pub ca_file: Option<String>,
    /// The client's own certificate, with its chain.
    pub cert_file: Option<String>,
    /// Its private key.
    pub key_file: Option<String>,
}

/// A password, or what else nobody may see.
#[derive(Clone)]
pub struct Secret {
    /// The secret itself. No log shows it.
    pub text: String,
    /// The file that it was read from, which may have another one later.
    pub file: Option<String>,
}

impl fmt::Debug for Secret {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a secret of {}", self.file.as_deref().unwrap_or("the command line or the environment"))
    }
}

/// How a client logs in.
#[derive(Clone)]
pub enum Sasl {
    /// A user with a password.
    Password {
        /// How it is sent.
        mechanism: Mechanism,
        /// The user's name.
        user: String,
        /// What proves it.
        password: Secret,
    },
    /// A token of an OAuth endpoint.
    Token(OAuth),
}

impl Sasl {
    /// What it is called on the wire.
    pub fn mechanism(&self) -> Mechanism {
        match self {
            Sasl::Password { mechanism, .. } => *mechanism,
            Sasl::Token(_) => Mechanism::OAuthBearer,
        }
    }
}

impl fmt::Debug for Sasl {
    /// Without the password: it never gets into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sasl::Password { mechanism, user, .. } => write!(f, "{mechanism:?} as {user}"),
            Sasl::Token(oauth) => oauth.fmt(f),
        }
    }
}

/// Where tokens come from, by client credentials.
#[derive(Clone)]
pub struct OAuth {
    /// The endpoint that gives tokens.
    pub token_url: String,
    /// Who asks for one.
    pub client_id: String,
    /// What proves it.
    pub client_secret: Secret,
    /// What the token is for, where the endpoint wants to know.
    pub scope: Option<String>,
    /// How the endpoint is spoken to.
    pub client: Client,
}

impl fmt::Debug for OAuth {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} for {:?}", self.client_id, self.token_url, self.scope)
    }
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// The password as it is.
    Plain,
    /// RFC 7677.
    ScramSha256,
    /// The same with SHA-512.
    ScramSha512,
    /// RFC 7628.
    OAuthBearer,
}

impl Mechanism {
    /// By name, in the order of their numbers.
    pub const NAMES: [(&str, Mechanism); 4] = [
        ("PLAIN", Mechanism::Plain),
        ("SCRAM-SHA-256", Mechanism::ScramSha256),
        ("SCRAM-SHA-512", Mechanism::ScramSha512),
        ("OAUTHBEARER", Mechanism::OAuthBearer),
    ];

    /// As flags and librdkafka write it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].0
    }
}

/// How an absent topic is made.
#[derive(Debug, Clone)]
pub struct NewTopic {
    /// Whether it is made at all.
    pub create: bool,
    /// `None`: the broker's default.
    pub partitions: Option<i32>,
    /// `None`: the broker's default.
    pub replication: Option<i32>,
}
