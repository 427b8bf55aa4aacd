//! What the producer's thread waits for: batches, and word of deliveries.
//!
//! It sleeps once for both: who puts a batch in wakes it, and so does a [sink](crate::sink::Sink) that has something to
//! tell. It owns the queue of batches and the wait; what is in a batch is not its matter.

use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

/// A queue for `limit` batches, whatever they are.
pub fn inbox<T>(limit: usize) -> (Inlet<T>, Inbox<T>) {
    let (sender, batches) = bounded(limit);
    let owner = Owner::default();
    (Inlet { sender, owner: owner.clone() }, Inbox { batches, owner })
}

/// Where batches are put in. The queue ends when the last of these is dropped.
pub struct Inlet<T> {
    // In this order: who is woken by the owner's drop finds the queue at its end.
    sender: Sender<T>,
    owner: Owner,
}

/// Nobody takes batches any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

impl<T> Clone for Inlet<T> {
    fn clone(&self) -> Self {
        Inlet { sender: self.sender.clone(), owner: self.owner.clone() }
    }
}

impl<T> Inlet<T> {
    /// Puts a batch in, and waits for room.
    pub fn send(&self, batch: T) -> Result<(), Gone> {
        self.sender.send(batch).map_err(|_| Gone)?;
        self.owner.wake();
        Ok(())
    }
}

/// Where batches are taken out, on one thread.
pub struct Inbox<T> {
    batches: Receiver<T>,
    owner: Owner,
}

impl<T> Inbox<T> {
    /// Sleeps until a batch is in it, no [`Inlet`] is left, this thread is unparked, or `longest` is over. It may come back
    /// early.
    pub fn wait(&self, longest: Duration) {
        self.owner.0.get_or_init(thread::current);
        if self.batches.is_empty() {
            thread::park_timeout(longest);
        }
    }

    /// Gives all batches that are in it to `each`. `false`: it is at its end.
    pub fn take(&self, mut each: impl FnMut(T)) -> bool {
        loop {
            match self.batches.try_recv() {
                Ok(batch) => each(batch),
                Err(end) => return end == TryRecvError::Empty,
            }
        }
    }

    /// Whether no batch is in it now.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

/// The thread that waits, once it does.
///
/// It is unparked, and not woken by the channel: a thread that a channel wakes meets the one that wakes it at the
/// channel's lock, and sleeps a second time.
#[derive(Clone, Default)]
struct Owner(Arc<OnceLock<Thread>>);

impl Owner {
    fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Longer than any of these tests may take.
    const LONG: Duration = Duration::from_secs(600);

    /// How much a thread gets up to the end that takes, and waits in between.
    fn taker(inbox: Inbox<i32>) -> thread::JoinHandle<usize> {
        thread::spawn(move || {
            let mut taken = 0;
            while inbox.take(|_| taken += 1) {
                inbox.wait(LONG);
            }
            taken
        })
    }

    #[test]
    fn a_batch_wakes_who_waits_and_so_does_the_end() {
        let (inlet, inbox) = inbox(2);
        let taker = taker(inbox);
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let inlet = inlet.clone();
                thread::spawn(move || (0..1000).for_each(|n| inlet.send(n).expect("it is taken")))
            })
            .collect();
        senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
        drop(inlet);
        assert_eq!(taker.join().expect("no panic"), 3000);
    }

    #[test]
    fn an_unpark_ends_the_wait() {
        let (_inlet, inbox) = inbox::<i32>(1);
        thread::current().unpark();
        let began = Instant::now();
        inbox.wait(LONG);
        assert!(began.elapsed() < LONG && inbox.is_empty());
    }

    #[test]
    fn nothing_is_taken_when_nobody_is_left_to_take_it() {
        let (inlet, inbox) = inbox(1);
        drop(inbox);
        assert_eq!(inlet.send(0), Err(Gone));
    }
}
