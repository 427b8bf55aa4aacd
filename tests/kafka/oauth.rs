//! SASL OAUTHBEARER by client credentials: a token endpoint here, and the real broker, which takes tokens without signature.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atkafka_fixtures::relay::{Relay, RelayConfig};
use data_encoding::{BASE64, BASE64URL_NOPAD};

use crate::support::*;
use crate::{SASL, SOON, frames};

const SECRET: &str = "s3cret+of%n0b0dy";

/// Answers every request with the same status and body, or with a token that lives for so many seconds.
#[derive(Clone)]
enum Answer {
    Token { seconds: u64 },
    Text(u16, String),
}

struct Endpoint {
    url: String,
    answer: Arc<Mutex<Answer>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Endpoint {
    fn start(answer: Answer) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/oauth/token", listener.local_addr().expect("an address"));
        let (answer, requests) = (Arc::new(Mutex::new(answer)), Arc::new(Mutex::new(Vec::new())));
        let (given, seen) = (answer.clone(), requests.clone());
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                let Some(request) = request(&mut socket) else { continue };
                seen.lock().expect("seen").push(request);
                let (status, body) = match given.lock().expect("given").clone() {
                    Answer::Text(status, body) => (status, body),
                    Answer::Token { seconds } => {
                        (200, format!(r#"{{"access_token":"{}","expires_in":{seconds}}}"#, token(seconds)))
                    }
                };
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                drop(socket.write_all((head + &body).as_bytes()));
            }
        });
        Endpoint { url, answer, requests }
    }

    fn count(&self) -> usize {
        self.requests.lock().expect("seen").len()
    }
}

/// A JWT without a signature, as the broker's validator for development takes it.
fn token(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let claims = format!(r#"{{"sub":"somebody","iat":{now},"exp":{},"scope":"write"}}"#, now + seconds);
    format!("{}.{}.", BASE64URL_NOPAD.encode(br#"{"alg":"none"}"#), BASE64URL_NOPAD.encode(claims.as_bytes()))
}

/// Head and body of a request.
fn request(socket: &mut TcpStream) -> Option<String> {
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = socket.read(&mut buffer).ok().filter(|n| *n > 0)?;
        text.extend_from_slice(&buffer[..n]);
        let all = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = all.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(all);
            }
        }
    }
}

fn start(broker: &str, topic: &str, args: &[&str], env: &[(&str, &str)]) -> (Relay, Bridge) {
    let relay = Relay::start(RelayConfig::script(frames(1..=3))).expect("a relay");
    let (url, state) = (relay.url(), folder("state"));
    let state = state.to_string_lossy();
    let mut all = vec!["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", broker];
    all.extend(["--output-topic", topic, "--state-dir", &state, "--cursor", "oldest"]);
    all.extend(["--sasl-mechanism", "OAUTHBEARER", "--sasl-oauth-client-id", "the client"]);
    all.extend(args);
    let bridge = Bridge::start_with(&all, env);
    (relay, bridge)
}

