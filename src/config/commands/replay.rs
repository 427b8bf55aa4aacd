//! `firehose replay`: its flags, and what they mean.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use super::Examples;
use crate::config::shared::values::{client, number};
use crate::config::shared::{Logging, Writing, logging, refuse, writing};
use crate::config::{Checked, Input, invalid};
use crate::source::replay::Reading;

command_flags! {
    /// Reads recordings of a firehose, as the command record writes them, and ends with them.
    #[argh(subcommand, name = "replay")]
    (writing, enriching)
    {
        /// recording to read, packed by zstd or not; may repeat, in the order of their frames; - is standard input (required)
        #[argh(option, arg_name = "file")]
        pub file: Vec<String>,
        /// frames a second (default: as many as the output takes)
        #[argh(option, arg_name = "n")]
        pub rate: Option<String>,
        /// first seq that is wanted; ignored once a position is saved (default: the first)
        #[argh(option, arg_name = "seq")]
        pub from_seq: Option<String>,
        /// last seq that is wanted (default: the last)
        #[argh(option, arg_name = "seq")]
        pub to_seq: Option<String>,
    }
}

/// `firehose replay`.
pub struct Replay {
    /// Which files, and what of them.
    pub reading: Reading,
    /// What is written, and where.
    pub writing: Writing,
    /// How is logged.
    pub logging: Logging,
}

pub(super) fn checked(f: Flags, input: &Input<'_>) -> Checked<Replay> {
    let (w, enriching) = (f.writing(), f.enriching());
    let client = client(enriching.contact.as_deref(), w.ca_file.as_deref(), &input.env.all)?;
    if f.file.is_empty() {
        return Err(invalid("--file", "", "required: a recording, or - for standard input"));
    }
    // A comma may be part of a name: the flag repeats instead.
    for (i, file) in f.file.iter().enumerate() {
        // A pipe is not opened and closed again: that would end who writes it.
        if file != "-" && !std::fs::metadata(file).is_ok_and(|found| found.file_type().is_fifo()) {
            std::fs::File::open(file).map_err(|e| invalid("--file", file, &format!("cannot be read: {e}")))?;
        }
        if f.file[..i].contains(file) {
            return Err(invalid("--file", file, "given twice"));
        }
    }
    let rate = f.rate.as_deref().map(|text| match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err(invalid("--rate", text, "frames a second, such as 500")),
    });
    let seq = |flag, text: &Option<String>| number(flag, text.as_deref(), 1..=crate::atproto::frame::SEQ_END - 1);
    let (from_seq, to_seq) = (seq("--from-seq", &f.from_seq)?.unwrap_or(1), seq("--to-seq", &f.to_seq)?);
    if to_seq.is_some_and(|to| to < from_seq) {
        return Err(invalid("--to-seq", f.to_seq.as_deref().unwrap_or_default(), "not below --from-seq"));
    }
    let writing = writing(&w, Some((&enriching, &client)), input)?;
    // A pipe gives its bytes once: there is no going on in it.
    if let Some(pipe) = f.file.iter().find(|file| !std::fs::metadata(file).is_ok_and(|found| found.is_file())) {
        refuse(
            writing.cursor_topic.as_ref(),
            &format!("{pipe} is read once, and has no position that could be stored"),
        )?;
    }
    let files = f.file.iter().map(PathBuf::from).collect();
    Ok(Replay {
        reading: Reading { files, rate: rate.transpose()?, from_seq, to_seq },
        logging: logging(w.debug, w.log_level.as_deref(), w.log_format.as_deref())?,
        writing,
    })
}

pub(super) const EXAMPLES: Examples = [
    ("A recording on standard output:", "atkafka firehose replay --file frames.bin.zst"),
    (
        "Two recordings, one behind the other, into a topic:",
        "atkafka firehose replay --file a.bin.zst --file b.bin.zst --bootstrap-servers kafka:9092 --output-topic past",
    ),
    (
        "A part of one at 500 frames a second, as on an ordinary day:",
        "atkafka firehose replay --file frames.bin --rate 500 --from-seq 1000 --to-seq 9000",
    ),
];
