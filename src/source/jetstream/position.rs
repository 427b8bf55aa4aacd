//! What a restart goes on from. The reader makes it, the state file keeps it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::overlap::Window;
use crate::atproto::frame::SEQ_END;
use crate::checkpoint::State;
use crate::checkpoint::file::Stored;

/// Where the reading of a Jetstream stands. A host may be read on one wire today and on the other tomorrow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JetstreamPosition {
    /// Version 2: the last seq that was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The newest time, in microseconds since 1970; 0 when unknown.
    pub time_us: u64,
    /// Version 1: the events of the overlap that were delivered, times and ids.
    #[serde(default)]
    pub window: Arc<Window>,
}

impl State for JetstreamPosition {
    fn json(&self, _: i64) -> Result<String, String> {
        sonic_rs::to_string(self).map_err(|e| e.to_string())
    }

    fn bytes(&self) -> usize {
        self.window.len() * size_of::<(u64, u64)>()
    }
}

impl Stored for JetstreamPosition {
    fn check(&self) -> Result<(), String> {
        match self.seq {
            Some(seq) if seq >= SEQ_END => Err(format!("seq {seq} is above 2^53")),
            _ if self.time_us >= SEQ_END => Err(format!("time_us {} is no time", self.time_us)),
            _ => Ok(()),
        }
    }
}
