//! The position that a reader begins at: known at the start, where it is in a file, or told by the thread that reads it from
//! Kafka. The reader's thread waits for it here.

use crossbeam_channel::{Receiver, bounded};

use super::checkpointer::Keep;
use super::ledger::Place;
use crate::checkpoint::file::{StateFile, Stored};
use crate::checkpoint::topic::{self, Key};
use crate::source::job::Stopped;

/// A saved position that may still be on its way.
pub enum Saved<T> {
    /// `None`: there is none.
    Known(Option<T>),
    /// It is read from Kafka.
    Coming(Receiver<Option<T>>),
}

impl<T: Stored + Send + 'static> Saved<T> {
    /// The position of `key` in the cursor topic, which takes over that of `file`.
    pub fn in_topic(key: Key, file: Option<(StateFile, Vec<u8>)>) -> (Keep, Saved<T>) {
        let (told, coming) = bounded(1);
        let of = key.clone();
        let found = Box::new(move |value: Option<&[u8]>| {
            let position = value.map(|value| topic::read::<T>(&of, value)).transpose()?;
            // A reader that has stopped does not listen any more.
            let _ = told.send(position.map(|(position, _)| position));
            Ok(())
        });
        (Keep::Topic(Place { key, file, found }), Saved::Coming(coming))
    }

    /// Waits for it. Fails when the run ends before.
    pub fn wait(self) -> Result<Option<T>, Stopped> {
        match self {
            Saved::Known(position) => Ok(position),
            Saved::Coming(coming) => coming.recv().map_err(|_| Stopped),
        }
    }
}
