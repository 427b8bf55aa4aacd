//! What is asked about accounts, whom it is asked of, and what comes back: the words that [`lookups`](super::lookups), which
//! decides what is asked, and [`directory`](super::directory), which asks it, have in common. Values only: no thread, no clock.

use std::sync::Arc;
use std::time::Duration;

use super::cache::Found;
use super::document::Document;
use super::{Answer, Kind, Value, is_web};

/// Accounts in one [`Question::Profiles`] at most: the limit of `app.bsky.actor.getProfiles`.
pub const PROFILES: usize = 25;
/// After a failure that says nothing about the account, the account is looked up again after this long.
pub const AGAIN: Duration = Duration::from_secs(10);

/// Who answers look-ups. Each has threads and a backlog of its own, so that a slow one does not hold up the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// The PLC directory.
    Plc,
    /// The hosts of `did:web`. Each has one account, so that one look-up per account is one connection per host, and the
    /// cached failures do what a circuit breaker does elsewhere.
    DidWeb,
    /// The AppView, for profiles.
    Profiles,
    /// The AppView, for the accounts that handles name.
    Handles,
}

impl Provider {
    /// All of them, in the order of their numbers: tables have one entry for each.
    pub const ALL: [Provider; 4] = [Provider::Plc, Provider::DidWeb, Provider::Profiles, Provider::Handles];

    /// Where the look-up of this kind begins. A document's handle is verified by [`Provider::Handles`] afterwards.
    pub fn of(kind: Kind, did: &str) -> Provider {
        match kind {
            Kind::Document if is_web(did) => Provider::DidWeb,
            Kind::Document | Kind::Created => Provider::Plc,
            Kind::Profile => Provider::Profiles,
        }
    }
}

/// One request.
#[derive(Debug)]
pub enum Question {
    /// The DID document of an account.
    Document(Box<str>),
    /// When the account was created.
    Created(Box<str>),
    /// The profiles of 1 to [`PROFILES`] accounts.
    Profiles(Vec<Box<str>>),
    /// Whether the handle in this account's document names the account.
    Handle(Box<str>, Arc<Document>),
}

impl Question {
    /// What is looked up, and the accounts in the order in which they are answered.
    pub fn into_accounts(self) -> (Kind, Vec<Box<str>>) {
        match self {
            Question::Document(did) | Question::Handle(did, _) => (Kind::Document, vec![did]),
            Question::Created(did) => (Kind::Created, vec![did]),
            Question::Profiles(dids) => (Kind::Profile, dids),
        }
    }

    /// How many accounts it is about, which is how many outcomes it gets.
    pub fn accounts(&self) -> usize {
        if let Question::Profiles(dids) = self { dids.len() } else { 1 }
    }
}

/// What became of one account's look-up. `None`: nobody could be asked, and nothing is to be kept.
pub type Outcome = Option<Answer>;

/// The document while nobody can say whether its handle is right: without the handle, and to be looked up again soon.
pub fn unverified(document: &Document) -> Answer {
    Answer { found: Found::Value(Value::Document(Arc::new(document.with_handle(None)))), ttl: AGAIN }
}
