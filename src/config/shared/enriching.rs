//! What is looked up of the accounts behind the events of the firehose.

use std::path::Path;
use std::time::Duration;

use super::flags::Enriching;
use super::values::{duration, list, number, service_url, size};

use crate::client::Client;
use crate::config::{Checked, Input, invalid};
use crate::enrich::Settings;

/// Where documents come from when only a filter of services needs them.
const DEFAULT_PLC: &str = "https://plc.directory";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_CACHE: usize = 256 << 20;
const LEAST_CACHE: usize = 1 << 20;
/// What a number without a unit takes for each account: document, creation and profile have 2 to 3 kB on the network.
const ACCOUNT: usize = 4 << 10;
// A cold start at 2,000 events/s asks 4,000 times a second, twice for each account: with 50 ms each that is 200 at once.
const DEFAULT_CONCURRENCY: u64 = 256;
const DEFAULT_RATE: u64 = 5_000;

/// Flags that mean nothing where nothing is looked up.
pub(super) const LOOK_UPS_ONLY: &[&str] = &[
    "--metadata-timeout",
    "--metadata-required",
    "--metadata-cache",
    "--metadata-ttl",
    "--metadata-snapshot",
    "--lookup-concurrency",
    "--lookup-rate",
    "--allow-private-did-web",
];

/// Whether anything is looked up.
pub(super) fn looks_up(input: &Input<'_>) -> bool {
    ["--plc-host", "--api-host", "--watched-services", "--ignored-services"].iter().any(|flag| input.has(flag))
}

/// `None`: nothing is looked up.
pub(super) fn settings(
    f: &Enriching,
    state_dir: Option<&Path>,
    client: &Client,
    input: &Input<'_>,
) -> Checked<Option<Settings>> {
    let has_services = !list(&f.watched_services).is_empty() || !list(&f.ignored_services).is_empty();
    if !has_services && f.unresolved_services.is_some() {
        return Err(invalid("--unresolved-services", "", "goes with --watched-services or --ignored-services"));
    }
    if f.plc_host.is_none() && f.api_host.is_none() && !has_services {
        return match LOOK_UPS_ONLY.iter().find(|flag| input.has(flag)) {
            Some(flag) => Err(invalid(flag, "", "needs --plc-host, --api-host or a list of services")),
            None => Ok(None),
        };
    }
    let span = |flag, text: &Option<String>, range: std::ops::RangeInclusive<Duration>, what: &str, default| match text
    {
        None => Ok(default),
        Some(text) => duration(text).filter(|d| range.contains(d)).ok_or_else(|| invalid(flag, text, what)),
    };
    let minute = Duration::from_secs(60);
    let snapshot = match (f.metadata_snapshot, state_dir) {
        (false, _) => None,
        (true, Some(dir)) => Some(dir.join("metadata.jsonl.zst")),
        (true, None) => return Err(invalid("--metadata-snapshot", "", "needs --state-dir")),
    };
    let url = |flag, text: &Option<String>| text.as_deref().map(|url| service_url(flag, url)).transpose();
    let plc = url("--plc-host", &f.plc_host)?;
    let count = |flag, text: &Option<String>, range, default| {
        number(flag, text.as_deref(), range).map(|n| n.unwrap_or(default) as usize)
    };
    Ok(Some(Settings {
        write_documents: plc.is_some(),
        plc: plc.or_else(|| has_services.then(|| DEFAULT_PLC.to_string())),
        api: url("--api-host", &f.api_host)?,
        timeout: span(
            "--metadata-timeout",
            &f.metadata_timeout,
            Duration::ZERO..=minute,
            "from 0s to 1m, such as 500ms or 3s",
            DEFAULT_TIMEOUT,
        )?,
        required: f.metadata_required,
        cache: cache(f.metadata_cache.as_deref())?,
        ttl: span(
            "--metadata-ttl",
            &f.metadata_ttl,
            Duration::from_secs(1)..=minute * 60 * 24 * 365,
            "from 1s to a year in hours, such as 10m or 24h",
            DEFAULT_TTL,
        )?,
        concurrency: count("--lookup-concurrency", &f.lookup_concurrency, 1..=1_000, DEFAULT_CONCURRENCY)?,
        rate: count("--lookup-rate", &f.lookup_rate, 1..=1_000_000, DEFAULT_RATE)? as u32,
        private_did_web: f.allow_private_did_web,
        snapshot,
        client: client.clone(),
    }))
}

/// Bytes of the caches, from a size or, without a unit, from a number of accounts.
fn cache(text: Option<&str>) -> Checked<usize> {
    let Some(text) = text else { return Ok(DEFAULT_CACHE) };
    let bytes = match text.parse::<u64>() {
        Ok(accounts) => (1..=100_000_000).contains(&accounts).then_some(accounts as usize * ACCOUNT),
        Err(_) => size(text).filter(|bytes| *bytes >= LEAST_CACHE),
    };
    let allowed = "at least 1MiB, with MB, MiB, GB or GiB, or accounts of 4 KiB each from 1 to 100000000";
    bytes.ok_or_else(|| invalid("--metadata-cache", text, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caches_have_bytes_or_accounts() {
        let bytes = |text| cache(Some(text)).ok();
        assert_eq!(cache(None).ok(), Some(256 << 20));
        assert_eq!((bytes("64MiB"), bytes("1gb"), bytes("1MiB")), (Some(64 << 20), Some(1_000_000_000), Some(1 << 20)));
        assert_eq!((bytes("1"), bytes("200000")), (Some(4096), Some(200_000 * 4096)));
        for wrong in ["", "0", "0MiB", "1000kB", "-1", "1.5GiB", "many", "100000001", "99999999999999999999GiB"] {
            assert!(cache(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
