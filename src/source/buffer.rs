//! Buffers for messages, which come back: a reader fills one while a worker reads another, and memory that were given back to
//! the system in between would have to be cleared by it each time.
//!
//! It owns the buffers that nobody uses, for all readers of the process, and knows nothing of what is in them. Readers take,
//! and workers give back.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};

/// Buffers that are kept: some for each of a few readers at full speed, and a megabyte of memory.
const KEPT: usize = 8;
/// Only buffers of at least and at most so many bytes are kept: those of a backlog.
const LEAST: usize = 64 << 10;
const MOST: usize = 256 << 10;

static UNUSED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn unused() -> MutexGuard<'static, Vec<Vec<u8>>> {
    // Whole at any instant.
    UNUSED.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Bytes, as a `Vec` has them. Dropped, a large one is used again.
#[derive(Debug, Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty one with room for so many bytes at least.
    pub fn with_room(bytes: usize) -> Buffer {
        let used = if bytes < LEAST { None } else { unused().pop() };
        let mut buffer = used.unwrap_or_default();
        buffer.reserve(bytes);
        Buffer(buffer)
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        Buffer(bytes)
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !(LEAST..=MOST).contains(&self.0.capacity()) {
            return;
        }
        let mut unused = unused();
        if unused.len() < KEPT {
            self.0.clear();
            unused.push(std::mem::take(&mut self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_used_again_empty_and_no_more_than_some() {
        let full: Vec<Buffer> = (0..3 * KEPT).map(|_| Buffer::from(vec![7; LEAST])).collect();
        drop(full);
        drop(Buffer::from(vec![7; MOST + 1]));
        assert!(unused().len() <= KEPT);
        for _ in 0..2 * KEPT {
            let buffer = Buffer::with_room(LEAST);
            assert!(buffer.is_empty() && (LEAST..=MOST).contains(&buffer.capacity()));
            std::mem::forget(buffer);
        }
        assert_eq!(Buffer::with_room(10).capacity(), 10, "a small one is made");
    }
}
