//! How far a run is that has an end: what is done of it, and a progress bar for the [status line](super::status). The
//! reader's thread counts, the main thread draws.
//!
//! indicatif draws the bar and estimates the time that is left; where it stands on the terminal is the status line's
//! matter.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike};

/// What is said of every run: without colours, since logs and narrow terminals show it too.
const WORDS: &str = "{percent} %, {eta} left";
/// What is said where frames are counted.
pub const OF_FRAMES: &str = ", {human_pos} of {human_len} frames, {rate}";

/// How much is done of how much, in bytes or frames: told by a reader, shown by whoever reports.
#[derive(Debug, Default)]
pub struct Extent {
    done: AtomicU64,
    /// 0: nobody knows, as of a pipe.
    total: AtomicU64,
}

impl Extent {
    /// Nothing of `total` is done yet; 0: nobody knows how much there is.
    pub fn of(total: u64) -> Extent {
        Extent { done: AtomicU64::new(0), total: AtomicU64::new(total) }
    }

    /// So much more is done.
    pub fn add(&self, more: u64) {
        self.done.fetch_add(more, Ordering::Relaxed);
    }

    /// From now on it is so much in all; 0: nobody knows.
    pub fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    fn get(&self) -> Option<(u64, u64)> {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        (total > 0).then_some((done.min(total), total))
    }
}

/// A progress bar. One that is asked twice a second has a good estimate of the time left.
pub struct Bar {
    extent: Arc<Extent>,
    bar: ProgressBar,
    drawn: Arc<Mutex<String>>,
}

impl Bar {
    /// `drawn`: with the bar itself, and not only its words. `more` is what else is said, as a template of indicatif.
    pub fn new(extent: Arc<Extent>, drawn: bool, more: &str) -> Bar {
        let text = Arc::new(Mutex::new(String::new()));
        let target = ProgressDrawTarget::term_like(Box::new(Text(text.clone())));
        let bar = ProgressBar::with_draw_target(extent.get().map(|(_, total)| total), target);
        let template = format!("{}{WORDS}{more}", if drawn { "[{bar:20}] " } else { "" });
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            // It is a text in memory.
            let _ = write!(out, "{:.0}/s", state.per_sec());
        };
        let style = ProgressStyle::with_template(&template);
        let style = style.map(|style| style.progress_chars("=> ").with_key("rate", rate));
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Bar { extent, bar, drawn: text }
    }

    /// What it looks like now; `None` where the end is not known.
    pub fn text(&self) -> Option<String> {
        let (done, total) = self.extent.get()?;
        self.bar.set_length(total);
        self.bar.set_position(done);
        let text = || self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        text().clear();
        self.bar.force_draw();
        let drawn = text().trim().to_string();
        (!drawn.is_empty()).then_some(drawn)
    }
}

/// A terminal of one row, in memory.
#[derive(Debug)]
struct Text(Arc<Mutex<String>>);

impl Text {
    fn push(&self, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }
}

impl TermLike for Text {
    fn width(&self) -> u16 {
        u16::MAX
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.push(text);
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.push(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bar_says_how_far_it_is_and_what_is_left() {
        let extent = Arc::new(Extent::of(200));
        let bar = Bar::new(extent.clone(), true, "");
        extent.add(100);
        std::thread::sleep(Duration::from_millis(20));
        let half = bar.text().expect("an end");
        assert!(half.starts_with("[==========>         ] 50 %, ") && half.ends_with(" left"), "{half:?}");
        extent.add(1_000);
        let whole = bar.text().expect("an end");
        assert!(whole.starts_with("[====================] 100 %"), "{whole:?}");
        assert!(!whole.contains('\x1b'), "{whole:?}");
        let words = Bar::new(extent, false, OF_FRAMES).text().expect("an end");
        assert!(words.starts_with("100 %, ") && words.contains(" left, 200 of 200 frames, "), "{words:?}");
        assert_eq!(Bar::new(Arc::default(), true, "").text(), None, "a pipe has no end that is known");
    }
}
