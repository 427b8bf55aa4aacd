//! What `atkafka check` asks of Ozone: the role of the account, and the end of the session that it opened. It runs on a
//! thread of the check.

use serde::Deserialize;

use super::ozone_session::{Failure, Session};
use crate::atproto::json_input::{self, SHALLOW};

/// Bytes of an answer: what Ozone says of itself has some hundred.
const MAX_SMALL: u64 = 1 << 16;

/// The answer of `tools.ozone.server.getConfig`, as far as it counts here.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    viewer: Option<Viewer>,
}

#[derive(Deserialize)]
struct Viewer {
    /// Such as `tools.ozone.team.defs#roleTriage`.
    #[serde(default)]
    role: Option<String>,
}

impl Session {
    /// The role of the account in Ozone's team, without what stands before it: `roleTriage`. `None` where Ozone does not say.
    pub fn role(&mut self) -> Option<String> {
        let token = self.tokens.as_ref()?.tokens.access.clone();
        let url = format!("{}/xrpc/tools.ozone.server.getConfig", self.account.pds);
        let request = self.agent.get(&url).header("authorization", format!("Bearer {token}"));
        let labeler = format!("{}#atproto_labeler", self.account.labeler_did);
        let result = request.header("atproto-proxy", labeler).call();
        let answer = self.answer("getConfig", result, MAX_SMALL).ok().filter(|answer| answer.status == 200)?;
        let config: Config = json_input::read(&answer.body, SHALLOW).ok()?;
        let role = config.viewer?.role?;
        let name = role.rsplit('#').next().unwrap_or_default();
        // A word, whatever the server says.
        let is_word = (1..=40).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
        is_word.then(|| name.to_string())
    }

    /// Deletes the session, if there is one. Fails with why it goes on until it expires.
    pub fn log_out(&mut self) -> Result<(), String> {
        let Some(held) = self.tokens.take() else { return Ok(()) };
        let url = format!("{}/xrpc/com.atproto.server.deleteSession", self.account.pds);
        // Of the refresh token, and without any body.
        let refresh = format!("Bearer {}", held.tokens.refresh);
        let result = self.agent.post(&url).header("authorization", refresh).send_empty();
        match self.answer("deleteSession", result, MAX_SMALL) {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.describe("deleteSession", &self.secrets())),
            Err(Failure::Ever(reason) | Failure::Later { reason, .. }) => Err(reason),
        }
    }
}
