//! The text of a saved position, the same in a state file and in a record of the cursor topic. It is pure: no file and no
//! broker.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::State;
use crate::atproto::{json_input, time};
use crate::clock;

/// What the file holds. Unknown fields of a later version are passed over.
#[derive(Serialize, Deserialize, Debug)]
pub struct Saved<T> {
    version: u32,
    /// What is read, as logs call it.
    pub host: String,
    /// The topic that has the events.
    pub output: String,
    /// The id of the Kafka cluster that has the events. Files of 0.1 have none, nor have those of an output without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// When it was saved, RFC 3339.
    pub saved_at: String,
    /// The routes by which the events up to here were distributed to topics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// The source's own part.
    #[serde(flatten)]
    pub position: T,
}

/// In place of a position that is written already.
#[derive(Serialize)]
struct Nothing {}

/// The members of two objects of JSON in one, and the end of the line.
fn joined(head: &str, position: &str) -> String {
    let (head, position) = (head.strip_suffix('}').unwrap_or(head), position.strip_prefix('{').unwrap_or(position));
    format!("{head},{position}\n")
}

/// The text of a position: one line of JSON, with its end.
pub fn text(
    host: &str,
    output: &str,
    cluster: Option<&str>,
    routes: &[String],
    state: &dyn State,
    time_ms: i64,
) -> Result<String, String> {
    let head = Saved {
        version: VERSION,
        host: host.into(),
        output: output.into(),
        cluster: cluster.map(str::to_string),
        saved_at: time::format_ms(clock::now_ms()),
        routes: routes.to_vec(),
        position: Nothing {},
    };
    let head = sonic_rs::to_string(&head).map_err(|e| e.to_string())?;
    Ok(joined(&head, &state.json(time_ms)?))
}

const VERSION: u32 = 1;

/// A position that a file can hold.
pub trait Stored: Serialize + DeserializeOwned {
    /// Fails for values that no run of ours saves.
    fn check(&self) -> Result<(), String>;
}

/// Reads the text of a position. Fails with what is wrong with it, as a predicate.
pub fn parse<T: Stored>(bytes: &[u8]) -> Result<Saved<T>, String> {
    let saved: Saved<T> = json_input::read(bytes, json_input::SHALLOW).map_err(|e| format!("is damaged ({e})"))?;
    if saved.version > VERSION {
        return Err(format!("is of version {}, written by a newer atkafka than this one", saved.version));
    }
    saved.position.check().map_err(|e| format!("is damaged ({e})"))?;
    Ok(saved)
}
