//! JSON that others wrote: answers of servers, messages of Tap, files of ours that may be damaged.
//!
//! sonic-rs passes over values by recursion and without a limit, so a deeply nested text overflows the stack, which ends the
//! process. Each text is therefore checked here before the parser sees it; nothing else calls the parser
//! (`tests/tidy.rs` holds that).

use serde::Deserialize;
pub use sonic_rs::{JsonValueTrait, LazyValue};

/// Levels of what has no deeper parts by its schema: sessions, errors, tokens, positions, DID documents.
pub const SHALLOW: usize = 32;

/// Reads a whole text. Fails, in one short line, where it is no JSON of that form or nested deeper than `deepest` levels.
pub fn read<'a, T: Deserialize<'a>>(text: &'a [u8], deepest: usize) -> Result<T, String> {
    if is_too_deep(text, deepest) {
        return Err(format!("nested deeper than {deepest} levels"));
    }
    // The parser itself looks at this last, and makes strings of what is not UTF-8 before.
    let text = std::str::from_utf8(text).map_err(|e| format!("not UTF-8: {e}"))?;
    sonic_rs::from_str(text).map_err(|e| reason(&e))
}

/// Reads a value out of a text that [`read`] or [`member`] has checked.
pub fn part<'a, T: Deserialize<'a>>(value: &'a LazyValue<'a>) -> Result<T, String> {
    sonic_rs::from_str(value.as_raw_str()).map_err(|e| reason(&e))
}

/// One member of an object. What stands behind it is not looked at, and may be cut off.
pub fn member<'a>(text: &'a str, deepest: usize, key: &str) -> Option<LazyValue<'a>> {
    if is_too_deep(text.as_bytes(), deepest) {
        return None;
    }
    sonic_rs::get(text, [key]).ok()
}

/// The parser's words, without anything of the text: a server may have put there what it was told, a password too.
fn reason(e: &sonic_rs::Error) -> String {
    let said = e.to_string();
    // An excerpt of the text follows in further lines.
    let line = said.lines().next().unwrap_or_default();
    let place = || match (e.line(), e.column()) {
        (0, _) => String::new(),
        (line, column) => format!(" at line {line} column {column}"),
    };
    let short = if let Some((kind, rest)) = split_kind(line) {
        // The value may hold these words too; the last ones are the parser's.
        let expected = rest.rsplit_once(", expected ").map(|(_, expected)| format!(", expected {expected}"));
        format!("{kind}{}", expected.unwrap_or_else(place))
    } else if !e.is_unmatched_type()
        || ["missing field ", "duplicate field ", "invalid length "].iter().any(|start| line.starts_with(start))
    {
        // Fixed words, and names of ours.
        line.to_string()
    } else {
        format!("not of the form that is expected{}", place())
    };
    short.chars().take(200).collect()
}

/// `invalid type: string "x", expected ...` -> `invalid type: string`, and what is behind it.
fn split_kind(line: &str) -> Option<(&str, &str)> {
    let start = ["invalid type: ", "invalid value: "].into_iter().find(|start| line.starts_with(start))?.len();
    let end = line[start..].find(['"', '`', ',']).map_or(line.len(), |at| start + at);
    Some((line[..end].trim_end(), &line[end..]))
}

