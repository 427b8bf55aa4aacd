//! Why no broker can be used, in one line: where, what, most likely why, and what to do. From the settings, from what
//! librdkafka said, and, where that is too little, from what the ports answer when they are asked ([`probe`]).
//!
//! It knows neither sink, and keeps nothing. It may block for some seconds: the producer's thread calls it while the sink
//! is not ready, the thread `delivery` while nothing is delivered.

mod advice;
mod words;

use super::kafka_options::{Kafka, Sasl};
use super::probe::{self, Budget, Login, Seen};
use advice::{elsewhere, line};
use words::Cause;
pub use words::Words;

/// Of so many addresses at most is anything said.
const ADDRESSES: usize = 3;

/// The settings that decide whether a connection comes about: those of the flags, with `--kafka-config` over them.
#[derive(Debug, Clone)]
pub struct Client {
    servers: Vec<String>,
    tls: bool,
    ca_file: Option<String>,
    has_certificate: bool,
    login: Option<Account>,
}

#[derive(Debug, Clone)]
struct Account {
    mechanism: String,
    user: String,
}

impl Client {
    /// What of these settings explains a failure.
    pub fn of(options: &Kafka) -> Client {
        let property = |names: &[&str]| {
            options.config.iter().rev().find(|(key, _)| names.contains(&key.as_str())).map(|(_, value)| value.clone())
        };
        let (mut tls, mut sasl) = (options.tls.is_some(), options.sasl.is_some());
        if let Some(protocol) = property(&["security.protocol"]) {
            let protocol = protocol.to_ascii_lowercase();
            (tls, sasl) = (protocol.contains("ssl"), protocol.contains("sasl"));
        }
        let by_flags = options.sasl.as_ref();
        let login = sasl.then(|| Account {
            mechanism: property(&["sasl.mechanism", "sasl.mechanisms"])
                .or(by_flags.map(|s| s.mechanism().name().into()))
                .unwrap_or_else(|| "GSSAPI".into()),
            user: property(&["sasl.username"])
                .or(by_flags.and_then(|s| match s {
                    Sasl::Password { user, .. } => Some(user.clone()),
                    Sasl::Token(_) => None,
                }))
                .unwrap_or_default(),
        });
        let files = options.tls.as_ref();
        let servers = property(&["bootstrap.servers", "metadata.broker.list"]);
        Client {
            servers: servers.map_or(options.servers.clone(), |list| {
                list.split(',').map(|server| server.trim().to_string()).collect()
            }),
            tls,
            ca_file: property(&["ssl.ca.location"]).or(files.and_then(|t| t.ca_file.clone())),
            has_certificate: property(&["ssl.certificate.location", "ssl.certificate.pem", "ssl.keystore.location"])
                .is_some()
                || files.is_some_and(|t| t.cert_file.is_some()),
            login,
        }
    }
}

/// What a port answers, against what this client wants. `None`: they fit.
fn compare(client: &Client, seen: Seen) -> Option<Cause> {
    match seen {
        Seen::NotResolved(why) => Some(Cause::NotResolved(why)),
        Seen::Refused => Some(Cause::Refused),
        Seen::NoConnection(why) => Some(Cause::NoConnection(why)),
        Seen::Silent => Some(Cause::Silent),
        Seen::NotKafka => Some(Cause::NotKafka),
        Seen::Tls(_) if !client.tls => Some(Cause::WantsTls(Login::Unknown)),
        Seen::Tls(_) if !client.has_certificate => Some(Cause::WantsCertificate),
        Seen::Tls(_) => None,
        Seen::Kafka { tls: true, login } if !client.tls => Some(Cause::WantsTls(login)),
        Seen::Kafka { tls: false, login } if client.tls => Some(Cause::NoTls(login)),
        Seen::Kafka { login, .. } => match (login, &client.login) {
            (Login::Any(list), None) => Some(Cause::WantsLogin(list)),
            (Login::Any(list), Some(account)) if !list.contains(&account.mechanism) => Some(Cause::Mechanism(list)),
            (Login::None, Some(_)) => Some(Cause::NoLogin),
            _ => None,
        },
    }
}

/// The cause at an address: by librdkafka's words where these are sure, else by asking.
fn cause(client: &Client, words: &[Words], address: &str, budget: Budget) -> Option<Cause> {
    let said = said(words, address);
    match said.or_else(|| compare(client, probe::look(address, budget)))? {
        // librdkafka does not say what is wrong with it.
        Cause::Certificate(why) if why.is_empty() => {
            Some(Cause::Certificate(probe::distrust(address, client.ca_file.as_deref(), budget).unwrap_or_default()))
        }
        cause => Some(cause),
    }
}

/// The cause by librdkafka's words, where these are sure.
fn said(words: &[Words], address: &str) -> Option<Cause> {
    words.iter().rev().filter(|w| w.address == address).find_map(Words::cause)
}

/// Why no broker can be used. `advertised`: the addresses that an answer of the servers named, where there was one. `None`
/// where nothing is found to be wrong. Blocks for some seconds.
pub fn of(client: &Client, words: &[Words], advertised: &[String]) -> Option<String> {
    let budget = Budget::new();
    of_servers(client, words, budget).or_else(|| of_advertised(client, words, advertised, budget))
}

