//! What an Ozone answers (`tools.ozone.moderation.queryEvents`; JSON): pages of events. It reads what the reader and the
//! decoder look at, and nothing else of an event. Pure.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::json;
use super::json_input::{self, LazyValue};

/// Levels of an event. It stands three levels down in a page.
const DEEPEST: usize = json::MAX_DEPTH as usize;
/// Events that are asked for with each page: the most that Ozone gives.
pub const PAGE: usize = 100;
/// Events of a page that are taken. One that has more was not made by an Ozone, which gives what it is asked for.
pub const MAX_EVENTS: usize = 10 * PAGE;

/// An answer of `queryEvents`.
#[derive(Deserialize)]
pub struct Page<'a> {
    /// The events, newest or oldest first as they were asked for.
    #[serde(borrow)]
    pub events: Events<'a>,
    /// Where the next page begins. `None`: there is none.
    #[serde(default)]
    pub cursor: Option<String>,
}

impl<'a> Page<'a> {
    /// Reads an answer. The error names what is wrong, in one line.
    pub fn read(body: &'a [u8]) -> Result<Self, String> {
        json_input::read(body, DEEPEST + 3)
    }
}

/// The first [`MAX_EVENTS`], and how many there are: a value takes many times the bytes of a short text.
pub struct Events<'a> {
    /// At most [`MAX_EVENTS`].
    pub taken: Vec<LazyValue<'a>>,
    /// How many the page has.
    pub count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Events<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Taking;
        impl<'de> Visitor<'de> for Taking {
            type Value = Events<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Events<'de>, A::Error> {
                let mut taken = Vec::new();
                while taken.len() < MAX_EVENTS {
                    let Some(event) = list.next_element()? else { break };
                    taken.push(event);
                }
                let mut count = taken.len();
                // To the end: where the list is no JSON, that is what is wrong.
                while count >= MAX_EVENTS && list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Events { taken, count })
            }
        }
        deserializer.deserialize_seq(Taking)
    }
}

/// What a reader looks at of an event: all that says whether it was delivered before.
#[derive(Deserialize)]
pub struct Stamp<'a> {
    /// The number of the event in Ozone's table, still as JSON.
    #[serde(borrow)]
    pub id: LazyValue<'a>,
    /// When it was emitted, RFC 3339; empty when absent.
    #[serde(borrow, default, rename = "createdAt")]
    pub created_at: Cow<'a, str>,
}

impl<'a> Stamp<'a> {
    /// Of an event of a page. The error names what is wrong, in one line.
    pub fn of(event: &'a LazyValue<'a>) -> Result<Self, String> {
        json_input::part(event)
    }
}

/// What is looked at of an event; kinds that are not known pass like the others.
#[derive(Deserialize)]
pub struct View<'a> {
    /// When it was emitted, RFC 3339; empty when absent.
    #[serde(borrow, default, rename = "createdAt")]
    pub created_at: Cow<'a, str>,
    /// What happened.
    #[serde(borrow, default)]
    pub event: Typed<'a>,
    /// What it is about.
    #[serde(borrow, default)]
    pub subject: Subject<'a>,
}

impl<'a> View<'a> {
    /// Reads an event. The error names what is wrong, in one line.
    pub fn read(event: &'a [u8]) -> Result<Self, String> {
        json_input::read(event, DEEPEST)
    }
}

/// The kind of an event.
#[derive(Deserialize, Default)]
pub struct Typed<'a> {
    /// Its `$type`; empty when absent.
    #[serde(borrow, default, rename = "$type")]
    pub kind: Cow<'a, str>,
}

/// `repoRef`, `messageRef` and `convoRef` have a did, `strongRef` a uri.
#[derive(Deserialize, Default)]
pub struct Subject<'a> {
    /// An account; empty when absent.
    #[serde(borrow, default)]
    pub did: Cow<'a, str>,
    /// The `at://` URI of a record; empty when absent.
    #[serde(borrow, default)]
    pub uri: Cow<'a, str>,
}

impl Subject<'_> {
    /// The account; empty when the subject names none.
    pub fn did(&self) -> &str {
        if !self.did.is_empty() {
            return &self.did;
        }
        let authority = self.uri.strip_prefix("at://").unwrap_or_default().split('/').next().unwrap_or_default();
        if authority.starts_with("did:") { authority } else { "" }
    }
}
