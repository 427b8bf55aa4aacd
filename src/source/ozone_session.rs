//! A session at a PDS, and through it Ozone's `queryEvents`. What an error means for the reader is decided here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use ureq::Proxy;

use crate::atproto::json_input::{self, SHALLOW};
use crate::client;
use crate::metrics::Metrics;

/// Events of a page: the most that Ozone gives.
pub const PAGE: usize = 100;
/// One request, to its last byte.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A page of 100 events was 60 kB (measured); one event may carry long comments.
const MAX_ANSWER: u64 = 32 << 20;
/// A token is renewed so long before it expires.
const EARLY: i64 = 60;
/// Between two logins at least: a PDS allows 30 in five minutes and 300 a day (successes included).
const LOGIN_EVERY: Duration = Duration::from_secs(30);

/// Whom to log in as, and where.
#[derive(Clone)]
pub struct Account {
    /// `https://pds.example.com`, without a slash at the end.
    pub pds: String,
    pub identifier: String,
    pub password: String,
    pub labeler_did: String,
    pub user_agent: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nothing but a change by people mends it.
    Ever(String),
    /// Again, after at least so long.
    Later { reason: String, wait: Option<Duration> },
}

fn later(reason: impl Into<String>) -> Failure {
    Failure::Later { reason: reason.into(), wait: None }
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(rename = "accessJwt")]
    access: String,
    #[serde(rename = "refreshJwt")]
    refresh: String,
}

#[derive(Serialize)]
struct Login<'a> {
    identifier: &'a str,
    password: &'a str,
}

/// The body of an XRPC error.
#[derive(Deserialize, Default)]
struct XrpcError {
    #[serde(default)]
    error: String,
    #[serde(default)]
    message: String,
}

pub struct Session {
    account: Account,
    agent: ureq::Agent,
    metrics: Arc<Metrics>,
    tokens: Option<Tokens>,
    last_login: Option<Instant>,
    /// Whether there was a page: then the settings are right.
    answered: bool,
}

/// An answer: status, how long the server asks to wait, body.
struct Answer {
    status: u16,
    wait: Option<Duration>,
    body: Vec<u8>,
}

impl Answer {
    fn error(&self) -> XrpcError {
        json_input::read(&self.body, SHALLOW).unwrap_or_default()
    }

    fn describe(&self, what: &str) -> String {
        let XrpcError { error, message } = self.error();
        let text: String = format!("{what}: HTTP {} {error} {message}", self.status).chars().take(300).collect();
        text.trim_end().to_string()
    }
}

