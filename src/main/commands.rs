//! A function for each command: it pairs the command's readers with their decoder and a saved position each, and runs them.
//! It knows the sources by name; what every command that writes events needs is made in `run`. The main thread runs it; what
//! `read` holds runs on a reader's thread.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use atkafka::checkpoint::acks::AckQueue;
use atkafka::checkpoint::{OzonePosition, SeqPosition};
use atkafka::config;
use atkafka::decode;
use atkafka::health::Health;
use atkafka::metrics::Metrics;
use atkafka::pipeline::checkpointer::Keep;
use atkafka::pipeline::saved::Saved;
use atkafka::pipeline::{self, Source};
use atkafka::source::Start;
use atkafka::source::jetstream::dictionary::Dictionary;
use atkafka::source::jetstream::{Jetstream, JetstreamPosition};
use atkafka::source::job::Stopped;
use atkafka::source::ozone::Ozone;
use atkafka::source::recording;
use atkafka::source::relay::Relay;
use atkafka::source::replay::{Progress, Replay};
use atkafka::source::tap::{self, Tap};
use atkafka::{check, cursors, record, report};

use crate::Failure;
use crate::run::{Run, TICK, room_for_connections, stop_flag};

/// Exit code 1 where a line says that something failed; a warning is none.
pub(crate) fn check_settings(check: config::Check) -> Result<(), Failure> {
    let (json, stdout) = (check.json, std::io::stdout());
    let columns = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|c| *c > 0);
    // As they are found: a slow host is waited for. A closed pipe (`| head`) is no failure.
    let print = |text: String| drop(stdout.lock().write_all(text.as_bytes()));
    let tally = check::run(check, &mut |finding| {
        print(if json { check::json(finding) } else { check::text(finding, columns) });
    });
    if !json {
        print(check::summary(tally));
    }
    if tally.failed == 0 { Ok(()) } else { Err(Failure::Found) }
}

/// Shows or changes saved positions.
pub(crate) fn change_cursors(cursor: config::Cursor) -> Result<(), Failure> {
    let stdout = std::io::stdout();
    // A closed pipe (`| head`) is no failure. What is said before a change is seen before it.
    let mut print = |text: &str| {
        let mut stdout = stdout.lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    };
    cursors::run(cursor, &mut print).map_err(|failed| match failed {
        cursors::Failed::Usage(why) => Failure::Usage(why),
        cursors::Failed::Run(why) => Failure::Run(why),
    })
}

pub(crate) fn firehose_relay(relay: config::Relay) -> Result<(), Failure> {
    Run::new(relay.logging)?.go(relay.writing, |run, writing, output| {
        if relay.is_many {
            run.health.expect_many();
            room_for_connections(relay.hosts.len());
        }
        let (mut sources, mut resumed) = (Vec::new(), 0);
        for (index, host) in relay.hosts.into_iter().enumerate() {
            let (keep, saved) = run.position::<SeqPosition>(writing, "relay", &host.name, output)?;
            host.client.announce(&host.url(""));
            resumed += usize::from(matches!(saved, Saved::Known(Some(_))));
            let level = run.of_a_host();
            let name = host.name.clone();
            let (start, silence, linger) = (relay.start, relay.silence, relay.linger);
            let (metrics, health) = (run.metrics.source.clone(), run.health.clone());
            let read = Box::new(move |intake| {
                let Ok(saved) = going_on(level, &host.name, saved) else { return };
                if saved.is_some() && start != Start::Live {
                    log::log!(
                        if level == log::Level::Info { log::Level::Warn } else { level },
                        event = "position", host = host.name;
                        "{}: --cursor is not used, since a position is saved; atkafka cursor delete deletes it",
                        host.name
                    );
                }
                Relay::new(host, index, start, saved, intake, metrics, health).silence(silence).linger(linger).run()
            });
            sources.push(Source { name, keep, is_live: true, decode: decode::relay::message, read });
        }
        if relay.is_many {
            log::info!(
                event = "position";
                "{} hosts, {resumed} of them with a saved position; what is said of each at its start is logged with --debug",
                sources.len()
            );
        }
        Ok(sources)
    })
}

