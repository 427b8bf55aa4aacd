//! Bytes of the AT Protocol to borrowed values. Pure: no I/O, no clock, no state.

pub mod car;
pub mod cbor;
pub mod cid;
pub mod frame;
pub mod json;
pub mod json_input;
pub mod json_output;
pub mod ozone;
pub mod tap;
pub mod tid;
pub mod time;
