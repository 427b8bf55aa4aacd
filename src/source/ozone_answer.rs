//! What a PDS says to a login, for the log: nothing of the login is repeated, whatever the server says.

use data_encoding::BASE64;

use super::diagnosis::{Answer, LONGEST, XrpcError};

impl Answer {
    /// Status, and what the server says. A message that has the password in it is left out.
    pub fn describe(&self, method: &str, password: &str) -> String {
        let XrpcError { error, message } = self.error();
        let said = format!("{error} {message}");
        let said = match repeats(&said, password) {
            true => "(its words are not shown: they repeat the password)".to_string(),
            false => said.chars().take(LONGEST).collect(),
        };
        format!("{method}: HTTP {} {}", self.status, said.trim()).trim_end().to_string()
    }
}

/// Whether `said` has the password in it, as it is or as JSON, a URL or base64 would write it.
fn repeats(said: &str, password: &str) -> bool {
    let escaped = sonic_rs::to_vec(&password).unwrap_or_default();
    let escaped = String::from_utf8_lossy(&escaped);
    let in_url: String = password
        .bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect();
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
            let said = answer(400, &body).describe("createSession", password);
            assert!(said.starts_with("createSession: HTTP 400 (its words"), "{said}");
        }
        let said = answer(401, r#"{"error":"X","message":"wrong"}"#).describe("createSession", password);
        assert_eq!(said, "createSession: HTTP 401 X wrong");
    }
}