/// Why none of the servers can be used that the settings name.
fn of_servers(client: &Client, words: &[Words], budget: Budget) -> Option<String> {
    let mut causes: Vec<(Cause, Vec<&str>)> = Vec::new();
    for server in client.servers.iter().take(ADDRESSES) {
        // Of those that there is no time for, nothing is said.
        if budget.is_spent() && said(words, server).is_none() {
            continue;
        }
        let found = cause(client, words, server, budget)?;
        match causes.iter_mut().find(|(cause, _)| *cause == found) {
            Some((_, servers)) => servers.push(server),
            None => causes.push((found, vec![server])),
        }
    }
    let lines: Vec<String> = causes.iter().map(|(cause, at)| line(client, &at.join(", "), cause)).collect();
    Some(lines.join("; ")).filter(|text| !text.is_empty())
}

/// A server answers: why an address cannot be used that it gave for a broker. What librdkafka speaks of and the settings do
/// not name, is one as well.
fn of_advertised(client: &Client, words: &[Words], advertised: &[String], budget: Budget) -> Option<String> {
    let mut others: Vec<&String> = advertised.iter().chain(words.iter().map(|w| &w.address)).collect();
    others.retain(|address| !client.servers.contains(address));
    others.sort();
    others.dedup();
    others.into_iter().take(ADDRESSES).find_map(|address| {
        if budget.is_spent() && said(words, address).is_none() {
            return None;
        }
        let cause = cause(client, words, address, budget)?;
        Some(format!(
            "{} answers and sends clients on to {address} (the broker's advertised.listeners): {}",
            client.servers.join(", "),
            elsewhere(client, &cause)
        ))
    })
}

/// Whether the words say of each server, and surely, what is wrong: then there is nothing to wait for.
pub fn is_sure(client: &Client, words: &[Words]) -> bool {
    let known = |server: &String| words.iter().any(|w| w.address == *server && w.cause().is_some());
    client.servers.iter().take(ADDRESSES).all(known)
}

