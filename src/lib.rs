//! AT Protocol events to Kafka: nothing lost, in order.
//!
//! The way of an event:
//!
//! ```text
//!     relay socket -- reader --+                       +-- producer -- Sink -- broker
//!     (one a connection)       +- queue -- worker x W -+     |  ^
//!                                           |          |     |  +-- tracker -- frontier -- checkpoint
//!                                           |          |     +-- sequencer
//!                                           +- enricher+
//!                                             |      ^
//!                                             fetcher x F        (only with enrichment, for accounts not in the caches)
//! ```
//!
//! A [reader](source) looks at a message's kind and seq, takes a [permit](pipeline::permits) and hands frames over as a job
//! with the next ordinal. Any [worker](pipeline::worker) takes any job: the source's [decoder](decode) decodes, verifies,
//! filters and encodes, and gives one batch with the same ordinal. With [enrichment](enrich), a batch of unknown accounts waits
//! at the [enricher](pipeline::enricher) for their look-ups, or the deadline. The [producer](pipeline::producer) puts batches
//! back [in order](pipeline::sequencer), gives the records to the [sink], and moves the [frontier](pipeline::tracker) past each
//! batch that is acknowledged whole. The [checkpoint] saves the frontier, and the permits come back. So the cursor never
//! passes an event that the broker has not acknowledged, every partition is in upstream order, and memory is bounded.
//! `docs/design.md` says more, and which tests hold what must always be true.
//!
//! Modules, in the order of dependence: each uses only those above it (`tests/tidy.rs` holds it so).

#![warn(missing_docs)]
// The library is for this program and its tests: who reads its documentation works on it.
#![allow(rustdoc::private_intra_doc_links)]

pub mod clock;
pub mod atproto;
pub mod event;
pub mod filter;
pub mod route;
pub mod dead_letter;
pub mod log;
pub mod metrics;
pub mod health;
pub mod client;
pub mod checkpoint;
pub mod enrich;
pub mod source;
pub mod sink;
pub mod decode;
pub mod pipeline;
pub mod http;
pub mod record;
pub mod systemd;
pub mod report;
pub mod config;
pub mod check;
pub mod cursors;
