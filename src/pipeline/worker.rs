//! A worker: takes any job, gives its batch. It keeps no state between jobs but buffers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::batch::{Batch, Job};
use super::decode::{Decoder, Rules};
use crate::dead_letter::{DeadLetter, Reason};
use crate::metrics::Metrics;
use crate::source::job::Work;

/// Works until no reader is left, or nobody takes the batches.
pub fn run(rules: Rules, metrics: Arc<Metrics>, jobs: Receiver<Job>, batches: Sender<Batch>) {
    let mut decoder = Decoder::new(rules, &metrics);
    for job in jobs {
        metrics.queue_depth.dec();
        let began = Instant::now();
        let batch = work(&mut decoder, &job);
        metrics.decode_seconds.observe(began.elapsed().as_secs_f64());
        if batches.send(batch).is_err() {
            return;
        }
    }
}

/// One job. A panic on a frame takes only that frame: it becomes a dead letter.
pub fn work(decoder: &mut Decoder<'_>, job: &Job) -> Batch {
    let mut out = Batch::answering(job);
    match &job.work {
        Work::Notice { name, message } => decoder.notice(name, message, &mut out),
        Work::Frames(frames) | Work::Tap(frames) | Work::Ozone(frames) => {
            // JSON takes about a fifth of a frame, whose MST nodes are left behind (measured).
            out.bytes.reserve(frames.bytes.len() / 4);
            for at in &frames.list {
                let frame = &frames.bytes[at.range.clone()];
                let mark = (out.bytes.len(), out.records.len(), out.dead.len());
                let decode = || match &job.work {
                    Work::Tap(_) => decoder.tap(frame, &at.seen, &mut out),
                    Work::Ozone(_) => decoder.ozone(frame, &mut out),
                    _ => decoder.frame(frame, &at.seen, &mut out),
                };
                if catch_unwind(AssertUnwindSafe(decode)).is_err() {
                    out.bytes.truncate(mark.0);
                    out.records.truncate(mark.1);
                    out.dead.truncate(mark.2);
                    let detail = "the program panicked on it: a bug, please report it with the bytes".into();
                    out.dead.push(DeadLetter { reason: Reason::Panic, detail, seq: 0, bytes: frame.to_vec() });
                }
            }
        }
    }
    out
}