/// Neither the secret nor a form of it, nor a token.
fn is_clean(bridge: &Bridge) {
    let mut text = bridge.log().join("\n");
    ["/readyz", "/metrics"].iter().for_each(|page| text += &bridge.get(page).map(|(_, body)| body).unwrap_or_default());
    let encoded = "s3cret%2Bof%25n0b0dy";
    let basic = BASE64.encode(format!("the+client:{encoded}").as_bytes());
    let jwt = BASE64URL_NOPAD.encode(br#"{"alg":"none"}"#);
    for word in [SECRET, encoded, &basic, &jwt] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

#[test]
fn tokens_are_fetched_and_renewed() {
    let Some(broker) = broker(SASL) else { return };
    let endpoint = Endpoint::start(Answer::Token { seconds: 8 });
    let topic = unique("oauth");
    let file = folder("secret").join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).expect("a file");
    let file = file.to_string_lossy();
    let args = ["--sasl-oauth-token-url", &endpoint.url, "--sasl-oauth-client-secret-file", &file];
    let more = ["--sasl-oauth-scope", "read write", "--debug", "--kafka-config", "debug=security"];
    let (relay, bridge) = start(&broker, &topic, &[&args[..], &more].concat(), &[]);
    bridge.wait_delivered(3, SOON);
    let first = endpoint.requests.lock().expect("seen")[0].clone();
    let login = BASE64.encode(b"the+client:s3cret%2Bof%25n0b0dy");
    assert!(first.starts_with("POST /oauth/token HTTP/1.1\r\n"), "{first}");
    assert!(first.to_ascii_lowercase().contains("content-type: application/x-www-form-urlencoded"), "{first}");
    assert!(first.contains(&format!("Basic {login}")), "{first}");
    assert!(first.ends_with("grant_type=client_credentials&scope=read+write"), "{first}");
    assert_eq!(endpoint.count(), 1, "one token for all that a start connects");
    // Longer than it lives: by then there is another, and deliveries go on.
    bridge.wait("it is renewed", SOON, |_| endpoint.count() >= 3);
    for frame in frames(4..=6) {
        relay.push(&frame);
    }
    bridge.wait_delivered(6, SOON);
    assert!(endpoint.count() < 12, "and not all the time: {}", endpoint.count());
    is_clean(&bridge);
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn what_is_wrong_with_a_token_is_one_line() {
    let Some(broker) = broker(SASL) else { return };
    let cases = [
        (
            Answer::Text(401, format!(r#"{{"error":"invalid_client","error_description":"not {SECRET}"}}"#)),
            "it answers 401 invalid_client: are --sasl-oauth-client-id and its secret right?",
        ),
        (
            Answer::Text(404, format!("<html>{SECRET}")),
            "it answers 404 without JSON: is --sasl-oauth-token-url a token",
        ),
        // The broker takes tokens of an endpoint, and this is none of it.
        (
            Answer::Text(200, r#"{"access_token":"x.y.z","expires_in":60}"#.into()),
            "the broker refuses the token of --sasl-oauth-token-url (",
        ),
    ];
    for (answer, want) in cases {
        let endpoint = Endpoint::start(answer);
        let args = ["--sasl-oauth-token-url", &endpoint.url];
        let env = [("ATKAFKA_SASL_OAUTH_CLIENT_SECRET", SECRET)];
        let (_relay, bridge) = start(&broker, &unique("no-token"), &args, &env);
        bridge
            .wait(want, SOON, |b| b.get("/readyz").is_some_and(|(status, body)| status == 503 && body.contains(want)));
        std::thread::sleep(Duration::from_secs(3));
        let lines: Vec<String> = bridge.log().into_iter().filter(|l| l.contains("output: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(want), "{lines:#?}");
        assert!(bridge.metric("atkafka_kafka_errors") >= 1.0);
        assert!(endpoint.count() <= 3, "a wrong secret is not tried all the time: {}", endpoint.count());
        is_clean(&bridge);
        // It comes about, and goes on without a restart.
        *endpoint.answer.lock().expect("given") = Answer::Token { seconds: 3600 };
        if want.contains("it answers") {
            bridge.wait_delivered(3, SOON);
            assert_eq!(bridge.stop().0, Some(0));
        }
    }
    let nowhere = format!("http://127.0.0.1:{}/token", free_port());
    let env = [("ATKAFKA_SASL_OAUTH_CLIENT_SECRET", SECRET)];
    let (_relay, bridge) = start(&broker, &unique("no-token"), &["--sasl-oauth-token-url", &nowhere], &env);
    let want = format!("no token from {nowhere}: connection refused: does it run, is --sasl-oauth-token-url right?");
    bridge.wait(&want, SOON, |b| b.get("/readyz").is_some_and(|(_, body)| body.contains(&want)));
    is_clean(&bridge);
}
