//! The status line: the last row of a terminal, drawn anew each time, and out of the way of log entries.
//!
//! By hand: it is a carriage return and an escape sequence, and the libraries for progress bars leave rows behind when the
//! terminal becomes narrower.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcgetwinsize;

use super::plain::plain;

/// Of a terminal that does not say how wide it is.
const USUAL: usize = 80;
/// Bytes of a line at most.
const LINE: usize = 2_000;

/// Columns of the status line that stands on the terminal; 0 without one.
static DRAWN: AtomicUsize = AtomicUsize::new(0);

/// Whether people watch: then there is a status line instead of a periodic entry.
pub fn on_terminal(json: bool) -> bool {
    !json && std::io::stderr().is_terminal()
}

fn width() -> usize {
    let columns = tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    if columns > 0 { columns } else { USUAL }
}

/// Columns that a text takes at most: no terminal gives a character outside of ASCII more than two.
pub fn columns(text: &str) -> usize {
    text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum()
}

/// The beginning of a text that fits into so many columns.
pub fn cut(text: &str, most: usize) -> &str {
    let mut taken = 0;
    let over = text.find(|c: char| {
        taken += if c.is_ascii() { 1 } else { 2 };
        taken > most
    });
    over.map_or(text, |end| &text[..end])
}

/// Replaces the status line. The text is asked for with the columns that there are, and cut to them.
pub fn draw(text: impl FnOnce(usize) -> String) {
    // In the last column some terminals go on to the next row.
    let most = width() - 1;
    let text = plain(&text(most), LINE);
    let text = cut(&text, most);
    let mut err = std::io::stderr().lock();
    // Nobody is left to be told when standard error is closed.
    let _ = write!(err, "{}{text}", erase());
    let _ = err.flush();
    DRAWN.store(columns(text), Ordering::Relaxed);
}

/// What removes the status line, if there is one. In a terminal that has become narrower it stands on several rows.
pub(super) fn erase() -> String {
    match DRAWN.swap(0, Ordering::Relaxed) {
        0 => String::new(),
        drawn => removal(drawn, width()),
    }
}

fn removal(drawn: usize, width: usize) -> String {
    format!("\r{}\x1b[J", "\x1b[A".repeat((drawn - 1) / width))
}

/// Leaves the status line where it is: what comes next begins a line. It waits for nobody, neither for a thread that holds
/// standard error nor for a terminal that is stopped.
pub fn leave() {
    if DRAWN.swap(0, Ordering::Relaxed) == 0 {
        return;
    }
    let err = std::io::stderr();
    let mut ready = [PollFd::new(&err, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut ready, Some(&now)).is_ok_and(|ready| ready > 0) {
        let _ = rustix::io::write(err.as_fd(), b"\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_to_the_columns_that_it_may_take() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "abc");
        assert_eq!(cut("日本語", 5), "日本");
        assert_eq!(cut("", 0), "");
        assert_eq!(columns("é日a"), 5);
    }

    #[test]
    fn what_a_narrower_terminal_has_wrapped_is_removed_whole() {
        assert_eq!(removal(79, 80), "\r\x1b[J");
        assert_eq!(removal(80, 80), "\r\x1b[J");
        assert_eq!(removal(199, 80), "\r\x1b[A\x1b[A\x1b[J");
    }
}
