//! Acknowledgements on their way back to a Tap connection: from the producer's thread to the reader that owns the
//! socket. It owns the queue between the two, and does not know what an event is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};

use rustix::event::{EventfdFlags, eventfd};

use super::Acks;

/// What may be acknowledged, and a descriptor that wakes whoever polls the socket. Bounded by what is in flight.
pub struct AckQueue {
    waiting: Mutex<Waiting>,
    wake: OwnedFd,
}

#[derive(Default)]
struct Waiting {
    /// Which connection may send them.
    connection: u64,
    ids: Vec<u64>,
}

impl AckQueue {
    /// Fails when the process has no descriptor left.
    pub fn new() -> std::io::Result<AckQueue> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(AckQueue { waiting: Mutex::default(), wake })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A new connection begins: what waits for an older one is dropped, and so is what comes for it later. Ids are not
    /// unique over restarts of Tap, and an old one could acknowledge an event that was not handled.
    /// Gives how many were dropped.
    pub fn connected(&self, connection: u64) -> usize {
        let mut waiting = self.waiting();
        let dropped = self.take_from(&mut waiting).len();
        waiting.connection = connection;
        dropped
    }

    /// These events are safe in the broker. Gives how many are acknowledged with it.
    pub fn push(&self, acks: &Acks) -> usize {
        let mut waiting = self.waiting();
        if acks.connection != waiting.connection {
            return 0;
        }
        let was_empty = waiting.ids.is_empty();
        waiting.ids.extend_from_slice(&acks.ids);
        if was_empty && !waiting.ids.is_empty() {
            // Fails only when the counter is full: then the reader is awake already.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
        acks.ids.len()
    }

    /// Takes all, and lets the descriptor sleep.
    pub fn take(&self) -> Vec<u64> {
        self.take_from(&mut self.waiting())
    }

    fn take_from(&self, waiting: &mut Waiting) -> Vec<u64> {
        if !waiting.ids.is_empty() {
            let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        }
        std::mem::take(&mut waiting.ids)
    }
}

impl AsFd for AckQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_of_an_old_connection_are_never_given_out() {
        let queue = AckQueue::new().expect("a descriptor");
        let acks = |connection, ids: &[u64]| Acks { connection, ids: ids.to_vec(), messages: 0 };
        queue.connected(1);
        queue.push(&acks(1, &[1, 2]));
        queue.push(&acks(1, &[3]));
        assert_eq!(queue.take(), [1, 2, 3]);
        queue.push(&acks(1, &[4]));
        queue.connected(2);
        assert!(rustix::io::read(&queue.wake, &mut [0; 8]).is_err(), "nobody is woken for what was dropped");
        queue.push(&acks(1, &[5]));
        assert!(queue.take().is_empty());
        queue.push(&acks(2, &[1]));
        assert_eq!(queue.take(), [1]);
    }
}
