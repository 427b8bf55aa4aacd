//! Which events pass, by collection, account and PDS: the lists of the user, parsed once into the form that the path of
//! events wants. It knows neither events nor where a PDS is looked up. Pure but for notes of which names were met;
//! workers and the enricher ask it.

mod service;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use service::Service;

/// Records to look at before [`Filter::unmatched`] says anything.
const ENOUGH: u32 = 10_000;

/// Collections by whole name or by prefix.
#[derive(Debug, Default, Clone)]
pub(crate) struct Collections {
    /// Each with whether a record of it came.
    exact: Arc<HashMap<String, AtomicBool>>,
    /// With their last dot: `app.bsky.`
    prefixes: Vec<String>,
    all: bool,
}

impl Collections {
    /// Fails with the pattern that can match nothing.
    pub(crate) fn parse(patterns: &[String]) -> Result<Self, String> {
        let mut out = Collections::default();
        let mut exact = HashMap::new();
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
                exact.insert(name.to_string(), AtomicBool::new(false));
            }
        }
        out.exact = Arc::new(exact);
        Ok(out)
    }

    pub(crate) fn contains(&self, collection: &str) -> bool {
        if let Some(came) = self.exact.get(collection) {
            // Written once: a shared line that every thread writes is slow.
            if !came.load(Relaxed) {
                came.store(true, Relaxed);
            }
            return true;
        }
        self.all || self.prefixes.iter().any(|p| collection.starts_with(p))
    }
}