/// The line for what librdkafka says while everything else may be well. `None` where it may pass, or is about no address.
pub fn while_running(client: &Client, words: &Words) -> Option<String> {
    let cause = words.cause()?;
    Some(match client.servers.contains(&words.address) {
        true => line(client, &words.address, &cause),
        false => {
            format!("{} (by the brokers' advertised.listeners): {}", words.address, elsewhere(client, &cause))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(server: &str) -> Client {
        Client { servers: vec![server.into()], tls: false, ca_file: None, has_certificate: false, login: None }
    }

    fn words(line: &str) -> Words {
        Words::read(line).expect("about an address")
    }

    #[test]
    fn librdkafkas_lines_are_read() {
        for (line, address, text) in [
            (
                "[thrd:127.0.0.1:1/bootstrap]: 127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: x",
                "127.0.0.1:1",
                "Connect to ipv4#127.0.0.1:1 failed: x",
            ),
            ("sasl_ssl://b.example:9093/3: Disconnected", "b.example:9093", "Disconnected"),
            ("ssl://[::1]:9093/bootstrap: x: y", "[::1]:9093", "x: y"),
        ] {
            assert_eq!(Words::read(line), Some(Words { address: address.into(), text: text.into() }));
        }
        for line in ["", "Configuration property x: y", "2/2 brokers are down", "[thrd:app]: rdkafka#producer-1: x"] {
            assert_eq!(Words::read(line), None, "{line}");
        }
    }

    /// As librdkafka 2.12.1 says it.
    #[test]
    fn sure_words_give_the_line_without_asking_anybody() {
        let mut login = client("b:9093");
        login.login = Some(Account { mechanism: "PLAIN".into(), user: "me".into() });
        let mut tls = client("b:9093");
        (tls.tls, tls.ca_file) = (true, Some("/ca.pem".into()));
        for (client, text, want) in [
            (
                &tls,
                "Connect to ipv4#10.0.0.1:9093 failed: Connection refused (after 0ms in state CONNECT)",
                "b:9093: connection refused: is the broker running, is the port right?",
            ),
            (
                &tls,
                "Connect to ipv4#10.0.0.1:9093 failed: No route to host (after 3ms in state CONNECT, 2 identical error(s) suppressed)",
                "b:9093: no connection (No route to host): is the address right, does a firewall stand between?",
            ),
            (
                &tls,
                "Connection setup timed out in state CONNECT (after 30028ms in state CONNECT)",
                "b:9093: no connection (timed out): is the address right, does a firewall stand between?",
            ),
            (
                &tls,
                "Failed to resolve 'b:9093': Name or service not known (after 5ms in state CONNECT)",
                "b:9093: the name does not resolve (Name or service not known): is it written right, and does this machine's DNS know it?",
            ),
            (
                &login,
                "SASL authentication error: Authentication failed: Invalid username or password (after 303ms in state AUTH_REQ)",
                "b:9093: the broker refuses the login of me by PLAIN (Authentication failed: Invalid username or password): are --sasl-username and the password right?",
            ),
            (
                &login,
                "SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-256,SCRAM-SHA-512 (after 4ms in state AUTH_HANDSHAKE)",
                "b:9093: the broker does not take the SASL mechanism PLAIN: give --sasl-mechanism SCRAM-SHA-256 or SCRAM-SHA-512",
            ),
            (
                &login,
                "SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL state: broker's supported mechanisms:  (after 4ms in state AUTH_HANDSHAKE)",
                "b:9093: the port takes no login: leave out --sasl-mechanism, or give the broker's SASL port",
            ),
        ] {
            let words = [words(&format!("b:9093/bootstrap: {text}"))];
            assert_eq!(of(client, &words, &[]).as_deref(), Some(want));
            assert_eq!(while_running(client, &words[0]).as_deref(), Some(want));
            assert!(is_sure(client, &words));
        }
        let vague = words("b:9093/1: Disconnected (after 12ms in state UP)");
        assert_eq!(while_running(&login, &vague), None, "it may pass");
        assert!(!is_sure(&login, &[vague]));
    }

    #[test]
    fn what_a_port_answers_is_compared_with_the_settings() {
        let plain = client("b:1");
        let tls = Client { tls: true, ..client("b:1") };
        let login = |mechanism: &str| Client {
            login: Some(Account { mechanism: mechanism.into(), user: "me".into() }),
            ..client("b:1")
        };
        let kafka = |tls, mechanisms: &[&str]| Seen::Kafka {
            tls,
            login: match mechanisms {
                [] => Login::None,
                list => Login::Any(list.iter().map(|m| m.to_string()).collect()),
            },
        };
        for (client, seen, parts) in [
            (&plain, kafka(true, &[]), &["speaks TLS", "--tls,", "--tls-ca-file"][..]),
            (&plain, kafka(true, &["PLAIN"]), &["--tls", "--sasl-mechanism (PLAIN)"]),
            (&plain, kafka(false, &["PLAIN", "X"]), &["wants a login", "(PLAIN, X)", "--sasl-username"]),
            (&plain, Seen::Tls("alert".into()), &["speaks TLS"]),
            (&tls, Seen::Tls("alert".into()), &["--tls-cert-file and --tls-key-file"]),
            (&tls, kafka(false, &[]), &["does not speak TLS", "leave out --tls"]),
            (&login("PLAIN"), kafka(false, &[]), &["takes no login"]),
            (&login("PLAIN"), kafka(false, &["X", "Y"]), &["does not take", "PLAIN", "--sasl-mechanism X or Y"]),
            (&plain, Seen::Silent, &["answers nothing"]),
            (&plain, Seen::NotKafka, &["no Kafka broker", "port"]),
        ] {
            let cause = compare(client, seen.clone()).unwrap_or_else(|| panic!("{seen:?} does not fit {client:?}"));
            let text = line(client, "b:1", &cause);
            assert!(text.starts_with("b:1: ") && parts.iter().all(|p| text.contains(p)), "{text}");
        }
        assert_eq!(compare(&plain, kafka(false, &[])), None);
        assert_eq!(compare(&tls, kafka(true, &[])), None);
        assert_eq!(compare(&login("X"), kafka(false, &["X"])), None);
        let why =
            "error:0A000086:SSL routines::certificate verify failed:ssl.c:1:: (unable to get local issuer certificate)";
        let text = line(&tls, "b:1", &Cause::Certificate(why.into()));
        assert!(
            text.contains("(unable to get local issuer certificate): give the CA's certificate with --tls-ca-file")
        );
        let text = line(&tls, "b:1", &Cause::Certificate("x (Hostname mismatch)".into()));
        assert!(text.contains("another name"), "{text}");
    }

    #[test]
    fn several_servers_and_those_that_brokers_name() {
        let refused = |at: &str| words(&format!("{at}/bootstrap: Connect to x failed: Connection refused (after 1ms)"));
        let lost = words("c:1/bootstrap: Failed to resolve 'c:1': no such name (after 1ms)");
        let mut three = client("a:1");
        three.servers.extend(["b:1".into(), "c:1".into()]);
        let text = of(&three, &[lost, refused("b:1"), refused("a:1")], &[]).expect("a line");
        assert!(text.starts_with("a:1, b:1: connection refused: ") && text.contains("; c:1: the name does"), "{text}");

        let named = [words("inner:9092/1: Failed to resolve 'inner:9092': no such name (after 1ms)")];
        let of = |words: &[Words], advertised: &[&str]| {
            let advertised: Vec<String> = advertised.iter().map(|a| a.to_string()).collect();
            of_advertised(&client("a:1"), words, &advertised, Budget::new())
        };
        let text = of(&named, &["a:1", "inner:9092"]).expect("a line");
        assert!(text.starts_with("a:1 answers and sends clients on to inner:9092 (the broker's advertised"), "{text}");
        assert_eq!(of(&named, &[]), Some(text), "by librdkafka's words alone");
        assert_eq!(of(&[refused("a:1")], &["a:1"]), None);
        assert!(while_running(&client("a:1"), &named[0]).is_some_and(|t| t.contains("advertised.listeners")));
    }
}
