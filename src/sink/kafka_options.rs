//! What the user said about Kafka, for both clients.

use std::fmt;

use crate::client::Client;

#[derive(Debug, Clone)]
pub struct Kafka {
    pub servers: Vec<String>,
    pub topic: String,
    pub dead_letter_topic: Option<String>,
    pub client: KafkaClient,
    pub codec: Codec,
    /// librdkafka properties, over our own.
    pub config: Vec<(String, String)>,
    pub tls: Option<Tls>,
    pub sasl: Option<Sasl>,
    pub new_topic: NewTopic,
    /// Bytes; the client's queue is held to it as well.
    pub memory_limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaClient {
    Librdkafka,
    Kafka,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
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

#[derive(Debug, Clone)]
pub struct Tls {
    pub ca_file: Option<String>,
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
}

#[derive(Clone)]
pub enum Sasl {
    Password { mechanism: Mechanism, user: String, password: String },
    Token(OAuth),
}

impl Sasl {
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
    pub token_url: String,
    pub client_id: String,
    pub client_secret: String,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
    OAuthBearer,
}

impl Mechanism {
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
    pub create: bool,
    /// `None`: the broker's default.
    pub partitions: Option<i32>,
    pub replication: Option<i32>,
}
