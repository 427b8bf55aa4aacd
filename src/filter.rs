//! Which events pass. Parsed once into the form that the hot path wants. Pure.

use std::collections::HashSet;

/// Collections by whole name or by prefix.
#[derive(Debug, Default, Clone)]
struct Collections {
    exact: HashSet<String>,
    /// With their last dot: `app.bsky.`
    prefixes: Vec<String>,
    all: bool,
}

impl Collections {
    fn parse(patterns: &[String]) -> Result<Self, String> {
        let mut out = Collections::default();
        for pattern in patterns {
            let (name, is_prefix) = match pattern.strip_suffix(".*") {
                Some(prefix) => (prefix, true),
                None => (pattern.as_str(), false),
            };
            if pattern == "*" {
                out.all = true;
            } else if !name.split('.').all(is_segment) || (!is_prefix && name.split('.').count() < 3) {
                return Err(pattern.clone());
            } else if is_prefix {
                out.prefixes.push(format!("{name}."));
            } else {
                out.exact.insert(name.to_string());
            }
        }
        Ok(out)
    }

    fn contains(&self, collection: &str) -> bool {
        self.all || self.exact.contains(collection) || self.prefixes.iter().any(|p| collection.starts_with(p))
    }
}

/// A segment of an NSID, read generously: genuine collections have names such as `a----...--0.keep.going`.
fn is_segment(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// What passes when a list is given.
#[derive(Debug, Clone)]
enum Rule<T> {
    All,
    Only(T),
    Not(T),
}

impl<T> Rule<T> {
    #[inline]
    fn passes(&self, contains: impl FnOnce(&T) -> bool) -> bool {
        match self {
            Rule::All => true,
            Rule::Only(list) => contains(list),
            Rule::Not(list) => !contains(list),
        }
    }
}

/// The filters of one run.
#[derive(Debug, Clone)]
pub struct Filter {
    collections: Rule<Collections>,
    dids: Rule<HashSet<String>>,
}

/// Lists as the user gave them. At most one of each pair has entries: the caller refuses both.
#[derive(Debug, Default)]
pub struct Lists {
    pub watched_collections: Vec<String>,
    pub ignored_collections: Vec<String>,
    pub watched_dids: Vec<String>,
    pub ignored_dids: Vec<String>,
}

/// A pattern that can match nothing (or, ignored, leaves nothing).
#[derive(Debug)]
pub struct BadPattern {
    /// Name of the list, as its flag has it.
    pub list: &'static str,
    pub pattern: String,
}

impl Filter {
    /// Fails with the pattern that can match nothing, and the list that it stands in.
    pub fn new(lists: &Lists) -> Result<Self, BadPattern> {
        let in_list = |list: &'static str| move |pattern: String| BadPattern { list, pattern };
        let collections = |list, patterns: &[String]| Collections::parse(patterns).map_err(in_list(list));
        let dids = |list, dids: &[String]| match dids.iter().find(|did| !is_did(did)) {
            Some(bad) => Err(in_list(list)(bad.clone())),
            None => Ok(dids.iter().cloned().collect::<HashSet<_>>()),
        };
        let (watched, ignored) = (&lists.watched_collections, &lists.ignored_collections);
        if ignored.iter().any(|p| p == "*") {
            return Err(in_list("ignored-collections")("*".into()));
        }
        Ok(Filter {
            collections: match (watched.is_empty(), ignored.is_empty()) {
                (true, true) => Rule::All,
                (false, _) => Rule::Only(collections("watched-collections", watched)?),
                (true, false) => Rule::Not(collections("ignored-collections", ignored)?),
            },
            dids: match (lists.watched_dids.is_empty(), lists.ignored_dids.is_empty()) {
                (true, true) => Rule::All,
                (false, _) => Rule::Only(dids("watched-dids", &lists.watched_dids)?),
                (true, false) => Rule::Not(dids("ignored-dids", &lists.ignored_dids)?),
            },
        })
    }

    /// Whether ops on `collection` pass. Events that have no collection are not asked.
    #[inline]
    pub fn collection(&self, collection: &str) -> bool {
        self.collections.passes(|list| list.contains(collection))
    }

    /// Whether events of the account pass.
    #[inline]
    pub fn did(&self, did: &str) -> bool {
        self.dids.passes(|list| list.contains(did))
    }
}

/// Whether this has the form of a DID.
pub fn is_did(s: &str) -> bool {
    let mut parts = s.splitn(3, ':');
    parts.next() == Some("did")
        && parts.next().is_some_and(|m| !m.is_empty() && m.bytes().all(|b| b.is_ascii_lowercase()))
        && parts.next().is_some_and(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(watched: &[&str], ignored: &[&str]) -> Result<Filter, BadPattern> {
        let own = |l: &[&str]| l.iter().map(|s| s.to_string()).collect();
        Filter::new(&Lists { watched_collections: own(watched), ignored_collections: own(ignored), ..Lists::default() })
    }

    #[test]
    fn collections_by_name_prefix_and_star() {
        let f = filter(&["app.bsky.feed.post", "fm.teal.*"], &[]).expect("valid");
        assert!(f.collection("app.bsky.feed.post"));
        assert!(f.collection("fm.teal.alpha.feed.play"));
        assert!(!f.collection("app.bsky.feed.postgate"));
        assert!(!f.collection("fm.tealer.x"));
        assert!(!f.collection(""));
        let f = filter(&[], &["app.bsky.*"]).expect("valid");
        assert!(!f.collection("app.bsky.feed.like") && f.collection("com.example.thing"));
        assert!(filter(&["*"], &[]).expect("valid").collection("anything"));
    }

    #[test]
    fn patterns_that_match_nothing_are_refused() {
        for bad in ["app.bsky*", "*.post", "", "app..feed.*", "post", "app.bsky", "a b.c.d"] {
            assert!(filter(&[bad], &[]).is_err(), "{bad}");
        }
        assert!(filter(&[], &["*"]).is_err());
        assert!(filter(&["a----b.keep.going"], &[]).is_ok());
    }

    #[test]
    fn dids() {
        let lists = Lists { watched_dids: vec!["did:plc:a".into(), "did:web:b.example".into()], ..Lists::default() };
        let f = Filter::new(&lists).expect("valid");
        assert!(f.did("did:plc:a") && !f.did("did:plc:b"));
        assert!(Filter::new(&Lists { ignored_dids: vec!["alice.example".into()], ..Lists::default() }).is_err());
    }
}
