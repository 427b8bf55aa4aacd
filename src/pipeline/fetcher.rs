//! The threads that ask: each asks one question at a time and says what became of it. A [`Pool`] belongs to the thread
//! `enricher` and has the threads of one provider, which are started as they are needed and end when they are not. It does
//! not know what is asked, or why.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::enrich::directory::Directory;
use crate::enrich::question::{Outcome, Provider, Question};

/// Between the starts of two threads of one pool: each opens a connection, and a host whose queue for new ones is full lets
/// them wait for a second (Linux: the first retry of a SYN).
const START_EVERY: Duration = Duration::from_millis(1);

/// The answer to one question.
pub struct Answered {
    /// Who was asked.
    pub provider: Provider,
    /// What was asked.
    pub question: Question,
    /// One for each account of the question.
    pub outcomes: Vec<Outcome>,
}

/// The threads that ask one provider.
pub struct Pool {
    provider: Provider,
    directory: Arc<Directory>,
    /// Threads at most.
    limit: usize,
    started: usize,
    last_start: Option<Instant>,
    busy: usize,
    /// The most that were busy at once since the last rest.
    most: usize,
    /// `None` ends the thread that takes it.
    questions: Sender<Option<Question>>,
    taken: Receiver<Option<Question>>,
    answers: Sender<Answered>,
}

impl Pool {
    /// A pool without threads yet; `limit` is at least 1. Each question's answer goes to `answers`, which has room for one
    /// from every thread.
    pub fn new(provider: Provider, limit: usize, directory: Arc<Directory>, answers: Sender<Answered>) -> Self {
        // A question for each thread, and an end for each that was there before.
        let (questions, taken) = bounded(2 * limit);
        let (started, busy, most) = (0, 0, 0);
        Pool { provider, directory, limit, started, last_start: None, busy, most, questions, taken, answers }
    }

    /// Whether a question would be taken up at once.
    pub fn has_room(&self) -> bool {
        self.busy < self.started
            || (self.busy == self.started && self.started < self.limit && self.next_start().is_none())
    }

    /// How long until one more thread may be started, where there may be more.
    pub fn next_start(&self) -> Option<Duration> {
        let last = self.last_start.filter(|_| self.started < self.limit)?;
        START_EVERY.checked_sub(last.elapsed()).filter(|left| !left.is_zero())
    }

    /// Asks, in a thread that is free or a new one. The pool [has room](Pool::has_room).
    pub fn ask(&mut self, question: Question) {
        self.ask_in(question, |name, work| super::try_spawn(name, work).map(drop));
    }

    /// The same; `start` starts a thread.
    fn ask_in(&mut self, question: Question, start: impl FnOnce(&str, Box<dyn FnOnce() + Send>) -> io::Result<()>) {
        if self.busy == self.started {
            let (provider, directory) = (self.provider, self.directory.clone());
            let (taken, answers, name) = (self.taken.clone(), self.answers.clone(), format!("fetch-{}", self.started));
            self.last_start = Some(Instant::now());
            match start(&name, Box::new(move || run(&directory, provider, &taken, &answers))) {
                Ok(()) => self.started += 1,
                // Those that are there go on.
                Err(e) => {
                    log::warn!(
                        event = "no_thread", error:% = e;
                        "no thread for another look-up: {e}; there are {}", self.started
                    );
                    self.limit = self.started.max(1);
                }
            }
        }
        self.busy += 1;
        self.most = self.most.max(self.busy);
        if self.started == 0 {
            // Nobody takes it: it is answered here, as a look-up that failed. There is room for one answer of each pool.
            let outcomes = self.directory.gave_up(self.provider, &question);
            let _ = self.answers.try_send(Answered { provider: self.provider, question, outcomes });
            return;
        }
        // Each thread that is left takes one, and we hold its other end: this neither waits for long nor fails.
        let _ = self.questions.send(Some(question));
    }

    /// One of its questions was answered.
    pub fn answered(&mut self) {
        self.busy -= 1;
    }

    /// Ends as many threads as had nothing to do since the last call: each keeps some 200 kB. One of several stays.
    pub fn rest(&mut self) {
        let most = std::mem::replace(&mut self.most, self.busy).max(1);
        while self.started > most && self.questions.try_send(None).is_ok() {
            self.started -= 1;
        }
    }
}

/// Works until nobody asks any more, or until it is told to end.
fn run(directory: &Directory, provider: Provider, questions: &Receiver<Option<Question>>, answers: &Sender<Answered>) {
    while let Ok(Some(question)) = questions.recv() {
        // A document that the program panics on takes its own look-up, and nothing else.
        let asked = catch_unwind(AssertUnwindSafe(|| directory.ask(&question)));
        let outcomes = asked.unwrap_or_else(|_| {
            log::error!(event = "panic"; "a look-up panicked: a bug, please report it");
            directory.gave_up(provider, &question)
        });
        if answers.send(Answered { provider, question, outcomes }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::enrich::Settings;
    use crate::metrics::Metrics;

    fn pool(limit: usize) -> (Pool, Receiver<Answered>) {
        let settings = Settings {
            plc: Some("https://plc.example".into()),
            api: None,
            write_documents: true,
            timeout: Duration::from_secs(3),
            required: false,
            cache: 1 << 20,
            ttl: Duration::from_secs(60),
            concurrency: limit,
            rate: 100,
            private_did_web: false,
            snapshot: None,
            client: Client::new(None),
        };
        let directory = Arc::new(Directory::new(settings, Metrics::default().enrich));
        let (answers_in, answers) = bounded(limit + 1);
        (Pool::new(Provider::Plc, limit, directory, answers_in), answers)
    }

    fn question(n: u32) -> Question {
        Question::Document(format!("did:plc:{n:024}").into())
    }

    /// A container may be at its limit of processes. Nobody may wait for ever then.
    #[test]
    fn without_a_single_thread_a_question_is_answered_as_one_that_failed() {
        let (mut pool, answers) = pool(4);
        assert!(pool.has_room());
        pool.ask_in(question(1), |_, _| Err(io::Error::from_raw_os_error(11)));
        let answered = answers.try_recv().expect("answered at once");
        assert_eq!((answered.question.accounts(), answered.outcomes.len()), (1, 1));
        assert!(answered.outcomes[0].is_none(), "nothing was found out");
        pool.answered();
        // One thread may be there later; no more are tried.
        assert_eq!((pool.limit, pool.started, pool.busy), (1, 0, 0));
        assert!(pool.has_room() || pool.next_start().is_some());
    }

    #[test]
    fn with_some_threads_no_more_are_tried_after_one_could_not_start() {
        let (mut pool, answers) = pool(4);
        // A thread that takes nothing: its question stays in the queue.
        pool.ask_in(question(1), |_, _| Ok(()));
        pool.ask_in(question(2), |_, _| Err(io::Error::from_raw_os_error(11)));
        assert_eq!((pool.limit, pool.started, pool.busy), (1, 1, 2));
        assert!(!pool.has_room() && answers.is_empty());
        assert_eq!(pool.questions.len(), 2, "both wait for the thread that is there");
    }
}
