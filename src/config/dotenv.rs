//! Reads `./.env` and other small files of settings. No error of this file quotes what it read: it may be a secret.
//!
//! The dotenvy crate is not used: it searches all parent directories, replaces `$word` inside passwords, refuses a byte order
//! mark, and its errors quote the line.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use rustix::fs::{OFlags, fcntl_setfl};

use super::{Checked, invalid};

/// A file of settings, or of one password, has this many bytes at most. `/dev/zero` has no end.
pub(super) const SMALL: u64 = 64 << 10;

/// What a file of settings may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Only a regular file.
    Files,
    /// Also a pipe or a terminal: a password comes from `<(...)` or `/dev/stdin`, so that it is on no disk.
    Pipes,
}

/// The text of a file of `largest` bytes at most, without a byte order mark. `None`: there is no such file.
pub(super) fn text_file(flag: &str, path: &str, largest: u64, takes: Takes) -> Checked<Option<String>> {
    let Some(bytes) = limited_file(flag, path, largest, takes)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| invalid(flag, path, "cannot be read: not UTF-8"))?;
    Ok(Some(text.strip_prefix('\u{feff}').unwrap_or(&text).to_string()))
}

/// A file of `largest` bytes at most. `None`: there is no such file.
pub(super) fn limited_file(flag: &str, path: &str, largest: u64, takes: Takes) -> Checked<Option<Vec<u8>>> {
    let failed = |why: &str| invalid(flag, path, &format!("cannot be read: {why}"));
    // Not blocking: a named pipe that nobody writes to would hold the start up for ever.
    let file = match OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(&e.to_string())),
    };
    let found = file.metadata().map_err(|e| failed(&e.to_string()))?.file_type();
    if !found.is_file() {
        if takes == Takes::Files || !(found.is_fifo() || found.is_char_device()) {
            return Err(failed("not a regular file"));
        }
        // Who has it open for writing is waited for; where nobody has, it is empty.
        fcntl_setfl(&file, OFlags::empty()).map_err(|e| failed(&e.to_string()))?;
    }
    let mut bytes = Vec::new();
    file.take(largest + 1).read_to_end(&mut bytes).map_err(|e| failed(&e.to_string()))?;
    if bytes.len() as u64 > largest {
        return Err(failed(&format!("more than {} KiB, which is not what is expected here", largest >> 10)));
    }
    Ok(Some(bytes))
}

/// The variables of `text`, in order. `$` and, outside of double quotes, `\` stand for themselves.
pub(super) fn parse(file: &str, text: &str) -> Checked<Vec<(String, String)>> {
    let mut out = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = format!("{file} line {}", number + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).unwrap_or(line);
        let key = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        let Some((key, value)) = key.filter(|(key, _)| is_name(key)) else {
            return Err(invalid(&at, "", "not of the form NAME=value"));
        };
        let value = value_of(value).map_err(|why| invalid(&format!("{at}, {key}"), "", why))?;
        out.push((key.to_string(), value));
    }
    Ok(out)
}

fn is_name(key: &str) -> bool {
    !key.is_empty()
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
}

fn value_of(text: &str) -> Result<String, &'static str> {
    let quote = match text.chars().next() {
        Some(quote @ ('"' | '\'')) => quote,
        _ => {
            // A comment begins behind a blank: a `#` inside a password does not.
            let comment = text.match_indices('#').find(|(at, _)| *at == 0 || text[..*at].ends_with([' ', '\t']));
            return Ok(text[..comment.map_or(text.len(), |(at, _)| at)].trim_end().to_string());
        }
    };
    let mut value = String::new();
    let mut rest = text[1..].chars();
    loop {
        match rest.next() {
            None => return Err("the quote is not closed on this line"),
            Some(c) if c == quote => break,
            Some('\\') if quote == '"' => match rest.next() {
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                Some(c @ ('"' | '\\' | '$' | '`')) => value.push(c),
                Some(c) => value.extend(['\\', c]),
                None => return Err("the quote is not closed on this line"),
            },
            Some(c) => value.push(c),
        }
    }
    let behind = rest.as_str().trim_start();
    if behind.is_empty() || behind.starts_with('#') { Ok(value) } else { Err("something follows the closing quote") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_is_written() {
        let text = "A=pa$word\r\n\texport B = \"x \\\"y\\\" \\$z\" # comment\n# C=1\n\nD='a\\b $c # d'\nE=p#w # comment\nF=\nG=a\\b=c\n";
        let all = parse(".env", text).expect("valid");
        let all: Vec<(&str, &str)> = all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let want =
            [("A", "pa$word"), ("B", "x \"y\" $z"), ("D", "a\\b $c # d"), ("E", "p#w"), ("F", ""), ("G", "a\\b=c")];
        assert_eq!(all, want);
        assert!(parse(".env", "export=1").is_ok_and(|all| all[0].0 == "export"));
    }

    #[test]
    fn errors_name_file_line_and_key_and_never_the_value() {
        for (text, parts) in [
            ("A=1\nB=\"MARKER", [".env line 2", "B"]),
            ("B='MARKER' MARKER", [".env line 1", "B"]),
            ("\n\nMARKER", [".env line 3", "NAME=value"]),
            ("MARKER MARKER=1", [".env line 1", "NAME=value"]),
        ] {
            let error = parse(".env", text).expect_err(text).to_string();
            assert!(!error.contains("MARKER") && parts.iter().all(|p| error.contains(p)), "{text:?}: {error}");
        }
    }
}
