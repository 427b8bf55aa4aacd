//! Formats of the AT Protocol: bytes in, borrowed values out, and JSON in both directions. It owns every parser of what
//! comes from the network, and must not know what becomes of a value. Pure: no I/O, no clock, no state, so that any
//! thread may call it; on the path of events the workers do.

pub mod car;
pub mod cbor;
pub mod cid;
pub mod frame;
pub mod jetstream;
pub mod json;
pub mod json_input;
pub mod json_output;
pub mod ozone;
pub mod tap;
pub mod tid;
pub mod time;
