//! Which topic an event goes to: the rules of `--route`, parsed once. It knows patterns and the indices of topics, and
//! neither events nor Kafka. Pure; every worker reads it.

use crate::event::Action;
use crate::filter::Collections;

/// Topics that routes may name: each has limits and counters of its own.
pub const MAX_TOPICS: usize = 100;

/// The topics of a run, and the rules that choose between them.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    rules: Vec<Rule>,
    /// As they were given.
    given: Vec<String>,
}

#[derive(Debug, Clone)]
struct Rule {
    what: What,
    /// Index into the topics.
    topic: u16,
}

#[derive(Debug, Clone)]
enum What {
    /// Records of these collections.
    Ops(Collections),
    /// Events without a collection.
    Kind(Action),
}

const KINDS: [(&str, Action); 5] = [
    ("kind:identity", Action::Identity),
    ("kind:account", Action::Account),
    ("kind:sync", Action::Sync),
    ("kind:info", Action::Info),
    ("kind:ozone", Action::Ozone),
];

const ALLOWED: &str = "PATTERN=TOPIC; a pattern is the whole name of a collection (app.bsky.feed.post), a name that ends \
                       with .* (app.bsky.*), * for every record, or kind:identity, kind:account, kind:sync, kind:info, kind:ozone";

impl Routes {
    /// Reads rules, `PATTERN=TOPIC`, and adds the topics that they name to `topics`, whose first one is for what matches none.
    /// `is_topic` says whether a name can be one. The error names the rule and what is allowed.
    pub fn new(
        given: &[String],
        topics: &mut Vec<String>,
        is_topic: impl Fn(&str) -> bool,
    ) -> Result<Routes, (String, String)> {
        let mut rules = Vec::new();
        for rule in given {
            let bad = |why: &str| (rule.clone(), why.to_string());
            let (pattern, topic) = rule.split_once('=').ok_or_else(|| bad(ALLOWED))?;
            if !is_topic(topic) {
                return Err(bad("behind = stands no name of a topic"));
            }
            let what = match KINDS.iter().find(|(name, _)| *name == pattern) {
                Some((_, action)) => What::Kind(*action),
                None => What::Ops(Collections::parse(&[pattern.to_string()]).map_err(|_| bad(ALLOWED))?),
            };
            let known = topics.iter().position(|known| known == topic);
            let index = known.unwrap_or_else(|| {
                topics.push(topic.to_string());
                topics.len() - 1
            });
            if topics.len() > MAX_TOPICS {
                return Err(bad(&format!("more than {MAX_TOPICS} topics")));
            }
            rules.push(Rule { what, topic: index as u16 });
        }
        Ok(Routes { rules, given: given.to_vec() })
    }

    /// The index of the topic of an event: the first rule that matches counts. `collection` is empty where it has none.
    #[inline]
    pub fn topic(&self, action: Action, collection: &str) -> u16 {
        let matches = |rule: &&Rule| match &rule.what {
            What::Ops(collections) => action.is_op() && collections.contains(collection),
            What::Kind(kind) => *kind == action,
        };
        self.rules.iter().find(matches).map_or(0, |rule| rule.topic)
    }

    /// The rules as they were given.
    pub fn given(&self) -> &[String] {
        &self.given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(given: &[&str]) -> Result<(Routes, Vec<String>), (String, String)> {
        let mut topics = vec!["rest".to_string()];
        let given: Vec<String> = given.iter().map(|rule| rule.to_string()).collect();
        let routes = Routes::new(&given, &mut topics, |name| !name.is_empty() && !name.contains('/'))?;
        Ok((routes, topics))
    }

    #[test]
    fn the_first_rule_that_matches_counts_and_the_rest_goes_to_the_output_topic() {
        let (routes, topics) = routes(&[
            "app.bsky.feed.post=posts",
            "app.bsky.feed.*=feed",
            "kind:identity=accounts",
            "kind:account=accounts",
            "app.bsky.*=rest",
            "*=other",
        ])
        .expect("rules");
        assert_eq!(topics, ["rest", "posts", "feed", "accounts", "other"]);
        let to = |action, collection| topics[usize::from(routes.topic(action, collection))].as_str();
        assert_eq!(to(Action::Create, "app.bsky.feed.post"), "posts");
        assert_eq!(to(Action::Delete, "app.bsky.feed.like"), "feed");
        assert_eq!(to(Action::Create, "app.bsky.graph.follow"), "rest");
        assert_eq!(to(Action::Update, "com.example.thing"), "other");
        assert_eq!((to(Action::Identity, ""), to(Action::Account, "")), ("accounts", "accounts"));
        assert_eq!((to(Action::Sync, ""), to(Action::Info, "")), ("rest", "rest"), "* is for records");
        assert_eq!(Routes::default().topic(Action::Create, "app.bsky.feed.post"), 0);
    }

    #[test]
    fn what_is_no_rule_is_refused_with_what_is_allowed() {
        for bad in ["posts", "app.bsky.feed.post=", "app.bsky.feed.post=a/b", "kind:commit=a", "=a", "app..x=a"] {
            let (rule, why) = routes(&[bad]).map(drop).expect_err(bad);
            assert!(rule == bad && (why.contains("PATTERN=TOPIC") || why.contains("topic")), "{bad}: {why}");
        }
        let many: Vec<String> = (0..MAX_TOPICS).map(|n| format!("kind:info=t{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(routes(&many).is_err());
        assert!(routes(&many[1..]).is_ok());
    }
}
