//! A fetcher: asks one question at a time, and says what became of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::enrich::directory::{Desk, Directory, Outcome, Question};

/// The answer to one question.
pub struct Answered {
    pub desk: Desk,
    pub question: Question,
    /// One for each account of the question.
    pub outcomes: Vec<Outcome>,
}

/// Works until nobody asks any more, or until it is told to end.
pub fn run(directory: Arc<Directory>, desk: Desk, questions: Receiver<Option<Question>>, answers: Sender<Answered>) {
    while let Ok(Some(question)) = questions.recv() {
        // A document that the program panics on takes its own look-up, and nothing else.
        let asked = catch_unwind(AssertUnwindSafe(|| directory.ask(&question)));
        let outcomes = asked.unwrap_or_else(|_| {
            log::error!(event = "panic"; "a look-up panicked: a bug, please report it");
            directory.gave_up(desk, &question)
        });
        if answers.send(Answered { desk, question, outcomes }).is_err() {
            return;
        }
    }
}
