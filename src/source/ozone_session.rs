//! A session at a PDS, and through it Ozone's `queryEvents`. It owns the tokens, and decides what an error means for the
//! reader; it knows no event. On the reader's thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::diagnosis::{self, Answer, Found, Meant, XrpcError};
use crate::atproto::json_input::{self, SHALLOW};
use crate::atproto::ozone::PAGE;
use crate::client::{self, Client};
use crate::clock;
use crate::metrics::source::SourceMetrics;

/// One request, to its last byte.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A page of 100 events was 60 kB (measured). Ozone takes events of up to 100 kB, so that a page has 10 MB at most.
const MAX_ANSWER: u64 = 12 << 20;
/// Answers without events: tokens, errors, and what `GET /` gives.
const MAX_SMALL: u64 = 1 << 20;
/// A token is renewed so long before it expires, or when half its life is over.
const EARLY: Duration = Duration::from_secs(60);
/// A clock that differs from the server's by more is wrong.
const CLOCK_OFF: i64 = 60_000;
/// After a 429 that does not say how long to wait. A PDS counts in windows of five minutes.
const UNSAID_WAIT: Duration = Duration::from_secs(30);
/// Between two logins at least: a PDS allows 30 in five minutes and 300 a day (successes included).
const LOGIN_EVERY: Duration = Duration::from_secs(30);

/// Whom to log in as, and where.
#[derive(Clone)]
pub struct Account {
    /// `https://pds.example.com`, without a slash at the end.
    pub pds: String,
    /// A handle, a DID or an e-mail address.
    pub identifier: String,
    /// The account's password or an app password. No log shows it.
    pub password: String,
    /// The DID of the Ozone that is asked through the PDS.
    pub labeler_did: String,
    /// How the PDS is spoken to.
    pub client: Client,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nothing but a change by people mends it.
    Ever(String),
    /// Again, after at least so long.
    Later {
        /// One line.
        reason: String,
        /// What the server asks for.
        wait: Option<Duration>,
    },
}

fn again(reason: impl Into<String>) -> Failure {
    Failure::Later { reason: reason.into(), wait: None }
}

#[derive(Deserialize)]
pub(super) struct Tokens {
    #[serde(rename = "accessJwt")]
    pub access: String,
    #[serde(rename = "refreshJwt")]
    pub refresh: String,
}

/// Tokens, and when they are to be renewed.
pub(super) struct Held {
    pub tokens: Tokens,
    renew_at: Option<Instant>,
}

#[derive(Serialize)]
struct Login<'a> {
    identifier: &'a str,
    password: &'a str,
}

/// A login at a PDS, renewed as it is needed.
pub struct Session {
    pub(super) account: Account,
    pub(super) agent: ureq::Agent,
    metrics: Arc<SourceMetrics>,
    pub(super) tokens: Option<Held>,
    /// These tokens and those before them.
    given: Vec<String>,
    last_login: Option<Instant>,
    /// Whether there was a page: then the settings are right.
    answered: bool,
    /// The server's clock at the last answer, in milliseconds since 1970, where it says it.
    server_ms: Option<i64>,
}

impl Session {
    /// Not logged in yet.
    pub fn new(account: Account, metrics: Arc<SourceMetrics>) -> Self {
        let agent = account.client.agent(&account.pds, TIMEOUT, 1);
        Session {
            account,
            agent,
            metrics,
            tokens: None,
            last_login: None,
            answered: false,
            server_ms: None,
            given: Vec::new(),
        }
    }

    /// One page of `tools.ozone.moderation.queryEvents`, oldest first.
    pub fn page(&mut self, created_after: Option<&str>, cursor: Option<&str>) -> Result<Vec<u8>, Failure> {
        // Twice: with a token that turns out to be expired, and with the next one.
        for attempt in 0..2 {
            let token = self.token()?;
            let url = format!("{}/xrpc/tools.ozone.moderation.queryEvents", self.account.pds);
            let mut request = self
                .agent
                .get(&url)
                .header("authorization", format!("Bearer {token}"))
                .header("atproto-proxy", format!("{}#atproto_labeler", self.account.labeler_did))
                .query("limit", PAGE.to_string())
                .query("sortDirection", "asc");
            if let Some(created_after) = created_after {
                request = request.query("createdAfter", created_after);
            }
            if let Some(cursor) = cursor {
                request = request.query("cursor", cursor);
            }
            let result = request.call();
            let answer = self.answer("queryEvents", result, MAX_ANSWER)?;
            if let Some(stranger) = answer.stranger(Meant::Pds) {
                let reason = format!("queryEvents is answered by something else than an Ozone: {stranger}");
                return Err(self.refused(&answer, reason));
            }
            if answer.status == 200 {
                self.answered = true;
                return Ok(answer.body);
            }
            let name = answer.error().error;
            let said = answer.describe("queryEvents", &self.secrets());
            let labeler = &self.account.labeler_did;
            match (answer.status, name.as_str()) {
                (400, "ExpiredToken" | "InvalidToken") if attempt == 0 => self.renew()?,
                // The role is missing, or the member was disabled: logging in again does not mend it.
                (401, "AuthenticationRequired" | "MemberDisabled") => {
                    return Err(Failure::Ever(format!(
                        "{said}; --identifier {} has to be an active member of the team of --labeler-did {labeler}",
                        self.account.identifier
                    )));
                }
                // Later on it may also be that the PDS cannot look up the labeler just now.
                (400, "InvalidRequest") if !self.answered => {
                    return Err(Failure::Ever(format!(
                        "{said}; is --labeler-did {labeler} right, and does its document name an #atproto_labeler service?"
                    )));
                }
                (404 | 405 | 501, _) => {
                    let reason = format!(
                        "{said}; there is no Ozone: either the PDS does not pass requests on (atproto-proxy), or the service of --labeler-did {labeler} is none"
                    );
                    return Err(self.refused(&answer, reason));
                }
                (502 | 504, "UpstreamFailure" | "UpstreamTimeout") => {
                    return Err(later(
                        &answer,
                        format!("{said}; the PDS does not reach the Ozone of --labeler-did {labeler}: is it running?"),
                    ));
                }
                _ => return Err(later(&answer, said)),
            }
        }
        Err(again(
            "queryEvents: a token that was given just now is refused as expired or invalid: does the PDS have the right time?",
        ))
    }

