//! Parse, run, exit code: 0 stopped as asked, 1 failed, 2 wrong usage or settings, 130 ended by a second signal. It alone
//! reads arguments and the environment, and ends the process. `commands` has a function for each command, which pairs readers
//! with decoders; `run` has what all commands that write events share. The main thread waits in them for the end.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write;
use std::process::ExitCode;

use atkafka::config::{self, Command};
use atkafka::http;
use atkafka::pipeline::permits::Failed;

// Beside this file would be the library's modules.
#[path = "main/commands.rs"]
mod commands;
#[path = "main/run.rs"]
mod run;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why the process ends with something else than 0.
enum Failure {
    /// It has been said already what is wrong.
    Found,
    Usage(String),
    Run(String),
    /// What is set cannot work, as a server said: as for wrong usage, a new start makes nothing right.
    Settings(String),
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Failure {
        match failed {
            Failed::Run(reason) => Failure::Run(reason),
            Failed::Settings(reason) => Failure::Settings(reason),
        }
    }
}

fn main() -> ExitCode {
    // A kernel may give huge pages that nobody asked for: each of the many threads then keeps 2 MiB where it uses some
    // kilobytes. Before there are threads and memory to speak of; one that cannot do it only costs that memory.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    log_panics();
    let code = ended(run());
    atkafka::log::finish();
    code
}

fn ended(outcome: Result<(), Failure>) -> ExitCode {
    // The reason of a failure is the last line: what was held back comes before it.
    log::logger().flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Found) => ExitCode::from(1),
        Err(Failure::Usage(message)) => {
            atkafka::log::say(&format!("atkafka: {message}"));
            ExitCode::from(2)
        }
        Err(Failure::Settings(message)) => {
            log::error!(event = "failed", error = message; "{message}");
            ExitCode::from(2)
        }
        Err(Failure::Run(message)) => {
            // The logger is there by now; without one this says nothing, so both.
            if log::max_level() == log::LevelFilter::Off {
                atkafka::log::say(&format!("atkafka: {message}"));
            } else {
                log::error!(event = "failed", error = message; "{message}");
            }
            ExitCode::from(1)
        }
    }
}

fn run() -> Result<(), Failure> {
    // Lossy: a variable that is not UTF-8 is none of ours.
    let own = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let args: Result<Vec<String>, _> = std::env::args_os().skip(1).map(|a| a.into_string()).collect();
    let args = args.map_err(|a| Failure::Usage(format!("{a:?}: not UTF-8")))?;
    let command = config::environment(own)
        .and_then(|env| config::command(&args, &env))
        .map_err(|e| Failure::Usage(e.to_string()))?;
    match command {
        Command::Print(text) => {
            // A closed pipe (`| head`) is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
        Command::Relay(relay) => commands::firehose_relay(relay),
        Command::Tap(tap) => commands::firehose_tap(tap),
        Command::Jetstream(jetstream) => commands::firehose_jetstream(jetstream),
        Command::Replay(replay) => commands::firehose_replay(replay),
        Command::Ozone(ozone) => commands::ozone_events(ozone),
        Command::Record(options) => commands::record_frames(options),
        Command::Check(check) => commands::check_settings(*check),
        Command::Cursor(cursor) => commands::change_cursors(*cursor),
        Command::Healthcheck(path, address) => http::ask(address, path).map_err(Failure::Run),
    }
}

/// A panic is an entry of the log as others are: its text may hold what came over the network.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let entry = format!("thread {} panicked at {place}: {text}", thread.name().unwrap_or("?"));
        if log::max_level() == log::LevelFilter::Off {
            atkafka::log::say(&entry);
        } else {
            log::error!(event = "panic"; "{entry}");
        }
        // For whoever sets RUST_BACKTRACE.
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            eprintln!("{backtrace}");
        }
    }));
}
