//! Tokens for SASL OAUTHBEARER, by client credentials (RFC 6749, 4.4): one request to a token endpoint, repeated before the
//! token ends. librdkafka's own way needs libcurl. The thread that serves the client waits for the answer.
//!
//! Neither the secret nor a token gets into any text, nor anything that the endpoint says but the name of an error: it may
//! say back what it was told.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde::Deserialize;
use ureq::Agent;

use super::kafka_options::OAuth;
use super::locked;
use crate::atproto::json_input::{self, SHALLOW};
use crate::client::percent_encoded;
use crate::clock::now_ms;

/// One request, to its last byte.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a failure the endpoint is left alone for so long: a wrong secret that is tried again and again may be locked.
const AGAIN: Duration = Duration::from_secs(10);
/// An answer has some kilobytes.
const LARGEST_ANSWER: u64 = 1 << 18;
/// How long a token lives of which the endpoint does not say it.
const UNSAID_LIFE: Duration = Duration::from_secs(300);

/// A token and what librdkafka wants to know of it.
#[derive(Clone)]
pub struct Token {
    pub text: String,
    pub principal: String,
    /// When it ends, in milliseconds since 1970.
    pub ends_ms: i64,
}

/// Gets tokens, and keeps the one that is good.
pub struct Tokens {
    settings: OAuth,
    agent: Agent,
    last: Mutex<Option<Last>>,
}

struct Last {
    /// From when on it is asked for again.
    until: Instant,
    result: Result<Token, String>,
}

impl Tokens {
    pub fn new(settings: OAuth) -> Tokens {
        settings.client.announce(&settings.token_url);
        let agent = settings.client.agent(&settings.token_url, PATIENCE, 0);
        Tokens { settings, agent, last: Mutex::new(None) }
    }

    /// A token that is good for at least half of its life, or why there is none. Blocks for [`PATIENCE`] at most.
    pub fn get(&self) -> Result<Token, String> {
        let mut last = locked(&self.last);
        if let Some(last) = last.as_ref().filter(|last| Instant::now() < last.until) {
            return last.result.clone();
        }
        let result = self.ask().map_err(|why| format!("no token from {}: {why}", self.settings.token_url));
        let wait = match &result {
            Ok(token) => Duration::from_millis(u64::try_from(token.ends_ms - now_ms()).unwrap_or(0)) / 2,
            Err(_) => AGAIN,
        };
        let now = Instant::now();
        *last = Some(Last { until: now.checked_add(wait).unwrap_or(now), result: result.clone() });
        result
    }

    fn ask(&self) -> Result<Token, String> {
        let OAuth { token_url, client_id, client_secret, scope, .. } = &self.settings;
        let mut form = vec![("grant_type", "client_credentials")];
        if let Some(scope) = scope {
            form.push(("scope", scope));
        }
        let login = BASE64.encode(format!("{}:{}", encoded(client_id), encoded(&client_secret.text)).as_bytes());
        let request = self.agent.post(token_url).header("authorization", format!("Basic {login}"));
        let mut answer = request.header("accept", "application/json").send_form(form).map_err(unreachable)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(LARGEST_ANSWER).read_to_vec().map_err(unreachable)?;
        read(status, &body, &self.settings)
    }
}

/// The token of an answer.
fn read(status: u16, body: &[u8], settings: &OAuth) -> Result<Token, String> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Answer {
        access_token: Option<String>,
        expires_in: Option<Seconds>,
        error: Option<String>,
    }
    /// Some endpoints give it as a text.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seconds {
        Number(f64),
        Text(String),
    }
    let answer: Option<Answer> = json_input::read(body, SHALLOW).ok();
    let Some(answer) = answer else {
        return Err(format!("it answers {status} without JSON: is --sasl-oauth-token-url a token endpoint?"));
    };
    if let Some(text) = answer.access_token.filter(|_| status == 200) {
        // What goes between SASL's own control characters.
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("its token has characters that no token has".into());
        }
        let life = match answer.expires_in {
            Some(Seconds::Number(n)) => Some(n),
            Some(Seconds::Text(text)) => text.parse().ok(),
            None => None,
        };
        let life = life.and_then(|s: f64| Duration::try_from_secs_f64(s).ok()).unwrap_or(UNSAID_LIFE);
        // Ten years are for ever.
        let life_ms = life.as_millis().min(10 * 365 * 86_400_000) as i64;
        return Ok(Token { text, principal: settings.client_id.clone(), ends_ms: now_ms() + life_ms.max(1_000) });
    }
    let known = |name: &String| {
        name.len() <= 40
            && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            && *name != settings.client_secret.text
    };
    let error = answer.error.filter(known).unwrap_or_default();
    let advice = match error.as_str() {
        "invalid_scope" => "is --sasl-oauth-scope right?",
        "unauthorized_client" | "unsupported_grant_type" => "may this client use client credentials?",
        _ if matches!(status, 400 | 401 | 403) => "are --sasl-oauth-client-id and its secret right?",
        _ => "is --sasl-oauth-token-url right?",
    };
    let space = if error.is_empty() { "" } else { " " };
    Err(format!("it answers {status}{space}{error}: {advice}"))
}