    /// What no log may show, even where the PDS says it.
    pub(super) fn secrets(&self) -> Vec<String> {
        [self.account.password.clone()].into_iter().chain(self.given.clone()).collect()
    }

    fn hold(&mut self, held: Held) {
        self.given.drain(..self.given.len().saturating_sub(2));
        self.given.extend([held.tokens.access.clone(), held.tokens.refresh.clone()]);
        self.tokens = Some(held);
    }

    /// An access token that is good for a while.
    fn token(&mut self) -> Result<String, Failure> {
        if self.tokens.as_ref().is_some_and(|held| held.renew_at.is_some_and(|at| at <= Instant::now())) {
            self.renew()?;
        }
        if self.tokens.is_none() {
            self.log_in()?;
        }
        Ok(self.tokens.as_ref().map(|held| held.tokens.access.clone()).unwrap_or_default())
    }

    /// A new pair of tokens: by the refresh token, else by the password.
    fn renew(&mut self) -> Result<(), Failure> {
        let Some(held) = self.tokens.take() else { return self.log_in() };
        let url = format!("{}/xrpc/com.atproto.server.refreshSession", self.account.pds);
        // Without any body: even {} is refused.
        let call =
            self.agent.post(&url).header("authorization", format!("Bearer {}", held.tokens.refresh)).send_empty();
        let answer = match self.answer("refreshSession", call, MAX_SMALL) {
            Ok(answer) => answer,
            Err(e) => {
                // Not refused: the old pair may still do.
                self.tokens = Some(held);
                return Err(e);
            }
        };
        match answer.status {
            200 => match self.tokens_in(&answer) {
                Some(new) => {
                    self.hold(new);
                    log::debug!("{}: session renewed", self.account.pds);
                    Ok(())
                }
                None => {
                    self.tokens = Some(held);
                    Err(later(&answer, self.no_session(&answer, "refreshSession")))
                }
            },
            400 | 401 if answer.stranger(Meant::Pds).is_none() => {
                log::info!(
                    event = "login", host = self.account.pds;
                    "{}; logging in again", answer.describe("refreshSession", &self.secrets())
                );
                self.log_in()
            }
            _ => {
                self.tokens = Some(held);
                Err(later(&answer, answer.describe("refreshSession", &self.secrets())))
            }
        }
    }

    /// Opens a session with the password. Fails also when the last attempt was only just now.
    pub fn log_in(&mut self) -> Result<(), Failure> {
        if let Some(wait) = self.last_login.and_then(|at| LOGIN_EVERY.checked_sub(at.elapsed())) {
            let reason = "the session ended right after a login, and logins are limited (a PDS allows 30 in five minutes and 300 a day)";
            return Err(Failure::Later { reason: reason.into(), wait: Some(wait) });
        }
        self.last_login = Some(Instant::now());
        let login = Login { identifier: &self.account.identifier, password: &self.account.password };
        let body = sonic_rs::to_vec(&login).map_err(|e| again(e.to_string()))?;
        let url = format!("{}/xrpc/com.atproto.server.createSession", self.account.pds);
        let result = self.agent.post(&url).content_type("application/json").send(&body[..]);
        let answer = match self.answer("createSession", result, MAX_SMALL) {
            // No answer was no login.
            Err(e) => {
                self.last_login = None;
                return Err(e);
            }
            Ok(answer) => answer,
        };
        let said = answer.describe("createSession", &self.secrets());
        let XrpcError { error, .. } = answer.error();
        let failure = match answer.status {
            200 => match self.tokens_in(&answer) {
                Some(tokens) => {
                    self.hold(tokens);
                    log::info!(
                        event = "login", host = self.account.pds;
                        "{}: logged in as {}", self.account.pds, self.account.identifier
                    );
                    return Ok(());
                }
                None => self.refused(&answer, self.no_session(&answer, "createSession")),
            },
            _ if answer.stranger(Meant::Pds).is_some() => {
                self.refused(&answer, self.no_session(&answer, "createSession"))
            }
            401 if error == "AuthFactorTokenRequired" => Failure::Ever(format!(
                "{said}; the account asks for a second factor, which a program cannot give: make an app password in the account's settings and give that as --password"
            )),
            400 | 401 if !error.is_empty() => Failure::Ever(format!("{said}; check --identifier and --password")),
            400..=405 | 501 => self.refused(&answer, self.no_session(&answer, "createSession")),
            _ => later(&answer, said),
        };
        Err(match failure {
            // An attempt counts, whatever came of it.
            Failure::Later { reason, wait } => {
                Failure::Later { reason, wait: Some(wait.map_or(LOGIN_EVERY, |wait| wait.max(LOGIN_EVERY))) }
            }
            ever => ever,
        })
    }

