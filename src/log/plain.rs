//! What others say, made harmless to show. Close reasons, error texts, handles and file names may hold line ends, escape
//! sequences that terminals obey, and marks that turn the direction of writing or cannot be seen.
//!
//! Whoever writes to people does it through here: the log, the status line, `/readyz`, and what systemd is told.

use std::fmt::{self, Write};

/// Text without such characters, cut at a number of bytes. It is written to as it is formed, so that a text of megabytes
/// is never copied.
pub struct Plain {
    text: String,
    most: usize,
    left_out: usize,
}

impl Plain {
    /// Takes `most` bytes; of what follows only the length is told.
    pub fn new(most: usize) -> Self {
        Plain { text: String::new(), most, left_out: 0 }
    }

    /// The text, with what was cut off told at its end.
    pub fn finish(mut self) -> String {
        if self.left_out > 0 {
            let _ = write!(self.text, "... (and {} bytes more)", self.left_out);
        }
        self.text
    }
}

impl Write for Plain {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (at, c) in text.char_indices() {
            if self.left_out > 0 || self.text.len() >= self.most {
                self.left_out += text.len() - at;
                return Ok(());
            }
            match c {
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                c if is_harmful(c) => write!(self.text, "\\u{{{:x}}}", u32::from(c))?,
                c => self.text.push(c),
            }
        }
        Ok(())
    }
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and what turns the direction of writing or takes no
/// place. The joiners U+200C and U+200D stay: languages and emoji need them.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// `text` as it may be shown, at most `most` bytes of it.
pub fn plain(text: &str, most: usize) -> String {
    let mut out = Plain::new(most);
    // It takes everything.
    let _ = out.write_str(text);
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_or_a_reader_of_lines_would_obey_is_escaped() {
        for (raw, shown) in [
            ("as usual: é 日本 👩‍💻 \\ \"x\"", "as usual: é 日本 👩‍💻 \\ \"x\""),
            ("two\nlines\r\tand", "two\\nlines\\r\\tand"),
            ("\u{1b}]0;title\u{7}\u{0}", "\\u{1b}]0;title\\u{7}\\u{0}"),
            ("\u{7f}\u{80}\u{85}\u{9b}31m\u{9f}", "\\u{7f}\\u{80}\\u{85}\\u{9b}31m\\u{9f}"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{202a}\u{202e}\u{2066}\u{2069}", "\\u{202a}\\u{202e}\\u{2066}\\u{2069}"),
            ("\u{61c}\u{200e}\u{200f}\u{feff}", "\\u{61c}\\u{200e}\\u{200f}\\u{feff}"),
        ] {
            assert_eq!(plain(raw, 1000), shown);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(plain("abcdef", 6), "abcdef");
        assert_eq!(plain("ééééé", 5), "ééé... (and 4 bytes more)");
        let long = plain(&"\u{1b}".repeat(1 << 20), 100);
        assert!(long.len() < 150, "{long}");
        let mut parts = Plain::new(4);
        for _ in 0..3 {
            parts.write_str("abc").expect("taken");
        }
        assert_eq!(parts.finish(), "abca... (and 5 bytes more)");
    }
}
