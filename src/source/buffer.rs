//! Buffers for messages, which come back: a reader fills one while a worker reads another, and memory that were given back to
//! the system in between would have to be cleared by it each time.
//!
//! It owns the buffers that nobody uses, for all readers of the process, and knows nothing of what is in them. Readers take,
//! and workers give back.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};

/// Buffers that are kept: some for each of a few readers at full speed, or one for each of many that are read at the same moment.
const KEPT: usize = 32;
/// Bytes of a new buffer. The allocator keeps memory for each size that a thread asks for, and hundreds of readers would ask for
/// many: 300 hosts took 134 to 209 MiB in a debug build without it, and 111 to 119 with it.
const LEAST: usize = 8 << 10;
/// Only buffers of at most so many bytes are kept, so that the kept ones never hold more than 8 MiB.
const MOST: usize = 256 << 10;

static UNUSED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn unused() -> MutexGuard<'static, Vec<Vec<u8>>> {
    // Whole at any instant.
    UNUSED.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Bytes, as a `Vec` has them. Dropped, it is used again, unless it is very large.
#[derive(Debug, Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty one with room for so many bytes at least.
    pub fn with_room(bytes: usize) -> Buffer {
        let mut buffer = unused().pop().unwrap_or_default();
        buffer.reserve(bytes.max(LEAST));
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
        if !(1..=MOST).contains(&self.0.capacity()) {
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
    fn buffers_are_used_again_empty_and_no_more_than_some() {
        let full: Vec<Buffer> = (1..=3 * KEPT).map(|bytes| Buffer::from(vec![7; bytes])).collect();
        drop(full);
        drop(Buffer::from(vec![7; MOST + 1]));
        drop(Buffer::default());
        assert!(unused().len() <= KEPT);
        for wanted in [1, 2 * LEAST].repeat(KEPT) {
            let buffer = Buffer::with_room(wanted);
            assert!(buffer.is_empty() && (wanted.max(LEAST)..=MOST).contains(&buffer.capacity()));
            std::mem::forget(buffer);
        }
    }
}