/// A segment of an NSID, read generously: genuine collections have names such as `a----...--0.keep.going`.
fn is_segment(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Two lists: what passes, where that is said, and what of it does not.
#[derive(Debug, Clone)]
struct Rule<T> {
    watched: Option<T>,
    ignored: Option<T>,
}

impl<T> Rule<T> {
    fn new<E>(watched: Result<Option<T>, E>, ignored: Result<Option<T>, E>) -> Result<Self, E> {
        Ok(Rule { watched: watched?, ignored: ignored? })
    }

    #[inline]
    fn passes(&self, contains: impl Fn(&T) -> bool) -> bool {
        self.watched.as_ref().is_none_or(&contains) && !self.ignored.as_ref().is_some_and(contains)
    }

    fn is_given(&self) -> bool {
        self.watched.is_some() || self.ignored.is_some()
    }
}

/// The filters of one run.
#[derive(Debug, Clone)]
pub struct Filter {
    collections: Rule<Collections>,
    dids: Rule<HashSet<String>>,
    services: Rule<Vec<Service>>,
    drop_unresolved: bool,
    /// Records that were asked about, up to [`ENOUGH`].
    asked: Arc<AtomicU32>,
    said: Arc<AtomicBool>,
}

/// Lists as the user gave them. What is watched passes, unless it is ignored as well.
#[derive(Debug, Default)]
pub struct Lists {
    /// Collections that pass: whole names, `name.*` or `*`. Empty: all.
    pub watched_collections: Vec<String>,
    /// Collections that do not pass.
    pub ignored_collections: Vec<String>,
    /// Accounts that pass. Empty: all.
    pub watched_dids: Vec<String>,
    /// Accounts that do not pass.
    pub ignored_dids: Vec<String>,
    /// Hosts of accounts' PDS.
    pub watched_services: Vec<String>,
    /// Hosts of accounts' PDS that do not pass.
    pub ignored_services: Vec<String>,
    /// Whether events of accounts whose PDS is not known are left out, where there is a list of services.
    pub drop_unresolved: bool,
}

/// A pattern that cannot be used.
#[derive(Debug)]
pub struct BadPattern {
    /// Name of the list, as its flag has it.
    pub list: &'static str,
    /// As the user wrote it.
    pub pattern: String,
    /// What is wrong with it, and what is allowed.
    pub reason: &'static str,
}

const COLLECTION: &str =
    "no collection; allowed are whole names (app.bsky.feed.post), names that end with .* (app.bsky.*), and *";
const TOO_SHORT: &str = "the name of a collection has at least three parts; allowed are whole names (app.bsky.feed.post), \
                         names that end with .* (app.bsky.*), and *";
const DID: &str = "not a DID; a DID begins with did:plc: or did:web:";
const HANDLE: &str = "a handle, where a DID is needed (did:plc:...); a handle may change, a DID does not";
const SERVICE: &str = "no host; allowed are bsky.network, *.bsky.network, https://host and host:port";
const NOTHING_LEFT: &str = "all of it is ignored, so everything is left out";

impl Filter {
    /// Fails with the pattern that can match nothing, and the list that it stands in.
    pub fn new(lists: &Lists) -> Result<Self, BadPattern> {
        let bad = |list: &'static str, reason| move |pattern: String| BadPattern { list, pattern, reason };
        let collections = |list, given: &[String]| match given {
            [] => Ok(None),
            _ => Collections::parse(given).map(Some).map_err(|pattern| {
                let short = pattern.contains('.') && pattern.split('.').all(is_segment);
                bad(list, if short { TOO_SHORT } else { COLLECTION })(pattern)
            }),
        };
        let dids = |list, given: &[String]| match given.iter().find(|did| !is_did(did)) {
            Some(wrong) => {
                let handle = wrong.contains('.') && wrong.trim_start_matches('@').split('.').all(is_segment);
                Err(bad(list, if handle { HANDLE } else { DID })(wrong.clone()))
            }
            None => Ok((!given.is_empty()).then(|| given.iter().cloned().collect::<HashSet<_>>())),
        };
        let services = |list, given: &[String]| match given {
            [] => Ok(None),
            _ => {
                let parse =
                    |pattern: &String| Service::parse(pattern).ok_or_else(|| bad(list, SERVICE)(pattern.clone()));
                given.iter().map(parse).collect::<Result<Vec<_>, _>>().map(Some)
            }
        };
        for (list, given) in
            [("ignored-collections", &lists.ignored_collections), ("ignored-services", &lists.ignored_services)]
        {
            if given.iter().any(|p| p == "*") {
                return Err(bad(list, NOTHING_LEFT)("*".into()));
            }
        }
        // Nothing would be left.
        let ignored = Collections::parse(&lists.ignored_collections).unwrap_or_default();
        let covered = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => ignored.prefixes.iter().any(|p| prefix.starts_with(p)),
            None => ignored.contains(pattern),
        };
        if !lists.watched_collections.is_empty() && lists.watched_collections.iter().all(covered) {
            return Err(bad("watched-collections", NOTHING_LEFT)(lists.watched_collections.join(",")));
        }
        if !lists.watched_dids.is_empty() && lists.watched_dids.iter().all(|did| lists.ignored_dids.contains(did)) {
            return Err(bad("watched-dids", NOTHING_LEFT)(lists.watched_dids.join(",")));
        }
        Ok(Filter {
            collections: Rule::new(
                collections("watched-collections", &lists.watched_collections),
                collections("ignored-collections", &lists.ignored_collections),
            )?,
            dids: Rule::new(dids("watched-dids", &lists.watched_dids), dids("ignored-dids", &lists.ignored_dids))?,
            services: Rule::new(
                services("watched-services", &lists.watched_services),
                services("ignored-services", &lists.ignored_services),
            )?,
            drop_unresolved: lists.drop_unresolved,
            asked: Arc::default(),
            said: Arc::default(),
        })
    }

    /// Whole names of collections of which no record came among the first [`ENOUGH`], once: most likely they were meant as
    /// the beginnings of names, which have to end with `.*`.
    pub fn unmatched(&self) -> Vec<String> {
        if self.asked.load(Relaxed) < ENOUGH || self.said.load(Relaxed) || self.said.swap(true, Relaxed) {
            return Vec::new();
        }
        let lists = [&self.collections.watched, &self.collections.ignored];
        let exact = lists.into_iter().flatten().flat_map(|list| list.exact.iter());
        let mut names: Vec<String> =
            exact.filter(|(_, came)| !came.load(Relaxed)).map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Whether ops on `collection` pass. Events that have no collection are not asked.
    #[inline]
    pub fn collection(&self, collection: &str) -> bool {
        if self.asked.load(Relaxed) < ENOUGH {
            self.asked.fetch_add(1, Relaxed);
        }
        self.collections.passes(|list| list.contains(collection))
    }

    /// Whether events of the account pass.
    #[inline]
    pub fn did(&self, did: &str) -> bool {
        self.dids.passes(|list| list.contains(did))
    }

    /// Whether [`Filter::service`] has anything to say, so that accounts' PDS have to be known.
    pub fn has_services(&self) -> bool {
        self.services.is_given()
    }

    /// Whether events of accounts on this PDS (`https://host`, lower case) pass. `None`: it is not known.
    pub fn service(&self, pds: Option<&str>) -> bool {
        match pds {
            Some(pds) => self.services.passes(|list| list.iter().any(|service| service.matches(pds))),
            None => !(self.drop_unresolved && self.has_services()),
        }
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
    fn names_without_a_record_are_told_once_and_late() {
        let f = filter(&["app.bsky.feed", "app.bsky.graph.*"], &["app.bsky.graph.block"]).expect("valid");
        for i in 0..ENOUGH {
            assert!(f.unmatched().is_empty(), "{i}");
            f.collection("app.bsky.feed.post");
        }
        assert_eq!(f.clone().unmatched(), ["app.bsky.feed", "app.bsky.graph.block"]);
        assert!(f.unmatched().is_empty(), "once, for all threads");
        let f = filter(&["app.bsky.feed.post"], &[]).expect("valid");
        (0..ENOUGH).for_each(|_| assert!(f.collection("app.bsky.feed.post")));
        assert!(f.unmatched().is_empty());
    }

    #[test]
    fn what_is_watched_passes_unless_it_is_ignored() {
        let f = filter(&["app.bsky.*"], &["app.bsky.feed.like"]).expect("valid");
        assert!(f.collection("app.bsky.feed.post") && !f.collection("app.bsky.feed.like") && !f.collection("a.b.c"));
        assert!(filter(&["app.bsky.*", "a.b.c"], &["app.bsky.*"]).is_ok());
        for (watched, ignored) in [("a.b.c", "a.b.c"), ("a.b.c", "a.*"), ("a.b.*", "a.*"), ("a.b.*", "a.b.*")] {
            assert!(filter(&[watched], &[ignored]).is_err(), "{watched} {ignored} leaves nothing");
        }
    }

    #[test]
    fn services_by_name_below_a_name_with_scheme_and_with_port() {
        let of = |watched: &str| {
            let list = watched.split_whitespace().map(str::to_string).collect();
            Filter::new(&Lists { watched_services: list, ..Lists::default() })
        };
        for (pattern, passes, stays) in [
            ("*.bsky.network", "https://a.b.bsky.network", "https://bsky.network"),
            ("*.bsky.network", "https://a.bsky.network:8443", "https://absky.network"),
            ("bsky.network", "https://bsky.network", "https://a.bsky.network"),
            ("Bsky.Network", "http://bsky.network:80", "https://bsky.network.example"),
            ("https://blacksky.app", "https://blacksky.app", "http://blacksky.app"),
            ("https://blacksky.app/", "https://blacksky.app:8443", "https://x.blacksky.app"),
            ("pds.example:443", "https://pds.example", "https://pds.example:8443"),
            ("localhost:2583", "http://localhost:2583", "http://localhost"),
            ("a.example b.example", "https://b.example", "https://c.example"),
            ("[::1]:2583", "http://[::1]:2583", "http://[::1]"),
        ] {
            let f = of(pattern).expect("valid");
            assert!(f.service(Some(passes)), "{pattern} {passes}");
            assert!(!f.service(Some(stays)), "{pattern} {stays}");
        }
        assert!(of("*").expect("valid").service(Some("https://any.example")));
        for wrong in
            ["", "*bsky.network", "a b", "ftp://a.example", "https://a.example/path", "a:0", "a:x", ".a", "https://"]
        {
            assert!(
                Filter::new(&Lists { watched_services: vec![wrong.into()], ..Lists::default() }).is_err(),
                "{wrong}"
            );
        }
        assert!(Filter::new(&Lists { ignored_services: vec!["*".into()], ..Lists::default() }).is_err());
    }

    #[test]
    fn accounts_whose_pds_is_not_known_pass_unless_they_are_dropped() {
        let lists =
            |drop| Lists { ignored_services: vec!["a.example".into()], drop_unresolved: drop, ..Lists::default() };
        assert!(Filter::new(&lists(false)).expect("valid").service(None));
        assert!(!Filter::new(&lists(true)).expect("valid").service(None));
        assert!(Filter::new(&Lists { drop_unresolved: true, ..Lists::default() }).expect("valid").service(None));
    }

    #[test]
    fn dids() {
        let lists = Lists { watched_dids: vec!["did:plc:a".into(), "did:web:b.example".into()], ..Lists::default() };
        let f = Filter::new(&lists).expect("valid");
        assert!(f.did("did:plc:a") && !f.did("did:plc:b"));
        assert!(Filter::new(&Lists { ignored_dids: vec!["alice.example".into()], ..Lists::default() }).is_err());
    }
}
