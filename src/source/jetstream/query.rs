//! What a Jetstream is asked for: path and query of both wires. Pure.
//!
//! The server leaves out what nobody wants, as far as it can be told: patterns that it would refuse, and lists that are longer
//! than it takes, are kept from it. What comes is filtered here all the same, so that a server may always send more.

use crate::client::percent_encoded;

/// The two wires of Jetstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// `/subscribe`: the cursor is a time.
    One,
    /// `network.bsky.jetstream.subscribeEvents`: the cursor is a seq, or a time.
    Two,
}

/// Collections and accounts of one subscription at most (the lexicon, and the server's README for version 1).
const MAX_COLLECTIONS: usize = 100;
const MAX_DIDS: usize = 10_000;
/// Bytes of a query at most. The HTTP library ends at 65,535.
const MAX_QUERY: usize = 60_000;
/// The kinds that become events; others would only be passed over.
const KINDS: [&str; 4] = ["commit", "identity", "account", "sync"];

/// Bytes of a DID at most (<https://atproto.com/specs/did>), and of an NSID.
const MAX_DID: usize = 2_048;
const MAX_NSID: usize = 317;

/// What the server is asked for; an empty list is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    collections: Vec<String>,
    dids: Vec<String>,
}

impl Wanted {
    /// Of the lists of the user's filter, those that a server takes. Gives a line for each that it would not take.
    pub fn new(mut collections: Vec<String>, mut dids: Vec<String>) -> (Wanted, Vec<String>) {
        let mut kept = Vec::new();
        for list in [&mut collections, &mut dids] {
            list.sort();
            list.dedup();
        }
        let all = collections.iter().any(|pattern| pattern == "*");
        let bad = collections.iter().find(|pattern| !all && !is_pattern(pattern)).cloned();
        match bad {
            Some(bad) => kept.push(format!("--watched-collections: {bad} is nothing that a Jetstream filters by")),
            None if collections.len() > MAX_COLLECTIONS => {
                kept.push(format!("--watched-collections: a Jetstream takes {MAX_COLLECTIONS} at most"));
            }
            None => {}
        }
        if all || !kept.is_empty() {
            collections.clear();
        }
        let problem = match dids.iter().find(|did| !is_did(did)) {
            Some(bad) => Some(format!("--watched-dids: {bad} is none that a Jetstream filters by")),
            None => (dids.len() > MAX_DIDS).then(|| format!("--watched-dids: a Jetstream takes {MAX_DIDS} at most")),
        };
        if let Some(problem) = problem {
            kept.push(problem);
            dids.clear();
        }
        for line in &mut kept {
            line.push_str("; it sends everything, which is filtered here");
        }
        (Wanted { collections, dids }, kept)
    }

    /// Whether the server leaves anything out.
    pub fn is_filter(&self) -> bool {
        !self.collections.is_empty() || !self.dids.is_empty()
    }

    /// Keeps the accounts from the server: it, or a proxy before it, takes no request of that length. Whether there were any.
    pub fn forget_dids(&mut self) -> bool {
        !std::mem::take(&mut self.dids).is_empty()
    }

    /// Path and query that ask for what happened from `cursor` on (`None`: from now on), and for frames packed with the
    /// dictionary of that id. On version 1, with too many accounts for a query, a message that names them has to follow.
    pub fn ask(&self, wire: Wire, cursor: Option<u64>, dictionary: Option<u32>) -> (String, Option<String>) {
        let (path, collections, dids) = match wire {
            Wire::One => ("/subscribe", "wantedCollections", "wantedDids"),
            Wire::Two => ("/xrpc/network.bsky.jetstream.subscribeEvents", "collections", "dids"),
        };
        let mut query = Vec::new();
        query.extend(cursor.map(|cursor| format!("cursor={cursor}")));
        if wire == Wire::Two {
            query.extend(KINDS.map(|kind| format!("kinds={kind}")));
        }
        query.extend(dictionary.map(|id| format!("zstdDictionary={id}")));
        query.extend(self.collections.iter().map(|name| format!("{collections}={}", percent_encoded(name))));
        let accounts = || self.dids.iter().map(|did| format!("{dids}={}", percent_encoded(did)));
        let rest: usize = accounts().map(|account| account.len() + 1).sum();
        let mut message = None;
        if query.iter().map(|part| part.len() + 1).sum::<usize>() + rest <= MAX_QUERY {
            query.extend(accounts());
        } else if wire == Wire::One {
            query.push("requireHello=true".into());
            message = Some(self.message());
        }
        let question = if query.is_empty() { "" } else { "?" };
        (format!("{path}{question}{}", query.join("&")), message)
    }