fn unreachable(e: ureq::Error) -> String {
    match e {
        ureq::Error::HostNotFound => "the name does not resolve: is --sasl-oauth-token-url right?".into(),
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
            "connection refused: does it run, is --sasl-oauth-token-url right?".into()
        }
        e => e.to_string(),
    }
}

/// As forms are encoded, which RFC 6749 (2.3.1) asks of both halves of the login.
fn encoded(text: &str) -> String {
    percent_encoded(text).replace("%20", "+")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::sink::kafka_options::Secret;

    fn settings() -> OAuth {
        OAuth {
            token_url: "http://127.0.0.1:1/token".into(),
            client_id: "me".into(),
            client_secret: Secret { text: "s3cret".into(), file: None },
            scope: None,
            client: Client::new(None),
        }
    }

    #[test]
    fn answers() {
        let text = |status, body: &str| read(status, body.as_bytes(), &settings()).map(|t| t.text);
        assert_eq!(
            text(200, r#"{"access_token":"a.b.c","token_type":"Bearer","expires_in":3600}"#),
            Ok("a.b.c".into())
        );
        for (status, body, part) in [
            (
                401,
                r#"{"error":"invalid_client"}"#,
                "401 invalid_client: are --sasl-oauth-client-id and its secret right?",
            ),
            (400, r#"{"error":"invalid_scope"}"#, "400 invalid_scope: is --sasl-oauth-scope right?"),
            (404, "<html>", "404 without JSON: is --sasl-oauth-token-url a token endpoint?"),
            (200, r#"{"token":"x"}"#, "200: is --sasl-oauth-token-url right?"),
            (500, r#"{"access_token":"x"}"#, "500: is"),
            (200, "{\"access_token\":\"a\\u0001b\"}", "characters"),
        ] {
            let why = text(status, body).expect_err(body);
            assert!(why.contains(part), "{why}");
        }
        // What an endpoint says back goes nowhere.
        for body in [
            r#"{"error":"invalid_client","error_description":"s3cret is wrong"}"#,
            r#"{"error":"s3cret"}"#,
            r#"{"error":"Basic bWU6czNjcmV0"}"#,
        ] {
            let why = text(401, body).expect_err(body);
            assert!(!why.contains("s3cret") && !why.contains("Basic"), "{why}");
        }
        let shown = format!("{:?}", settings());
        assert!(shown.contains("me") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn lives() {
        let life = |body: &str| {
            let ends = read(200, body.as_bytes(), &settings()).map(|t| t.ends_ms).expect("a token");
            (ends - now_ms() + 500) / 1000
        };
        assert_eq!(life(r#"{"access_token":"a","expires_in":3600}"#), 3600);
        assert_eq!(life(r#"{"access_token":"a","expires_in":"60"}"#), 60);
        assert_eq!(life(r#"{"access_token":"a"}"#), 300);
        assert_eq!(life(r#"{"access_token":"a","expires_in":-5}"#), 300);
        assert_eq!(life(r#"{"access_token":"a","expires_in":1e300}"#), 300);
        assert_eq!(life(r#"{"access_token":"a","expires_in":0}"#), 1);
    }

    #[test]
    fn a_failure_is_not_repeated_at_once() {
        let tokens = Tokens::new(settings());
        let first = tokens.get().err().expect("nobody is there");
        assert!(first.starts_with("no token from http://127.0.0.1:1/token: connection refused: "), "{first}");
        let until = locked(&tokens.last).as_ref().map(|last| last.until);
        assert_eq!(tokens.get().err(), Some(first));
        assert_eq!(locked(&tokens.last).as_ref().map(|last| last.until), until, "nobody was asked again");
    }

    #[test]
    fn logins_are_encoded_as_forms_are() {
        assert_eq!(encoded("a-b_c.d~9"), "a-b_c.d~9");
        assert_eq!(encoded("a b+c%:ü"), "a+b%2Bc%25%3A%C3%BC");
    }
}
