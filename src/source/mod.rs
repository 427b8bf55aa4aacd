//! Where events come from: each source has a reader here, which turns an upstream into jobs, and a decoder in
//! [`decode`](crate::decode). `main` pairs them; nobody else knows which sources there are. Readers own connections and
//! the judgement of what is new; they know neither events nor outputs. Each runs on a thread of its own.

pub mod backoff;
pub mod buffer;
pub mod diagnosis;
mod gaps;
pub mod jetstream;
pub mod job;
pub mod link;
pub mod ozone;
mod ozone_answer;
mod ozone_check;
pub mod ozone_session;
pub mod pace;
mod past;
pub mod recording;
pub mod relay;
pub mod replay;
pub mod resume;
pub mod seek;
mod seeking;
mod silence;
pub mod socket;
mod stepping;
pub mod stream;
pub mod tap;
pub mod transport;
mod trim;
pub mod websocket;
pub mod window;

use data_encoding::BASE64;

use crate::client::Client;

/// An upstream's address.
#[derive(Clone, PartialEq, Eq)]
pub struct Host {
    /// Whether it is spoken to by TLS.
    pub tls: bool,
    /// A name or an address.
    pub host: String,
    /// The port, also where it is the usual one.
    pub port: u16,
    /// What it is called in logs, metrics and the cursor's file: host, port unless it is the usual one, path.
    pub name: String,
    /// Path before `/xrpc`, without a slash at the end.
    pub prefix: String,
    /// How it is spoken to.
    pub client: Client,
    /// The `Authorization` header, where it wants one.
    pub authorization: Option<String>,
}

impl Host {
    /// What no log may show, even where the host says it: the password, and the header that has it.
    pub fn secrets(&self) -> Vec<String> {
        let Some(header) = &self.authorization else { return Vec::new() };
        let encoded = header.trim_start_matches("Basic ").to_string();
        let login = BASE64.decode(encoded.as_bytes()).ok().and_then(|login| String::from_utf8(login).ok());
        let password = login.as_ref().and_then(|login| login.split_once(':')).map(|(_, password)| password.to_string());
        [encoded].into_iter().chain(password).collect()
    }

    /// Its address with the path `path`, for HTTP.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}{path}", self.host, self.port)
    }
}

/// Where a first start begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what happens from now on.
    Live,
    /// Behind this seq; 0 is the oldest that is kept.
    At(u64),
    /// With the first event at or after this time, in milliseconds since 1970.
    Time(i64),
}
