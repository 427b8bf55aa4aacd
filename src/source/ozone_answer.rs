//! What servers say, for the log: no password and no token of ours is repeated, whatever they say.

use data_encoding::BASE64;

use super::diagnosis::{Answer, LONGEST, XrpcError};
use crate::client::percent_encoded;

/// In place of words that repeat a secret.
pub const HIDDEN: &str = "(its words are not shown: they repeat the password)";

impl Answer {
    /// Status, and what the server says. A message that has the password in it is left out.
    pub fn describe(&self, method: &str, secrets: &[String]) -> String {
        let XrpcError { error, message } = self.error();
        let said = format!("{error} {message}");
        let said = match repeats(&said, secrets) {
            true => HIDDEN.to_string(),
            false => said.chars().take(LONGEST).collect(),
        };
        format!("{method}: HTTP {} {}", self.status, said.trim()).trim_end().to_string()
    }

    /// Leaves out of what becomes words of ours what repeats a secret: a page's title, a redirect's target, a text.
    pub fn without(mut self, secrets: &[String]) -> Answer {
        if self.error().error.is_empty() && self.status != 200 || self.is_page() {
            let page = self.is_page();
            if repeats(&String::from_utf8_lossy(&self.body), secrets) {
                (self.body, self.html) = (Vec::new(), page);
            }
        }
        self.location = self.location.filter(|to| !repeats(to, secrets));
        self
    }
}

/// Whether `said` has one of the secrets in it.
pub fn repeats(said: &str, secrets: &[String]) -> bool {
    secrets.iter().any(|secret| repeats_one(said, secret))
}

/// Whether `said` has the password in it, as it is or as JSON, a URL or base64 would write it.
fn repeats_one(said: &str, password: &str) -> bool {
    let escaped = sonic_rs::to_vec(&password).unwrap_or_default();
    let escaped = String::from_utf8_lossy(&escaped);
    let in_url = percent_encoded(password);
    let base64 = BASE64.encode(password.as_bytes());
    let forms = [password, escaped.trim_matches('"'), &in_url, base64.trim_end_matches('=')];
    !password.is_empty() && forms.iter().any(|form| said.contains(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.into(), ..Answer::default() }
    }

    #[test]
    fn no_word_of_a_server_shows_the_password() {
        let password = "pä\"ss/w ord";
        let escaped = "p\u{e4}\\\\\\\"ss/w ord";
        for echo in [r#"pä\"ss/w ord"#, escaped, "p%C3%A4%22ss%2Fw%20ord", &BASE64.encode(password.as_bytes())] {
            let body = format!(r#"{{"error":"InvalidRequest","message":"cannot read {echo} here"}}"#);
            let said = answer(400, &body).describe("createSession", &[password.to_string()]);
            assert!(said.starts_with("createSession: HTTP 400 (its words"), "{said}");
        }
        let said = answer(401, r#"{"error":"X","message":"wrong"}"#).describe("createSession", &[password.to_string()]);
        assert_eq!(said, "createSession: HTTP 401 X wrong");
    }
}
