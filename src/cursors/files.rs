//! Positions in state files. A file is changed only under its lock.

use std::path::Path;

use super::position::{self, Position};
use super::{Change, Failed, Found, Place, changed};
use crate::checkpoint::file::{StateFile, Stored};
use crate::checkpoint::look::{self, Text};
use crate::checkpoint::topic::Key;
use crate::checkpoint::{OzonePosition, SeqPosition};
use crate::config::{Chosen, SOURCES};
use crate::source::jetstream::JetstreamPosition;

/// Those of a directory that are chosen.
pub fn all(dir: &Path, chosen: &Chosen) -> Result<Vec<Found>, String> {
    let mut all = Vec::new();
    look::each(dir, &SOURCES, &mut |text| {
        let found = found(text);
        if chosen.takes(&found.key) {
            all.push(found);
        }
    })?;
    Ok(all)
}

fn found(file: Text) -> Found {
    let read = file.text.as_ref().map_err(String::clone).and_then(|text| position::read(&file.kind, text));
    let (named, position) = match read {
        Ok((host, output, position)) if file.is_of(&host, &output) => (Some((host, output)), Ok(position)),
        Ok((host, output, _)) => (None, Err(format!("is that of {host} into {output}: was it copied or renamed?"))),
        Err(why) => (None, Err(why)),
    };
    let path = file.path.display().to_string();
    // Of a name that was cut nothing more is known.
    let (host, output) = named.or(file.of).unwrap_or((path.clone(), String::new()));
    let key = Key { source: file.kind, host, output, instance: String::new() };
    Found { key, position, place: Place::File { path, in_use: file.in_use } }
}

pub fn change(dir: &Path, found: &Found, change: &Change, print: &mut dyn FnMut(&str)) -> Result<(), Failed> {
    let Key { source, host, output, instance } = &found.key;
    if !instance.is_empty() {
        return Err(Failed::Usage("--instance-id: positions in files are of no instance".into()));
    }
    if look::is_in_use(dir, source, host, output) {
        return Err(Failed::Run(format!(
            "the position of {} is in use: an atkafka that runs has it; stop that first",
            found.key
        )));
    }
    let Change::Set(to) = change else {
        StateFile::delete(dir, source, host, output).map_err(Failed::Run)?;
        changed(&found.key, &found.position, None, print);
        return Ok(());
    };
    let state = position::made(&found.key, *to).map_err(Failed::Usage)?;
    if !dir.is_dir() {
        return Err(Failed::Run(format!("--state-dir {}: there is no such directory", dir.display())));
    }
    let mut file = match source.as_str() {
        "ozone" => open::<OzonePosition>(dir, found),
        "jetstream" => open::<JetstreamPosition>(dir, found),
        _ => open::<SeqPosition>(dir, found),
    }?;
    // A time of events is not known: it belongs to what was read.
    file.save(state.as_ref(), 0).map_err(|e| Failed::Run(format!("{}: {e}", file.path().display())))?;
    let after = look::position_text(file.path()).and_then(|text| position::read(source, &text));
    let (_, _, after) = after.map_err(|why| Failed::Run(format!("{}: {why}", file.path().display())))?;
    let before = found.position.as_ref().map_or(Ok(Position::default()), |position| Ok(position.clone()));
    changed(&found.key, &before, Some(&after), print);
    Ok(())
}

fn open<T: Stored>(dir: &Path, found: &Found) -> Result<StateFile, Failed> {
    let Key { source, host, output, .. } = &found.key;
    StateFile::open::<T>(dir, source, host, output).map(|(file, _)| file).map_err(Failed::Run)
}
