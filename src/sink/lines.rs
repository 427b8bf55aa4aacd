//! Events as lines, on standard output or in a file. A line is safe once it is written. On the producer's thread, which
//! waits for a slow reader.

use std::io::{self, Write};

use super::{Delivery, End, NotReady, Outgoing, Refused, SameCluster, Sink, Start, Token, Topic};

/// Bytes collected before they are written.
const BUFFER: usize = 256 << 10;

/// Writes each event as a line of text. A line counts as delivered when it is flushed.
pub struct Lines<W> {
    out: W,
    buffer: Vec<u8>,
    /// Tokens of the lines in the buffer.
    waiting: Vec<Token>,
    done: Vec<Token>,
}

impl<W: Write + Send> Lines<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Lines { out, buffer: Vec::with_capacity(BUFFER), waiting: Vec::new(), done: Vec::new() }
    }

    fn write(&mut self) -> Result<(), End> {
        if !self.buffer.is_empty() {
            self.out.write_all(&self.buffer).and_then(|()| self.out.flush()).map_err(|e| match e.kind() {
                io::ErrorKind::BrokenPipe => End::Closed,
                _ => End::Failed(format!("cannot write the events: {e}")),
            })?;
            self.buffer.clear();
            self.done.append(&mut self.waiting);
        }
        Ok(())
    }
}

impl<W: Write + Send> Sink for Lines<W> {
    fn prepare(&mut self, _same_cluster: SameCluster<'_>, _start: Start<'_>) -> Result<(), NotReady> {
        Ok(())
    }

    fn send(&mut self, record: &Outgoing<'_>, token: Token) -> Result<(), Refused> {
        // Dead letters of this sink are log lines; the pipeline does not send them here.
        debug_assert_eq!(record.topic, Topic::Events(0));
        self.buffer.extend_from_slice(record.value);
        self.buffer.push(b'\n');
        self.waiting.push(token);
        if self.buffer.len() >= BUFFER {
            self.write().map_err(Refused::Ended)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), End> {
        self.write()
    }

    fn poll(&mut self, done: &mut Vec<Delivery>) -> Result<(), End> {
        done.extend(self.done.drain(..).map(|token| Delivery { token, result: Ok(()) }));
        Ok(())
    }
}
