//! The last dead letters and gaps, for people who want to see what went wrong without a search in the log. It owns a bounded
//! number of each, cut to a bounded length, behind a lock of its own; the readers and the producer add to it, and the HTTP
//! server's thread reads. It must not know what a letter or a gap is of.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::clock;

/// So many of each are kept.
pub const KEPT: usize = 20;
/// Bytes of a text or of a dead letter that are kept at most.
const LONGEST: usize = 512;

/// One dead letter or gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// When it was noticed, in milliseconds since 1970.
    pub time_ms: i64,
    /// The source.
    pub host: String,
    /// The reason of a dead letter, or the kind of a gap: a name from the program.
    pub kind: &'static str,
    /// The seq of a dead letter, 0 where it has none.
    pub seq: u64,
    /// In words, at most 512 bytes. They may come from the network.
    pub detail: String,
    /// How many bytes the dead letter has, and the first of them, at most 512.
    pub size: usize,
    /// The first bytes.
    pub bytes: Vec<u8>,
}

/// The last of each.
#[derive(Default)]
pub struct Examples {
    letters: Mutex<VecDeque<Example>>,
    gaps: Mutex<VecDeque<Example>>,
}

impl Examples {
    /// Notes a dead letter.
    pub fn dead_letter(&self, host: &str, reason: &'static str, seq: u64, detail: &str, bytes: &[u8]) {
        let first = bytes[..bytes.len().min(LONGEST)].to_vec();
        add(&self.letters, Example { seq, size: bytes.len(), bytes: first, ..example(host, reason, detail) });
    }

    /// Notes a gap.
    pub fn gap(&self, host: &str, kind: &'static str, message: &str) {
        add(&self.gaps, example(host, kind, message));
    }

    /// The last dead letters, the newest first.
    pub fn dead_letters(&self) -> Vec<Example> {
        newest_first(&self.letters)
    }

    /// The last gaps, the newest first.
    pub fn gaps(&self) -> Vec<Example> {
        newest_first(&self.gaps)
    }
}

fn example(host: &str, kind: &'static str, detail: &str) -> Example {
    let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= LONGEST;
    let detail = detail.char_indices().take_while(fits).map(|(_, c)| c).collect();
    Example { time_ms: clock::now_ms(), host: host.into(), kind, seq: 0, detail, size: 0, bytes: Vec::new() }
}

fn add(list: &Mutex<VecDeque<Example>>, example: Example) {
    let mut list = list.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if list.len() == KEPT {
        list.pop_front();
    }
    list.push_back(example);
}

fn newest_first(list: &Mutex<VecDeque<Example>>) -> Vec<Example> {
    list.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter().rev().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_and_cut() {
        let examples = Examples::default();
        for seq in 0..1_000 {
            examples.dead_letter("h", "float", seq, &"é".repeat(10_000), &[7; 100_000]);
            examples.gap("h", "seq_gap", "short");
        }
        let letters = examples.dead_letters();
        assert_eq!(letters.iter().map(|l| l.seq).collect::<Vec<_>>(), (980..1_000).rev().collect::<Vec<_>>());
        assert!(letters.iter().all(|l| l.detail.len() <= LONGEST && l.bytes.len() == LONGEST && l.size == 100_000));
        assert_eq!((examples.gaps().len(), examples.gaps()[0].detail.as_str()), (KEPT, "short"));
    }
}
