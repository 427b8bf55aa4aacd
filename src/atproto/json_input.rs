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
    sonic_rs::from_str(text).map_err(|e| first_line(&e))
}

/// Reads a value out of a text that [`read`] or [`member`] has checked.
pub fn part<'a, T: Deserialize<'a>>(value: &'a LazyValue<'a>) -> Result<T, String> {
    sonic_rs::from_str(value.as_raw_str()).map_err(|e| first_line(&e))
}

/// One member of an object. What stands behind it is not looked at, and may be cut off.
pub fn member<'a>(text: &'a str, deepest: usize, key: &str) -> Option<LazyValue<'a>> {
    if is_too_deep(text.as_bytes(), deepest) {
        return None;
    }
    sonic_rs::get(text, [key]).ok()
}

/// The parser's words, without the excerpt of the text that follows them.
fn first_line(e: &sonic_rs::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().chars().take(200).collect()
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
    fn a_member_is_found_in_a_text_that_is_cut_off() {
        let found = member(r#"{"n":1,"createdAt":"x","rest":[{"#, SHALLOW, "createdAt").expect("found");
        assert_eq!(part::<String>(&found), Ok("x".into()));
    }
}