    /// The options of version 1 as a message of the client's. Names and DIDs have nothing in them that JSON escapes.
    fn message(&self) -> String {
        let list = |names: &[String]| names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(",");
        format!(
            r#"{{"type":"options_update","payload":{{"wantedCollections":[{}],"wantedDids":[{}],"maxMessageSizeBytes":0}}}}"#,
            list(&self.collections),
            list(&self.dids)
        )
    }
}

/// Whether a server takes the pattern: an NSID, or the beginning of one with `.*` (<https://atproto.com/specs/nsid>). Our own
/// filter is more generous, since genuine collections are.
fn is_pattern(pattern: &str) -> bool {
    let whole = pattern.strip_suffix('*').map_or(pattern.to_string(), |head| format!("{head}x"));
    let mut parts: Vec<&str> = whole.split('.').collect();
    let name = parts.pop().unwrap_or_default();
    let begins = |part: &str, with: fn(&u8) -> bool| part.as_bytes().first().is_some_and(with);
    let is_part = |part: &&str| {
        begins(part, u8::is_ascii_alphanumeric)
            && !part.ends_with('-')
            && part.len() <= 63
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    parts.len() >= 2
        && whole.len() <= MAX_NSID
        && parts.iter().all(is_part)
        && begins(parts[0], u8::is_ascii_alphabetic)
        && begins(name, u8::is_ascii_alphabetic)
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether a server takes the DID.
fn is_did(did: &str) -> bool {
    crate::filter::is_did(did)
        && did.len() <= MAX_DID
        && did.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:%-".contains(&b))
        && !did.ends_with([':', '%'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(collections: &[&str], dids: &[&str]) -> (Wanted, Vec<String>) {
        let own = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        Wanted::new(own(collections), own(dids))
    }

    #[test]
    fn both_wires_are_asked_in_their_own_words() {
        let (w, kept) =
            wanted(&["app.bsky.feed.post", "app.bsky.graph.*"], &["did:plc:a", "did:plc:a", "did:web:b.example%3A80"]);
        assert!(kept.is_empty() && w.is_filter());
        assert_eq!(
            w.ask(Wire::One, Some(5), None),
            ("/subscribe?cursor=5&wantedCollections=app.bsky.feed.post&wantedCollections=app.bsky.graph.%2A&wantedDids=did%3Aplc%3Aa&wantedDids=did%3Aweb%3Ab.example%253A80".into(), None)
        );
        assert_eq!(
            w.ask(Wire::Two, None, Some(7)),
            ("/xrpc/network.bsky.jetstream.subscribeEvents?kinds=commit&kinds=identity&kinds=account&kinds=sync&zstdDictionary=7&collections=app.bsky.feed.post&collections=app.bsky.graph.%2A&dids=did%3Aplc%3Aa&dids=did%3Aweb%3Ab.example%253A80".into(), None)
        );
        assert_eq!(wanted(&[], &[]).0.ask(Wire::One, None, None), ("/subscribe".into(), None));
    }

    #[test]
    fn what_a_server_would_refuse_is_kept_from_it() {
        for patterns in
            [&["app.*"][..], &["a----b.keep.9going"], &["app.bsky.feed.post-gate"], &["1a.b.c"], &["a.b.c-.d"]]
        {
            let (w, kept) = wanted(patterns, &["did:plc:a"]);
            assert_eq!((w.collections.len(), w.dids.len(), kept.len()), (0, 1, 1), "{patterns:?}");
        }
        let (w, kept) = wanted(&["*", "app.*"], &["did:plc:a b"]);
        assert!(!w.is_filter() && kept.len() == 1, "{kept:?}");
        let many: Vec<String> = (0..101).map(|i| format!("com.example.c{i}")).collect();
        let accounts: Vec<String> = (0..10_001).map(|i| format!("did:plc:{i}")).collect();
        let (w, kept) = Wanted::new(many, accounts);
        assert!(!w.is_filter() && kept.len() == 2);
    }

    #[test]
    fn a_long_list_of_accounts_goes_in_a_message_where_there_is_one() {
        let accounts: Vec<String> = (0..2_000).map(|i| format!("did:plc:{i:024}")).collect();
        let (w, kept) = Wanted::new(vec!["app.bsky.feed.post".into()], accounts);
        assert!(kept.is_empty());
        let (path, message) = w.ask(Wire::One, Some(1), None);
        assert_eq!(path, "/subscribe?cursor=1&wantedCollections=app.bsky.feed.post&requireHello=true");
        let message = message.expect("the accounts follow");
        assert!(message.starts_with(
            r#"{"type":"options_update","payload":{"wantedCollections":["app.bsky.feed.post"],"wantedDids":["did:plc:0"#
        ));
        assert_eq!(message.matches("did:plc:").count(), 2_000);
        let (path, message) = w.ask(Wire::Two, None, None);
        assert!(path.ends_with("collections=app.bsky.feed.post") && message.is_none(), "{path}");
    }
}