pub(crate) fn firehose_tap(tap: config::Tap) -> Result<(), Failure> {
    Run::new(tap.logging)?.go(tap.writing, |run, _, _| {
        tap.host.client.announce(&tap.host.url(""));
        match tap::check(&tap.host) {
            Ok(()) => log::info!(event = "connected", host = tap.host.name; "{}: /health is ok", tap.host.name),
            // The first connection says so too, and where it stands.
            Err(e) => log::debug!("{e}; connecting all the same"),
        }
        let mut sources = Vec::new();
        for index in 0..tap.connections {
            let name = if tap.connections == 1 { tap.host.name.clone() } else { format!("{}#{index}", tap.host.name) };
            let acks = match tap.acks {
                true => Some(Arc::new(AckQueue::new().map_err(|e| Failure::Run(e.to_string()))?)),
                false => None,
            };
            let keep = acks.clone().map_or(Keep::Nowhere, Keep::Acks);
            let (host, called, metrics, health) =
                (tap.host.clone(), name.clone(), run.metrics.source.clone(), run.health.clone());
            let read = Box::new(move |intake| {
                Tap::new(host, &called, index, acks, intake, metrics, health).linger(tap.linger).run()
            });
            sources.push(Source { name, keep, is_live: true, decode: decode::tap::message, read });
        }
        Ok(sources)
    })
}

pub(crate) fn firehose_jetstream(jetstream: config::Jetstream) -> Result<(), Failure> {
    Run::new(jetstream.logging)?.go(jetstream.writing, |run, writing, output| {
        let host = jetstream.host;
        let (keep, saved) = run.position::<JetstreamPosition>(writing, "jetstream", &host.name, output)?;
        host.client.announce(&host.url(""));
        let name = host.name.clone();
        let dictionary = Dictionary::new(writing.state_dir.as_deref(), &name);
        let (metrics, health) = (run.metrics.source.clone(), run.health.clone());
        let read = Box::new(move |intake| {
            let Ok(saved) = saved.wait() else { return };
            if let Some(position) = &saved {
                let at = atkafka::atproto::time::format_ms((position.time_us / 1_000) as i64);
                log::info!(event = "position", host = host.name; "{}: going on from {at}", host.name);
                if jetstream.reading.start != Start::Live {
                    log::warn!(
                        event = "position", host = host.name;
                        "{}: --cursor is not used, since a position is saved; atkafka cursor delete deletes it", host.name
                    );
                }
            }
            Jetstream::new(host, 0, jetstream.reading, dictionary, saved, intake, metrics, health).run()
        });
        Ok(vec![Source { name, keep, is_live: true, decode: decode::jetstream::message, read }])
    })
}

pub(crate) fn firehose_replay(replay: config::Replay) -> Result<(), Failure> {
    let progress = Arc::new(Progress::default());
    let (told, extent) = (progress.clone(), progress.extent.clone());
    Run::new(replay.logging)?.with_an_end(extent).go(replay.writing, |run, writing, output| {
        let reading = replay.reading;
        // A pipe gives its bytes once: there is no going on in it.
        let is_file = |file: &PathBuf| std::fs::metadata(file).is_ok_and(|found| found.is_file());
        let (name, keep, saved) = match reading.files.iter().all(is_file) {
            false => ("stdin".to_string(), Keep::Nowhere, Saved::Known(None)),
            true => {
                let first = reading.files[0].canonicalize().map_err(|e| Failure::Run(format!("--file: {e}")))?;
                let seq = recording::first_seq(&first, &run.stop).map_err(Failure::Run)?.unwrap_or(0);
                let name = format!("{}#{seq}", first.display());
                let (keep, saved) = run.position::<SeqPosition>(writing, "replay", &name, output)?;
                (name, keep, saved)
            }
        };
        let (called, metrics, health) = (name.clone(), run.metrics.source.clone(), run.health.clone());
        let read = Box::new(move |intake| {
            let Ok(saved) = going_on(log::Level::Info, &called, saved) else { return };
            Replay::new(&called, reading, saved, intake, told, metrics, health).run();
        });
        Ok(vec![Source { name, keep, is_live: false, decode: decode::relay::message, read }])
    })?;
    if let Some(why) = progress.failure() {
        return Err(Failure::Run(why.into()));
    }
    match progress.frames.load(Ordering::Relaxed) {
        0 if progress.done.load(Ordering::Relaxed) && !progress.resumed.load(Ordering::Relaxed) => {
            log::info!(event = "end"; "the files have no frame that is wanted{}", progress.seqs());
        }
        0 if progress.done.load(Ordering::Relaxed) => {
            log::info!(event = "end"; "nothing left: everything that is wanted was delivered before")
        }
        frames => log::info!(event = "end"; "{frames} frames replayed"),
    }
    Ok(())
}

