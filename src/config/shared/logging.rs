//! How much is logged, and in which form.

use log::LevelFilter;

use super::values::one_of;
use crate::config::Checked;

/// How is logged.
#[derive(Debug, Clone, Copy)]
pub struct Logging {
    /// Lines of lower levels are left out.
    pub level: LevelFilter,
    /// Whether lines are JSON.
    pub json: bool,
}

pub(crate) fn logging(debug: bool, level: Option<&str>, format: Option<&str>) -> Checked<Logging> {
    let levels = [
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
    ];
    let level = one_of("--log-level", level, &levels)?;
    let json = one_of("--log-format", format, &[("text", false), ("json", true)])?.unwrap_or(false);
    Ok(Logging { level: if debug { LevelFilter::Debug } else { level.unwrap_or(LevelFilter::Info) }, json })
}
