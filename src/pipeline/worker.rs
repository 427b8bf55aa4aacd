//! A worker: takes any job, gives its batch. It keeps no state between jobs but buffers, and does not know which source a
//! job is of: the decoder comes with it. Each thread `worker-N` runs one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::inbox::Inlet;
use super::metadata::{Metadata, Unfinished};
use super::permits::Permits;
use crate::dead_letter::{DeadLetter, Reason};
use crate::decode::batch::{Batch, Job};
use crate::decode::{Rules, Workbench};
use crate::metrics::Metrics;
use crate::source::job::Work;

/// Where a worker puts what it made.
#[derive(Clone)]
pub struct Outlets {
    /// Where it gives back what a job held and its batch does not need.
    pub permits: Arc<Permits>,
    /// Batches that are complete.
    pub batches: Inlet<Batch>,
    /// With enrichment: what is looked at before, and who gets the batches whose accounts are not known yet.
    pub enriching: Option<(Metadata, Sender<Unfinished>)>,
}

/// Works until no reader is left, or nobody takes the batches.
pub fn run(rules: Rules, metrics: Arc<Metrics>, jobs: Receiver<Job>, outlets: Outlets) {
    let mut bench = Workbench::new(rules, &metrics.decode);
    for job in jobs {
        metrics.pipeline.queue_depth.dec();
        let began = Instant::now();
        let mut batch = work(&mut bench, &job);
        for name in bench.rules().filter.unmatched() {
            log::warn!(
                at_most = 100, event = "filter"; "no record of {name} among the first 10,000: a name counts as a whole, {name}.* takes all below it"
            );
        }
        // What it turned out not to need goes back at once, and the frames are not needed any more.
        let kept = batch.needs().max(job.cost).min(batch.cost);
        outlets.permits.release(0, batch.cost - kept);
        batch.cost = kept;
        batch.shrink();
        drop(job);
        if let Some((metadata, unfinished)) = outlets.enriching.as_ref().filter(|_| !batch.holes.is_empty()) {
            let (accounts, missing) = metadata.look(&batch);
            if !missing.is_empty() {
                metrics.pipeline.decode_seconds.observe(began.elapsed().as_secs_f64());
                if unfinished.send(Unfinished { batch, accounts, missing }).is_err() {
                    return;
                }
                continue;
            }
            metadata.fill(&mut batch, &accounts);
        }
        bench.count(&batch);
        metrics.pipeline.decode_seconds.observe(began.elapsed().as_secs_f64());
        if outlets.batches.send(batch).is_err() {
            return;
        }
    }
}

/// Bytes of a frame that is decoded alone. Honest ones are mostly far below it.
const LARGE: usize = 1 << 20;
static ALONE: Mutex<()> = Mutex::new(());

/// One job. A panic on a frame takes only that frame: it becomes a dead letter.
pub fn work(bench: &mut Workbench<'_>, job: &Job) -> Batch {
    let mut out = Batch::answering(job);
    match &job.work {
        Work::Notice { name, message } => bench.notice(name, message, &mut out),
        Work::Frames(frames) => {
            // JSON takes about a fifth of a frame, whose MST nodes are left behind (measured).
            out.bytes.reserve(frames.bytes.len() / 4);
            for at in &frames.list {
                let frame = &frames.bytes[at.range.clone()];
                let mark = out.mark();
                // Text of control characters becomes six times as long. The room for that is taken at once, since a Vec that
                // grows holds both copies; and one worker at a time has it, so that it does not count once for each.
                let alone =
                    (frame.len() > LARGE).then(|| ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
                if alone.is_some() {
                    out.bytes.reserve_exact(6 * frame.len());
                }
                let decode = || (job.decode)(bench, frame, &at.seen, &mut out);
                let panicked = catch_unwind(AssertUnwindSafe(decode)).is_err();
                let instead = if panicked {
                    Some((Reason::Panic, "the program panicked on it: a bug, please report it with the bytes"))
                } else if out.needs() > job.room + job.cost {
                    Some((Reason::TooLarge, "its events take more memory than one job may (--memory-limit)"))
                } else {
                    None
                };
                if let Some((reason, detail)) = instead {
                    out.back_to(&mark);
                    out.bury(DeadLetter { reason, detail: detail.into(), seq: 0, bytes: frame.to_vec() });
                }
                if alone.is_some() {
                    out.shrink();
                }
                out.unreadable += usize::from(out.dead[mark.dead..].iter().any(|d| d.reason.is_of_a_whole_frame()));
            }
        }
    }
    out
}