/// Whether arrays and objects of a JSON text stand more than `deepest` inside one another.
fn is_too_deep(text: &[u8], deepest: usize) -> bool {
    let opens = |b: &&u8| matches!(b, b'[' | b'{');
    // Nearly every text has fewer brackets than that in all.
    if text.iter().filter(opens).count() <= deepest {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for b in text {
        match b {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' if depth == deepest => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_strings_only() {
        let lists = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        for (text, depth) in [
            (lists(5), 5),
            (format!(r#"{{"a":{},"b":{}}}"#, lists(3), lists(4)), 5),
            (r#"{"a":"[[[[\"[[[[","b":[]}"#.into(), 2),
            (r#"{"a":"\\","b":[[]]}"#.into(), 3),
        ] {
            assert!(!is_too_deep(text.as_bytes(), depth), "{text}");
            assert!(is_too_deep(text.as_bytes(), depth - 1), "{text}");
        }
    }

    #[test]
    fn a_text_of_any_depth_is_an_error_and_no_overflow() {
        #[derive(Deserialize)]
        struct One {
            #[serde(default)]
            a: u64,
        }
        for open in ["[", "{\"x\":", "[{\"x\":"] {
            let deep = open.repeat(200_000);
            let inside = format!(r#"{{"b":{deep}"#);
            for text in [&deep, &inside] {
                let error = read::<One>(text.as_bytes(), SHALLOW).map(|one| one.a).expect_err("refused");
                assert_eq!(error, "nested deeper than 32 levels");
                assert!(member(text, SHALLOW, "a").is_none());
            }
        }
        assert_eq!(read::<One>(br#"{"x":[[[{}]]],"a":7}"#, SHALLOW).map(|one| one.a), Ok(7));
        let error = read::<One>(b"{\"a\":\n\n\n nonsense", SHALLOW).map(|one| one.a).expect_err("refused");
        assert!(!error.contains('\n') && error.len() <= 200, "{error}");
    }

    #[test]
    fn what_is_not_utf_8_is_an_error_and_no_panic() {
        #[derive(Deserialize, Debug)]
        struct Any<'a> {
            #[serde(borrow, default)]
            _x: Option<LazyValue<'a>>,
        }
        for text in [&b"{\"_x\":\"\xff\"}"[..], b"{\"\xc7\":1}", b"{\"_x\":[\"a\xe2\x82\"]}"] {
            let error = read::<Any<'_>>(text, SHALLOW).expect_err("refused");
            assert!(error.contains("UTF-8"), "{error}");
        }
    }

    #[test]
    fn an_error_says_kind_and_place_and_nothing_of_the_text() {
        #[derive(Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        struct Form<'a> {
            id: u64,
            #[serde(default)]
            small: u8,
            #[serde(borrow, default)]
            _name: std::borrow::Cow<'a, str>,
            #[serde(default)]
            _list: Vec<u8>,
            #[serde(default)]
            _kind: Option<Kind>,
            #[serde(default)]
            _pair: Option<(u8, u8)>,
            #[serde(default)]
            _own: Option<Own>,
        }
        #[derive(Deserialize, Debug)]
        enum Kind {
            Known,
        }
        #[derive(Debug)]
        struct Own;
        impl<'de> Deserialize<'de> for Own {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Own, D::Error> {
                let text = String::deserialize(d)?;
                if text == "own" { Ok(Own) } else { Err(serde::de::Error::custom(format!("no own: {text}"))) }
            }
        }
        let error = |text: &str| {
            let error = read::<Form<'_>>(text.as_bytes(), SHALLOW).map(|f| (f.id, f.small)).expect_err("refused");
            assert!(!error.contains("hunter2") && !error.contains("4711"), "{text}: {error}");
            error
        };
        assert!(read::<Form<'_>>(br#"{"id":1,"_kind":"Known","_own":"own"}"#, SHALLOW).is_ok());
        assert_eq!(error(r#"{"id":"Basic hunter2"}"#), "invalid type: string, expected u64 at line 1 column 21");
        for value in [
            r#""hunter2, expected hunter2""#,
            r#""hunter2\", expected hunter2 at line 1 column 1""#,
            r#""hunter2\n, expected hunter2\r\n`hunter2`""#,
            r#""\u2028hunter2""#,
        ] {
            let said = error(&format!(r#"{{"id":{value}}}"#));
            assert!(said.starts_with("invalid type: string, expected u64 at line 1 column "), "{said}");
        }
        for (text, says) in [
            (r#"{"id":1,"small":4711}"#, "invalid value: integer, expected u8 at line 1"),
            (r#"{"id":-4711}"#, "invalid value: integer, expected u64 at line 1"),
            (r#"{"id":4711.5}"#, "invalid type: floating point, expected u64 at line 1"),
            (r#"{"id":true}"#, "invalid type: boolean, expected u64 at line 1"),
            (r#"{"id":null}"#, "invalid type: null, expected u64 at line 1"),
            (r#"{"id":1,"_list":"hunter2"}"#, "invalid type: string, expected a sequence at line 1"),
            (r#"{"id":1,"_list":{"hunter2":1}}"#, "invalid type: map, expected a sequence at line 1"),
            (r#""hunter2""#, "invalid type: string, expected struct Form at line 1"),
            (r#"{"small":1}"#, "missing field `id` at line 1"),
            (r#"{"id":1,"id":2}"#, "duplicate field `id` at line 1"),
            (r#"{"id":1,"hunter2, expected hunter2":2}"#, "not of the form that is expected at line 1"),
            (r#"{"id":1,"_kind":"hunter2"}"#, "not of the form that is expected at line 1"),
            (r#"{"id":1,"_own":"hunter2"}"#, "not of the form that is expected"),
            (r#"{"id":1,"_pair":[1]}"#, "invalid length 1, expected a tuple of size 2"),
            (r#"{"id":hunter2}"#, ""),
            (r#"{"id":1 hunter2}"#, ""),
            (r#"{"_name":"hunter2"#, ""),
        ] {
            let said = error(text);
            assert!(said.starts_with(says) && !said.is_empty() && said.len() <= 200, "{text}: {said}");
        }
        let long = error(&format!(r#"{{"id":"{}"}}"#, "hunter2".repeat(10_000)));
        assert_eq!(long, "invalid type: string, expected u64 at line 1 column 70008");
    }

    #[test]
    fn a_member_is_found_in_a_text_that_is_cut_off() {
        let found = member(r#"{"n":1,"createdAt":"x","rest":[{"#, SHALLOW, "createdAt").expect("found");
        assert_eq!(part::<String>(&found), Ok("x".into()));
    }
}
