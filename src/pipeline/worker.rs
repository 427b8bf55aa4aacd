//! A worker: takes any job, gives its batch. It keeps no state between jobs but buffers, and does not know which source a
//! job is of: the decoder comes with it. Each thread `worker-N` runs one, and the readers share one more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::inbox::{Gone, Inlet};
use super::metadata::{Metadata, Unfinished};
use super::permits::Permits;
use crate::dead_letter::{DeadLetter, Reason};
use crate::decode::batch::{Batch, Job};
use crate::decode::{Rules, Workbench};
use crate::metrics::Metrics;
use crate::metrics::pipeline::PipelineMetrics;
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

/// Where readers give jobs.
#[derive(Clone)]
pub struct Workers {
    queue: Sender<Job>,
    /// The one that readers share.
    own: Arc<Mutex<Worker>>,
    metrics: Arc<PipelineMetrics>,
}

impl Workers {
    /// `queue` leads to the threads; `own` is for the readers themselves.
    pub fn new(queue: Sender<Job>, own: Worker) -> Workers {
        let metrics = own.metrics.pipeline.clone();
        Workers { queue, own: Arc::new(Mutex::new(own)), metrics }
    }

    /// Has a job done, here or on one of the threads.
    ///
    /// A few frames the reader decodes itself: mostly it would sleep now, since upstream has nothing more, and to wake another
    /// thread costs more. Where another reader does so just now, the threads help.
    pub fn give(&self, job: Job) -> Result<(), Gone> {
        if job.work.is_little()
            && let Ok(mut own) = self.own.try_lock()
        {
            return own.take(job);
        }
        self.metrics.queue_depth.inc();
        self.queue.send(job).map_err(|_| Gone)
    }
}

/// What makes batches of jobs, with buffers of its own.
pub struct Worker {
    bench: Workbench,
    metrics: Arc<Metrics>,
    outlets: Outlets,
}

impl Worker {
    /// It works by `rules`.
    pub fn new(rules: Rules, metrics: Arc<Metrics>, outlets: Outlets) -> Worker {
        Worker { bench: Workbench::new(rules, metrics.decode.clone()), metrics, outlets }
    }

    /// Works until no reader is left, or nobody takes the batches.
    pub fn run(mut self, jobs: Receiver<Job>) {
        for job in jobs {
            self.metrics.pipeline.queue_depth.dec();
            if self.take(job).is_err() {
                return;
            }
        }
    }

    /// Does one job, and passes its batch on.
    pub fn take(&mut self, job: Job) -> Result<(), Gone> {
        let began = Instant::now();
        let mut batch = work(&mut self.bench, &job);
        for name in self.bench.rules().filter.unmatched() {
            log::warn!(
                at_most = 100, event = "filter"; "no record of {name} among the first 10,000: a name counts as a whole, {name}.* takes all below it"
            );
        }
        // What it turned out not to need goes back at once, and the frames are not needed any more.
        let kept = batch.needs().max(job.cost).min(batch.cost);
        self.outlets.permits.release(0, batch.cost - kept);
        batch.cost = kept;
        batch.shrink();
        drop(job);
        let decode_seconds = &self.metrics.pipeline.decode_seconds;
        if let Some((metadata, unfinished)) = self.outlets.enriching.as_ref().filter(|_| !batch.holes.is_empty()) {
            let (accounts, missing) = metadata.look(&batch);
            if !missing.is_empty() {
                decode_seconds.observe(began.elapsed().as_secs_f64());
                return unfinished.send(Unfinished { batch, accounts, missing }).map_err(|_| Gone);
            }
            metadata.fill(&mut batch, &accounts);
        }
        self.bench.count(&batch);
        decode_seconds.observe(began.elapsed().as_secs_f64());
        self.outlets.batches.send(batch)
    }
}

/// Bytes of a frame that is decoded alone. Honest ones are mostly far below it.
const LARGE: usize = 1 << 20;
static ALONE: Mutex<()> = Mutex::new(());

/// One job. A panic on a frame takes only that frame: it becomes a dead letter.
pub fn work(bench: &mut Workbench, job: &Job) -> Batch {
    let mut out = Batch::answering(job);
    match &job.work {
        Work::Notice { name, message } => bench.notice(name, message, &mut out),
        Work::Frames(frames) => {
            // JSON takes about a fifth of a frame, whose MST nodes are left behind (measured).
            out.bytes.reserve(frames.bytes.len() / 4);
            out.records.reserve(frames.list.len());
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

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use crate::event::Format;
    use crate::filter::{Filter, Lists};
    use crate::pipeline::inbox::{Inbox, inbox};
    use crate::route::Routes;
    use crate::source::job::{self, Frames, Seen};

    const MIB: usize = 1 << 20;

    /// The readers' way, where it leads to, and the metrics.
    fn workers() -> (Workers, Receiver<Job>, Inbox<Batch>, Arc<Metrics>) {
        let filter = Filter::new(&Lists::default()).expect("no filter");
        let rules = Rules { format: Format::Plain, filter, routes: Routes::default(), verify: true, enrich: false };
        let metrics = Arc::new(Metrics::default());
        let permits = Arc::new(Permits::new(MIB));
        permits.acquire(1, MIB / 2).expect("room");
        let (queue, jobs) = bounded(9);
        let (batches, received) = inbox(9);
        let own = Worker::new(rules, metrics.clone(), Outlets { permits, batches, enriching: None });
        (Workers::new(queue, own), jobs, received, metrics)
    }

    /// A job of so many frames of `len` bytes, of which nothing is made.
    fn job(frames: usize, len: usize) -> Job {
        let mut list = Frames::default();
        (0..frames).for_each(|_| list.push(&vec![0; len], Seen::Json));
        Job {
            source: 0,
            ordinal: 0,
            work: Work::Frames(list),
            decode: |_, _, _, _| {},
            position: None,
            received: Instant::now(),
            arrived_ms: 0,
            cost: 0,
            room: 0,
        }
    }

    fn count(inbox: &Inbox<Batch>) -> usize {
        let mut count = 0;
        inbox.take(|_| count += 1);
        count
    }

    #[test]
    fn a_reader_does_what_is_little_itself() {
        let (workers, jobs, batches, metrics) = workers();
        workers.give(job(job::FRAMES - 1, 10)).expect("it is taken");
        assert_eq!((jobs.len(), count(&batches)), (0, 1));
        assert_eq!(metrics.pipeline.queue_depth.get(), 0);
    }

    #[test]
    fn what_is_much_is_left_to_the_threads() {
        let (workers, jobs, batches, metrics) = workers();
        workers.give(job(job::FRAMES, 10)).expect("it is queued");
        workers.give(job(1, job::BYTES)).expect("it is queued");
        assert_eq!((jobs.len(), count(&batches)), (2, 0));
        assert_eq!(metrics.pipeline.queue_depth.get(), 2);
    }

    #[test]
    fn the_threads_help_where_another_reader_works() {
        let (workers, jobs, batches, _) = workers();
        let other = workers.own.lock().expect("no panic");
        workers.give(job(1, 10)).expect("it is queued");
        drop(other);
        workers.give(job(1, 10)).expect("it is taken");
        assert_eq!((jobs.len(), count(&batches)), (1, 1));
    }

    #[test]
    fn nobody_takes_a_job_when_nobody_takes_batches() {
        let (workers, jobs, batches, _) = workers();
        drop((jobs, batches));
        assert!(workers.give(job(1, 10)).is_err() && workers.give(job(job::FRAMES, 10)).is_err());
    }
}
