//! What is needed of this machine: the state directory with its locks and its room, and the port of the metrics. It makes
//! no file. On a thread of the check.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{HOSTS, Out};
use crate::checkpoint::file::Stored;
use crate::checkpoint::look::{self, Directory};
use crate::http;

/// Bytes that the next saves need at least: each writes a new file before the old one goes.
const NEEDED: u64 = 1 << 20;
/// Below that somebody should look.
const LITTLE: u64 = 64 << 20;

/// The directory of the positions, and the position of each of `hosts` into `output`.
pub fn state<T: Stored>(dir: Option<PathBuf>, kind: &str, hosts: &[String], output: &str, out: &Out) {
    let Some(dir) = dir else {
        return out.ok("state", "positions are not kept: each start begins anew (--state-dir keeps them)");
    };
    let found = match look::directory(&dir) {
        Ok(found) => found,
        Err(why) => return out.failed("state", why),
    };
    let shown = dir.display();
    let place = match found.exists {
        true => format!("--state-dir {shown} can be written"),
        false => format!("--state-dir {shown} is absent and will be created"),
    };
    match found {
        Directory { no_inode: true, .. } => {
            return out.failed(
                "state",
                format!("--state-dir {shown}: no file can be made there (no inode is free): delete some"),
            );
        }
        Directory { free: Some(free), .. } if free < NEEDED => {
            let text = format!("--state-dir {shown}: {} KiB are free: make room on its volume", free >> 10);
            return out.failed("state", text);
        }
        Directory { free: Some(free), .. } if free < LITTLE => {
            out.warning("state", format!("{place}; only {} MiB are free on its volume", free >> 20));
        }
        Directory { free: Some(free), .. } => out.ok("state", format!("{place}; {} are free", size(free))),
        Directory { free: None, .. } => out.ok("state", place),
    }
    let mut well = Vec::new();
    for host in hosts {
        match look::position::<T>(&dir, kind, host, output) {
            Ok(saved) => well.push((host, saved.position)),
            Err(why) => out.failed("position", why),
        }
    }
    if well.len() > HOSTS {
        let saved = well.iter().filter(|(_, position)| position.is_some()).count();
        return out.ok("position", format!("of {} hosts {saved} have one, and nobody has the locks", well.len()));
    }
    for (host, position) in well {
        match position {
            Some((_, at)) => out.ok("position", format!("{host}: goes on from what was saved at {at}")),
            None => out.ok("position", format!("{host}: none is saved yet, and nobody has the lock")),
        }
    }
}

pub fn port(address: SocketAddr, out: &Out) {
    match http::bind(address) {
        Ok(_) => out.ok("metrics", format!("the port {address} is free")),
        Err(why) => out.failed("metrics", why),
    }
}

/// Bytes as people write them.
pub fn size(bytes: u64) -> String {
    match bytes {
        0x1000_0000_0000.. => format!("{} TiB", bytes >> 40),
        0x1_0000_0000.. => format!("{} GiB", bytes >> 30),
        _ => format!("{} MiB", bytes >> 20),
    }
}