impl Session {
    pub fn new(account: Account, metrics: Arc<Metrics>) -> Self {
        let agent = client::config(&account.user_agent, TIMEOUT, 1, Proxy::try_from_env()).new_agent();
        Session { account, agent, metrics, tokens: None, last_login: None, answered: false }
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
            let answer = self.answer("queryEvents", request.call())?;
            let name = answer.error().error;
            match (answer.status, name.as_str()) {
                (200, _) => {
                    self.answered = true;
                    return Ok(answer.body);
                }
                (400, "ExpiredToken" | "InvalidToken") if attempt == 0 => self.renew()?,
                // The role is missing, or the member was disabled: logging in again does not mend it.
                (401, "AuthenticationRequired" | "MemberDisabled") => {
                    return Err(Failure::Ever(format!(
                        "{}; --identifier {} has to be an active member of the team of --labeler-did {}",
                        answer.describe("queryEvents"),
                        self.account.identifier,
                        self.account.labeler_did
                    )));
                }
                // Later on it may also be that the PDS cannot look up the labeler just now.
                (400, "InvalidRequest") if !self.answered => {
                    return Err(Failure::Ever(format!("{}; is --labeler-did right?", answer.describe("queryEvents"))));
                }
                _ => return Err(unexpected(answer, "queryEvents")),
            }
        }
        Err(later("queryEvents: the new token is not taken either"))
    }

    /// An access token that is good for a while.
    fn token(&mut self) -> Result<String, Failure> {
        if self.tokens.as_ref().is_some_and(|t| expires(&t.access).is_some_and(|at| at - EARLY <= now())) {
            self.renew()?;
        }
        if self.tokens.is_none() {
            self.log_in()?;
        }
        Ok(self.tokens.as_ref().map(|t| t.access.clone()).unwrap_or_default())
    }

    /// A new pair of tokens: by the refresh token, else by the password.
    fn renew(&mut self) -> Result<(), Failure> {
        let Some(tokens) = self.tokens.take() else { return self.log_in() };
        let url = format!("{}/xrpc/com.atproto.server.refreshSession", self.account.pds);
        // Without any body: even {} is refused.
        let call = self.agent.post(&url).header("authorization", format!("Bearer {}", tokens.refresh)).send_empty();
        let answer = match self.answer("refreshSession", call) {
            Ok(answer) => answer,
            Err(e) => {
                // Not refused: the old pair may still do.
                self.tokens = Some(tokens);
                return Err(e);
            }
        };
        match answer.status {
            200 => {
                self.tokens = Some(tokens_in(&answer, "refreshSession")?);
                log::debug!("{}: session renewed", self.account.pds);
                Ok(())
            }
            400 | 401 => {
                log::info!("{}; logging in again", answer.describe("refreshSession"));
                self.log_in()
            }
            _ => {
                self.tokens = Some(tokens);
                Err(unexpected(answer, "refreshSession"))
            }
        }
    }

    fn log_in(&mut self) -> Result<(), Failure> {
        if let Some(wait) = self.last_login.and_then(|at| LOGIN_EVERY.checked_sub(at.elapsed())) {
            return Err(Failure::Later { reason: "logged in only a moment ago".into(), wait: Some(wait) });
        }
        self.last_login = Some(Instant::now());
        let login = Login { identifier: &self.account.identifier, password: &self.account.password };
        let body = sonic_rs::to_vec(&login).map_err(|e| later(e.to_string()))?;
        let url = format!("{}/xrpc/com.atproto.server.createSession", self.account.pds);
        let answer =
            self.answer("createSession", self.agent.post(&url).content_type("application/json").send(&body[..]));
        let answer = match answer {
            // No answer was no login.
            Err(e) => {
                self.last_login = None;
                return Err(e);
            }
            Ok(answer) => answer,
        };
        match answer.status {
            200 => {
                self.tokens = Some(tokens_in(&answer, "createSession")?);
                log::info!("{}: logged in as {}", self.account.pds, self.account.identifier);
                Ok(())
            }
            400 | 401 => {
                Err(Failure::Ever(format!("{}; check --identifier and --password", answer.describe("createSession"))))
            }
            // Later on it may also be a proxy during a deploy.
            404 | 405 | 501 if !self.answered => {
                Err(Failure::Ever(format!("{}; is --pds-host a PDS?", answer.describe("createSession"))))
            }
            _ => Err(unexpected(answer, "createSession")),
        }
    }

    fn answer(
        &self,
        method: &'static str,
        result: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, Failure> {
        let mut response = result.map_err(|e| {
            self.metrics.ozone_request(method, 0);
            later(format!("{method}: {e}"))
        })?;
        let status = response.status().as_u16();
        self.metrics.ozone_request(method, status);
        let wait = client::asked_wait(response.headers());
        let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        Ok(Answer { status, wait, body: body.map_err(|e| later(format!("{method}: {e}")))? })
    }
}

fn unexpected(answer: Answer, what: &str) -> Failure {
    Failure::Later { reason: answer.describe(what), wait: answer.wait }
}

fn tokens_in(answer: &Answer, what: &str) -> Result<Tokens, Failure> {
    json_input::read(&answer.body, SHALLOW).map_err(|_| later(format!("{what}: the answer has no tokens")))
}

fn now() -> i64 {
    crate::atproto::time::now_ms() / 1000
}

/// When a JWT expires, in seconds since 1970. It is not verified: it is ours, and the server will.
fn expires(jwt: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let claims = jwt.split('.').nth(1)?;
    let bytes = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?;
    json_input::read::<Claims>(&bytes, SHALLOW).ok().map(|c| c.exp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_of_a_token() {
        let jwt = format!("x.{}.y", data_encoding::BASE64URL_NOPAD.encode(br#"{"sub":"did:plc:x","exp":1785000000}"#));
        assert_eq!(expires(&jwt), Some(1_785_000_000));
        assert_eq!(expires("opaque"), None);
    }
}