pub(crate) fn ozone_events(ozone: config::Ozone) -> Result<(), Failure> {
    Run::new(ozone.logging)?.go(ozone.writing, |run, writing, output| {
        // Ids are serials of one Ozone: each labeler has a position of its own.
        let from = format!("{}+{}", ozone.name, ozone.account.labeler_did);
        let (keep, saved) = run.position::<OzonePosition>(writing, "ozone", &from, output)?;
        ozone.account.client.announce(&ozone.account.pds);
        let name = ozone.name.clone();
        let (metrics, health) = (run.metrics.source.clone(), run.health.clone());
        let read = Box::new(move |intake| {
            let Ok(saved) = saved.wait() else { return };
            if let Some(position) = &saved {
                log::info!(
                    event = "position", host = ozone.name;
                    "{}: going on from {}", ozone.name, atkafka::atproto::time::format_ms(position.high_water_ms)
                );
            }
            Ozone::new(ozone.account, &ozone.name, 0, ozone.reading, saved, intake, metrics, health).run()
        });
        Ok(vec![Source { name, keep, is_live: true, decode: decode::ozone::message, read }])
    })
}

pub(crate) fn record_frames(options: config::Record) -> Result<(), Failure> {
    atkafka::log::start(options.logging.level, options.logging.json);
    let stop = stop_flag()?;
    let (metrics, health) = (Arc::new(Metrics::default()), Arc::new(Health::default()));
    health.add_source(&options.host.name, true);
    let (recorder, recording, last) =
        record::new(&options.output, options.existing, options.frames, stop.clone()).map_err(Failure::Run)?;
    if let Some(seq) = last {
        log::info!(event = "position", seq = seq; "{}: going on behind its last seq {seq}", options.output.display());
    }
    options.host.client.announce(&options.host.url(""));
    let relay = Relay::new(options.host, 0, options.start, last, recorder, metrics.source.clone(), health);
    let on_terminal = atkafka::log::status::on_terminal(options.logging.json);
    let reader = pipeline::spawn("reader-0", move || relay.run());
    let mut progress = report::Progress::new(recording.extent(), on_terminal);
    while !reader.is_finished() {
        std::thread::park_timeout(TICK);
        atkafka::log::settle();
        progress.tick();
    }
    let _ = reader.join();
    let (frames, bytes) =
        recording.finish().map_err(|e| Failure::Run(format!("--output {}: {e}", options.output.display())))?;
    log::info!(
        event = "end", path:% = options.output.display();
        "{frames} frames, {bytes} bytes, in {}", options.output.display()
    );
    Ok(())
}

/// The saved seq of a host, once it is known, and the line about it.
fn going_on(level: log::Level, host: &str, saved: Saved<SeqPosition>) -> Result<Option<u64>, Stopped> {
    let saved = saved.wait()?.map(|position| position.seq);
    if let Some(seq) = saved {
        log::log!(level, event = "position", host = host, seq = seq; "{host}: going on behind the saved seq {seq}");
    }
    Ok(saved)
}
