//! The sentence about a cause: what it is, most likely why, and what to do. Text only: nothing is asked here.

use super::Client;
use super::words::Cause;
use crate::sink::probe::Login;

pub(super) fn line(client: &Client, at: &str, cause: &Cause) -> String {
    format!("{at}: {}", reason(client, cause))
}

/// What it is, most likely why, and what to do.
fn reason(client: &Client, cause: &Cause) -> String {
    let also_login = |port: &Login, which: &str| match port {
        Login::Any(list) if client.login.is_none() => {
            format!("; {which} wants a login: --sasl-mechanism ({})", list.join(", "))
        }
        _ => String::new(),
    };
    let (ca_file, login) = (client.ca_file.as_deref(), client.login.as_ref());
    let mechanism = login.map_or("", |l| l.mechanism.as_str());
    match cause {
        Cause::NotResolved(why) => {
            format!("the name does not resolve ({why}): is it written right, and does this machine's DNS know it?")
        }
        Cause::Refused => "connection refused: is the broker running, is the port right?".into(),
        Cause::NoConnection(why) => {
            format!("no connection ({why}): is the address right, does a firewall stand between?")
        }
        Cause::Silent => "takes connections and answers nothing: does the broker hang, is the port right?".into(),
        Cause::NotKafka => "what answers there is no Kafka broker: is the port right?".into(),
        Cause::WantsTls(port) => format!(
            "the port speaks TLS, and atkafka was not told to: give --tls, and --tls-ca-file where the broker's CA is not among the system's{}",
            also_login(port, "it also")
        ),
        Cause::NoTls(port) => format!(
            "the port does not speak TLS: leave out --tls, or give the broker's TLS port{}",
            also_login(port, "this one")
        ),
        Cause::WantsLogin(list) => format!(
            "the broker wants a login: give --sasl-mechanism ({}), --sasl-username and --sasl-password-file",
            list.join(", ")
        ),
        Cause::NoLogin => "the port takes no login: leave out --sasl-mechanism, or give the broker's SASL port".into(),
        Cause::Mechanism(list) => format!(
            "the broker does not take the SASL mechanism {mechanism}: give --sasl-mechanism {}",
            list.join(" or ")
        ),
        Cause::Refusal(why) => {
            let user = login.map(|l| l.user.as_str()).filter(|u| !u.is_empty());
            match user {
                Some(user) => format!(
                    "the broker refuses the login of {user} by {mechanism} ({why}): are --sasl-username and the password right?"
                ),
                None if mechanism == "OAUTHBEARER" => format!(
                    "the broker refuses the token of --sasl-oauth-token-url ({why}): does the broker trust that endpoint, is --sasl-oauth-scope right?"
                ),
                None => format!("the broker refuses the login by {mechanism} ({why})"),
            }
        }
        Cause::Certificate(why) => {
            let openssl = why.rsplit_once('(').map_or(why.as_str(), |(_, reason)| reason.trim_end_matches(')'));
            let said = if openssl.is_empty() { String::new() } else { format!(" ({openssl})") };
            if openssl.contains("mismatch") {
                format!(
                    "the broker's certificate is for another name{said}: give --bootstrap-servers a name that is in it"
                )
            } else if openssl.contains("expired") || openssl.contains("not yet valid") {
                format!("the broker's certificate is out of date{said}: renew it; is this machine's clock right?")
            } else if let Some(file) = ca_file {
                format!(
                    "the broker's certificate is not signed by a CA in {file}{said}: give --tls-ca-file the broker's CA"
                )
            } else {
                format!(
                    "the broker's certificate is signed by a CA that this system does not know{said}: give the CA's certificate with --tls-ca-file"
                )
            }
        }
        Cause::WantsCertificate => {
            "the broker wants a certificate of its client: give --tls-cert-file and --tls-key-file".into()
        }
    }
}

/// The same about an address that the brokers gave: where nobody can be reached, the address is to blame.
pub(super) fn elsewhere(client: &Client, cause: &Cause) -> String {
    let why = match cause {
        Cause::NotResolved(why) => format!("the name does not resolve here ({why})"),
        Cause::Refused => "connection refused".into(),
        Cause::NoConnection(why) => format!("no connection ({why})"),
        other => return reason(client, other),
    };
    format!("{why}: is that broker running, and is the address one that reaches it from here?")
}