    /// What a server says that cannot be what was meant: the settings are wrong, unless they have worked before, or the
    /// server says that it is ill.
    fn refused(&self, answer: &Answer, reason: String) -> Failure {
        if self.answered || answer.status >= 500 && answer.status != 501 {
            return later(answer, reason);
        }
        Failure::Ever(reason)
    }

    /// The answer to a login is no session: what is it that answers?
    fn no_session(&self, answer: &Answer, method: &str) -> String {
        if let Some(stranger) = answer.stranger(Meant::Pds) {
            return format!("{method} is answered by something else than a PDS: {stranger}");
        }
        let root = self.agent.get(format!("{}/", self.account.pds)).call().ok();
        let root = root.and_then(|mut root| root.body_mut().with_config().limit(MAX_SMALL).read_to_vec().ok());
        let said = answer.describe(method, &self.secrets());
        match Found::by_page(&root.unwrap_or_default()) {
            Some(found) => format!("{said}; {}: is --pds-host right?", found.in_place_of(Meant::Pds)),
            None if answer.status == 200 => format!("{said}, but the answer is no session: is --pds-host a PDS?"),
            None => format!("{said}; is --pds-host a PDS?"),
        }
    }

    pub(super) fn answer(
        &mut self,
        method: &'static str,
        result: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        limit: u64,
    ) -> Result<Answer, Failure> {
        let tls = self.account.pds.starts_with("https://");
        let explain = |e: ureq::Error| again(format!("{method}: {}", diagnosis::http_failed(&e, tls, Meant::Pds)));
        let mut response = result.map_err(|e| {
            self.metrics.ozone_request(method, 0);
            explain(e)
        })?;
        let status = response.status().as_u16();
        self.metrics.ozone_request(method, status);
        let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let server_ms =
            text("date").and_then(|at| jiff::fmt::rfc2822::parse(at).ok()).map(|at| at.timestamp().as_millisecond());
        let location = text("location").map(str::to_string);
        let html = text("content-type").is_some_and(|kind| kind.starts_with("text/html"));
        let asked = client::asked_wait(response.headers());
        let wait = asked.or((status == 429).then_some(UNSAID_WAIT));
        if let Some(off) = server_ms.map(|at| clock::now_ms() - at).filter(|off| off.abs() > CLOCK_OFF) {
            log::warn!(
                at_most = 1, event = "clock", host = self.account.pds;
                "{}: the clock of this machine is {} s {} the server's: set it; lag and look-back go by it",
                self.account.pds,
                off.abs() / 1000,
                if off > 0 { "ahead of" } else { "behind" }
            );
        }
        let body = response.body_mut().with_config().limit(limit).read_to_vec().map_err(explain)?;
        self.server_ms = server_ms;
        Ok(Answer { status, wait, location, html, body }.without(&self.secrets()))
    }

    /// The tokens of an answer, if it has some.
    fn tokens_in(&self, answer: &Answer) -> Option<Held> {
        let tokens: Tokens = json_input::read(&answer.body, SHALLOW).ok()?;
        let renew_at = life(&tokens.access, self.server_ms)
            .and_then(|life| Instant::now().checked_add(life.saturating_sub(EARLY).max(life / 2)));
        Some(Held { tokens, renew_at })
    }
}

/// Again, after what the server asked for.
fn later(answer: &Answer, reason: String) -> Failure {
    Failure::Later { reason, wait: answer.wait }
}

/// How long a JWT lives from when it was given, by the clock of the server that made it: by its own claims, else by the
/// `Date` of the answer. Ours may be wrong. It is not verified: it is ours, and the server will.
fn life(jwt: &str, server_ms: Option<i64>) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
        #[serde(default)]
        iat: Option<i64>,
    }
    let claims = jwt.split('.').nth(1)?;
    let bytes = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?;
    let Claims { exp, iat } = json_input::read(&bytes, SHALLOW).ok()?;
    let given = iat.or(server_ms.map(|ms| ms / 1000))?;
    u64::try_from(exp.checked_sub(given)?).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests;
