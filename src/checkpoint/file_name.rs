//! What the file of a host and an output is called: a name that every file system takes, and that no other pair has. A change
//! here would make every saved position unfindable. Pure.

use data_encoding::{HEXLOWER, HEXUPPER};
use sha2::{Digest, Sha256};

/// Bytes of a file name without its extension: with the longest one, `.json.tmp`, that is the 255 of Linux's file systems.
pub const MAX_NAME: usize = 246;

/// The name of the file for a host and an output, without extension. `~` is none of the characters that a part keeps, so that no two pairs meet.
/// What is too long for a file system is cut, and told apart by a hash behind `~~`, which no whole name has.
pub fn of(kind: &str, host: &str, output: &str) -> String {
    let whole = format!("{kind}-{}~{}", part(host), part(output));
    if whole.len() <= MAX_NAME {
        return whole;
    }
    format!("{}~~{}", &whole[..160], HEXLOWER.encode(&Sha256::digest(&whole)[..16]))
}

/// `text` as a part of a file name, in ASCII. Injective: two hosts never share a file.
fn part(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// Kind, host and output of a name without extension. `None`: it is no name of ours, or was cut.
pub fn parts(name: &str) -> Option<(&str, String, String)> {
    let (kind, rest) = name.split_once('-')?;
    let (host, output) = rest.split_once('~')?;
    let text = |part: &str| {
        let mut bytes = Vec::with_capacity(part.len());
        let mut rest = part.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => HEXUPPER.decode(&[rest.next()?, rest.next()?]).ok()?[0],
                plain => plain,
            });
        }
        String::from_utf8(bytes).ok()
    };
    let (host, output) = (text(host)?, text(output)?);
    (of(kind, &host, &output) == name).then_some((kind, host, output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_and_injective() {
        assert_eq!(part("127.0.0.1:2470/a/../b"), "127.0.0.1%3A2470%2Fa%2F..%2Fb");
        assert_ne!(part("a:b"), part("a%3ab"));
        assert_eq!(of("relay", "bsky.network", "events"), "relay-bsky.network~events");
    }

    #[test]
    fn a_name_that_is_whole_tells_what_it_is_of() {
        let (host, output) = ("127.0.0.1:2470/ä~%", "events-a");
        assert_eq!(parts(&of("ozone", host, output)), Some(("ozone", host.into(), output.into())));
        for other in ["relay", "relay-a", "relay-a%4~b", "relay-a%zz~b", "relay-%61~b", "jetstream-a.zstd-dictionary"] {
            assert_eq!(parts(other), None, "{other}");
        }
        assert_eq!(parts(&of("relay", &"a".repeat(300), "b")), None, "it is cut");
    }
}
