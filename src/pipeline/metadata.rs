//! What is known of the accounts, put into a batch: it fills the holes, and takes out the records whose PDS the filter
//! does not let pass. It asks the caches and nobody else. On the worker's thread, or the enricher's for batches that
//! waited.

use std::sync::Arc;

use prometheus::IntCounter;

use super::permits::Permits;
use crate::clock;
use crate::decode::batch::{Batch, Hole};
use crate::enrich::document::Document;
use crate::enrich::{AccountData, Forget, Kind, Knowledge};
use crate::event;
use crate::filter::Filter;
use crate::metrics::Metrics;
use crate::metrics::decode::DecodeMetrics;

/// A batch whose accounts are not all known.
pub struct Unfinished {
    /// With a hole where each account's metadata is to stand.
    pub batch: Batch,
    /// One for each hole.
    pub accounts: Vec<AccountData>,
    /// At least one.
    pub missing: Vec<Missing>,
}

/// A look-up that a batch waits for.
pub struct Missing {
    /// Index of the hole.
    pub hole: usize,
    /// What is looked up.
    pub kind: Kind,
    /// What the event says about answers that are older than it.
    pub forget: Forget,
}

/// How batches get their metadata. One for each thread that does it.
#[derive(Clone)]
pub struct Metadata {
    knowledge: Arc<Knowledge>,
    filter: Filter,
    permits: Arc<Permits>,
    metrics: Arc<DecodeMetrics>,
    missing: MissingParts,
}

/// Counters of what events went on without.
#[derive(Clone)]
struct MissingParts {
    did_document: IntCounter,
    pds_host: IntCounter,
    handle: IntCounter,
    created_at: IntCounter,
    profile: IntCounter,
}

impl Metadata {
    /// For batches that `filter` has let pass so far; the memory that metadata takes comes from `permits`.
    pub fn new(knowledge: Arc<Knowledge>, filter: Filter, permits: Arc<Permits>, metrics: &Metrics) -> Self {
        let missing = MissingParts {
            did_document: metrics.enrich.metadata_missing("did_document"),
            pds_host: metrics.enrich.metadata_missing("pds_host"),
            handle: metrics.enrich.metadata_missing("handle"),
            created_at: metrics.enrich.metadata_missing("did_created_at"),
            profile: metrics.enrich.metadata_missing("profile"),
        };
        Metadata { knowledge, filter, permits, metrics: metrics.decode.clone(), missing }
    }

    /// What is known of the account of each hole, and what has to be looked up.
    pub fn look(&self, batch: &Batch) -> (Vec<AccountData>, Vec<Missing>) {
        let now = clock::now_ms();
        let mut missing = Vec::new();
        let accounts = batch.holes.iter().enumerate().map(|(index, hole)| {
            let miss = |kind| missing.push(Missing { hole: index, kind, forget: hole.forget });
            self.knowledge.look(batch.did(hole.record), hole.forget, now, miss)
        });
        (accounts.collect(), missing)
    }

    /// Fills the holes with `accounts`, one for each, and leaves out the records whose PDS the filter does not let pass.
    pub fn fill(&self, batch: &mut Batch, accounts: &[AccountData]) {
        let (added, brief) = self.room(batch, accounts);
        let old = std::mem::take(&mut batch.bytes);
        let mut filled = std::mem::take(&mut batch.holes).into_iter().zip(accounts).peekable();
        let mut new = Vec::with_capacity(old.len() + added);
        let mut index = 0;
        batch.records.retain_mut(|record| {
            let (start, end) = (record.key.start, record.value.end);
            let mut cut = start;
            let begin = new.len();
            if let Some((hole, account)) = filled.next_if(|(hole, _)| hole.record == index) {
                if self.filter.has_services() && !self.passes(account) {
                    index += 1;
                    return false;
                }
                cut = hole.at;
                new.extend_from_slice(&old[start..cut]);
                if self.writes() {
                    let did = std::str::from_utf8(&old[record.key.clone()]).unwrap_or_default();
                    self.write(&mut new, did, &hole, account, brief);
                }
            }
            index += 1;
            new.extend_from_slice(&old[cut..end]);
            // Key and collection stand before the hole, the value around it.
            for range in [&mut record.key, &mut record.collection, &mut record.value] {
                *range = range.start - start + begin..range.end - start + begin;
            }
            record.value.end = new.len();
            true
        });
        batch.bytes = new;
    }

    /// How many bytes the metadata may add to a batch, and whether documents and profiles are left out for lack of room: a
    /// thousand small ops of one account with a long document could become a hundred times their frames.
    fn room(&self, batch: &mut Batch, accounts: &[AccountData]) -> (usize, bool) {
        if !self.writes() {
            return (0, false);
        }
        let added = |brief| accounts.iter().map(|account| size(account, brief)).sum();
        let needs = batch.needs() + added(false);
        if needs > batch.cost {
            if !self.permits.grow_within(needs - batch.cost) {
                return (added(true), true);
            }
            batch.cost = needs;
        }
        (added(false), false)
    }

    /// Whether events say anything, or the filter alone wants to know.
    fn writes(&self) -> bool {
        let settings = &self.knowledge.settings;
        settings.write_documents || settings.api.is_some()
    }

    fn passes(&self, account: &AccountData) -> bool {
        let pds = account.document.as_ref().and_then(|d| d.pds.as_deref());
        if pds.is_none() {
            self.missing.pds_host.inc();
        }
        let passes = self.filter.service(pds);
        if !passes {
            self.metrics.filtered.inc();
        }
        passes
    }

    fn write(&self, out: &mut Vec<u8>, did: &str, hole: &Hole, account: &AccountData, brief: bool) {
        let settings = &self.knowledge.settings;
        let document = account.document.as_ref().filter(|_| settings.write_documents);
        let created = account.created.as_ref();
        let known = event::Metadata {
            did_document: document.filter(|_| !brief).map(|d| &d.json[..]),
            pds_host: document.and_then(|d| d.pds.as_deref()),
            handle: document.and_then(|d| d.handle.as_deref()),
            created_at: created.map(|c| &c.text[..]),
            // An event before the account's creation is one with a wrong clock.
            account_age: created.map(|c| u64::try_from((hole.time_ms - c.ms) / 1000).unwrap_or(0)),
            profile: account.profile.as_deref().filter(|_| !brief),
        };
        if settings.write_documents {
            count(&self.missing.did_document, known.did_document.is_none());
            // The filter has counted it.
            count(&self.missing.pds_host, known.pds_host.is_none() && !self.filter.has_services());
            count(&self.missing.handle, known.handle.is_none());
            count(&self.missing.created_at, known.created_at.is_none() && self.knowledge.wants(Kind::Created, did));
        }
        count(&self.missing.profile, known.profile.is_none() && settings.api.is_some());
        event::metadata(out, &known);
    }
}

fn count(counter: &IntCounter, missing: bool) {
    if missing {
        counter.inc();
    }
}

/// What an account adds to an event at most: a host and a handle have 253 characters at most.
fn size(account: &AccountData, brief: bool) -> usize {
    let parts = |d: &Document| d.pds.as_ref().map_or(0, |p| p.len()) + d.handle.as_ref().map_or(0, |h| h.len());
    let few = 160 + account.document.as_deref().map_or(0, parts) + account.created.as_ref().map_or(0, |c| c.text.len());
    let json = account.document.as_ref().map_or(0, |d| d.json.len()) + account.profile.as_ref().map_or(0, |p| p.len());
    if brief { few } else { few + json }
}
