//! An Ozone, through the PDS of a moderator's account: the connection, a session, a page of events, and the role. The
//! session is deleted again. On the thread of the check that has the source.

use super::{Out, host};
use crate::metrics::Metrics;
use crate::source::Host;
use crate::source::diagnosis::Meant;
use crate::source::ozone_session::{Account, Failure, Session};

pub fn check(account: Account, out: &Out) {
    let Some(pds) = address(&account) else {
        return out.failed("PDS", format!("{}: no address: is --pds-host right?", account.pds));
    };
    if host::connect(&pds, Meant::Pds, out).is_none() {
        return;
    }
    let (identifier, labeler) = (account.identifier.clone(), account.labeler_did.clone());
    let mut session = Session::new(account, Metrics::default().source);
    let why = |failure: Failure| match failure {
        Failure::Ever(reason) | Failure::Later { reason, .. } => reason,
    };
    match session.log_in() {
        Ok(()) => out.ok("login", format!("{} gives {identifier} a session", pds.name)),
        Err(failure) => return out.failed("login", why(failure)),
    }
    match session.page(None, None) {
        Ok(_) => {
            out.ok("events", format!("{identifier} may read the events of {labeler}"));
            match session.role() {
                Some(role) => out.ok("role", format!("{identifier} is in the team as {role}")),
                None => out.not_checked("role", "Ozone does not say which one; reading events is allowed"),
            }
        }
        Err(failure) => out.failed("events", why(failure)),
    }
    match session.log_out() {
        Ok(()) => out.ok("logout", "the session is deleted again"),
        Err(why) => out.warning("logout", format!("{why}; the session of this check goes on until it expires")),
    }
}

/// The host of an account's PDS.
fn address(account: &Account) -> Option<Host> {
    let (scheme, authority) = account.pds.split_once("://")?;
    let uri: ureq::http::Uri = account.pds.parse().ok()?;
    let tls = scheme == "https";
    Some(Host {
        tls,
        host: uri.host()?.to_string(),
        port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        name: authority.to_string(),
        prefix: String::new(),
        client: account.client.clone(),
        authorization: None,
    })
}
