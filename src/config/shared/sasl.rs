//! How to log in at the brokers.

use std::collections::HashMap;

use super::flags::Writing;
use super::values::{client, one_of, secret, service_url};
use crate::config::{Checked, invalid};
use crate::sink::kafka_options::{Mechanism, OAuth, Sasl, Secret};

pub(super) fn sasl(f: &Writing, env: &HashMap<String, String>) -> Checked<Option<Sasl>> {
    if let Some(name) = f.sasl_mechanism.as_deref().filter(|name| name.to_ascii_uppercase().contains("MSK")) {
        return Err(invalid(
            "--sasl-mechanism",
            name,
            "logins by AWS IAM are not supported; MSK also takes SCRAM-SHA-512 with a user of AWS Secrets Manager (port 9096, with --tls), and client certificates (port 9094, --tls-cert-file)",
        ));
    }
    let mechanism = one_of("--sasl-mechanism", f.sasl_mechanism.as_deref(), &Mechanism::NAMES)?;
    let password = secret("--sasl-password", &f.sasl_password, "--sasl-password-file", &f.sasl_password_file)?;
    let client_secret = secret(
        "--sasl-oauth-client-secret",
        &f.sasl_oauth_client_secret,
        "--sasl-oauth-client-secret-file",
        &f.sasl_oauth_client_secret_file,
    )?;
    let oauth_only = [
        ("--sasl-oauth-token-url", f.sasl_oauth_token_url.is_some()),
        ("--sasl-oauth-client-id", f.sasl_oauth_client_id.is_some()),
        ("--sasl-oauth-client-secret", client_secret.is_some()),
        ("--sasl-oauth-scope", f.sasl_oauth_scope.is_some()),
    ];
    if mechanism == Some(Mechanism::OAuthBearer) {
        if f.sasl_username.is_some() || password.is_some() {
            return Err(invalid(
                "--sasl-mechanism",
                "OAUTHBEARER",
                "has no --sasl-username and --sasl-password, but --sasl-oauth-client-id and --sasl-oauth-client-secret",
            ));
        }
        return match (&f.sasl_oauth_token_url, &f.sasl_oauth_client_id, client_secret) {
            (Some(url), Some(id), Some(text)) => {
                service_url("--sasl-oauth-token-url", url)?;
                Ok(Some(Sasl::Token(OAuth {
                    token_url: url.clone(),
                    client_id: id.clone(),
                    client_secret: Secret { text, file: f.sasl_oauth_client_secret_file.clone() },
                    scope: f.sasl_oauth_scope.clone(),
                    client: client(None, f.ca_file.as_deref(), env)?,
                })))
            }
            _ => Err(invalid(
                "--sasl-mechanism",
                "OAUTHBEARER",
                "goes with --sasl-oauth-token-url, --sasl-oauth-client-id and --sasl-oauth-client-secret (or --sasl-oauth-client-secret-file)",
            )),
        };
    }
    if let Some((flag, _)) = oauth_only.iter().find(|(_, given)| *given) {
        return Err(invalid(flag, "", "goes with --sasl-mechanism OAUTHBEARER"));
    }
    match (mechanism, &f.sasl_username, password) {
        (None, None, None) => Ok(None),
        (Some(mechanism), Some(user), Some(text)) => {
            let password = Secret { text, file: f.sasl_password_file.clone() };
            Ok(Some(Sasl::Password { mechanism, user: user.clone(), password }))
        }
        _ => Err(invalid(
            "--sasl-mechanism",
            "",
            "goes with --sasl-username and --sasl-password (or --sasl-password-file)",
        )),
    }
}
