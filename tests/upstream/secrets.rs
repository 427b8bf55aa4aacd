//! No secret of ours is in anything that somebody reads: a marker stands in each place that holds one, servers repeat what they
//! are told, and everything that comes out is searched, at the most talkative level.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use atkafka_fixtures::ozone::{LABELER, Ozone, OzoneConfig};
use atkafka_fixtures::tap::{Tap, TapConfig, TapEvent};
use data_encoding::BASE64;

use crate::SOON;
use crate::support::*;

const MARKER: &str = "m4rker-0f-n0b0dy";
const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";

/// Answers each request with what it was asked, in this place: `ECHO` stands for it.
fn echo(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut asked = vec![0; 8192];
            let _ = socket.set_read_timeout(Some(Duration::from_millis(300)));
            let mut end = 0;
            while let Ok(n @ 1..) = socket.read(&mut asked[end..]) {
                end += n;
            }
            // As one line that JSON and HTML may hold.
            let said = String::from_utf8_lossy(&asked[..end]).replace(['\r', '\n', '"', '{', '}'], " ");
            let body = answer.split_once("\n\n").expect("a head").1.replace("ECHO", &said);
            let head = answer.split_once("\n\n").expect("a head").0.replace("ECHO", &said).replace('\n', "\r\n");
            let _ = write!(socket, "{head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        }
    });
    address.to_string()
}

/// Runs it until the log has these words twice or it ends, and searches everything that came out.
fn searched(line: &[&str], env: &[(&str, &str)], says: &str) {
    for format in ["text", "json"] {
        let notify = folder("notify").join("socket");
        let socket = UnixDatagram::bind(&notify).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let news = Arc::new(Mutex::new(String::new()));
        let heard = news.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                if let Ok(n) = socket.recv(&mut buffer) {
                    *heard.lock().expect("news") += &String::from_utf8_lossy(&buffer[..n]);
                }
            }
        });
        let notify = notify.to_str().expect("UTF-8");
        let env = [env, &[("NOTIFY_SOCKET", notify)]].concat();
        let mut bridge = Bridge::start_with(&[line, &["--debug", "--log-format", format]].concat(), &env);
        bridge.wait(says, SOON, |b| b.log_contains(says));
        // What tells it elsewhere follows within a second.
        thread::sleep(Duration::from_millis(1500));
        let pages: Vec<String> = ["/readyz", "/metrics", "/"].iter().filter_map(|p| Some(bridge.get(p)?.1)).collect();
        bridge.signal("TERM");
        bridge.end(SOON);
        let out = [bridge.log().join("\n"), pages.join("\n"), news.lock().expect("news").clone()].join("\n");
        let encoded = BASE64.encode(format!("admin:{MARKER}").as_bytes());
        for secret in [MARKER, &encoded, &BASE64.encode(format!("user:{MARKER}").as_bytes())] {
            assert!(!out.contains(secret), "{line:?} {env:?}: {secret}: {out}");
        }
    }
}

#[test]
fn taps_password_is_not_shown_even_where_the_server_says_it() {
    let file = folder("secret").join("password");
    std::fs::write(&file, MARKER).expect("written");
    let file = file.to_str().expect("UTF-8");
    for (answer, says) in [
        ("HTTP/1.1 403 Forbidden\n\nno: ECHO", "HTTP 403"),
        ("HTTP/1.1 404 Not Found\n\n{\"error\":\"X\",\"message\":\"ECHO\"}", "HTTP 404"),
        ("HTTP/1.1 200 OK\n\n<title>ECHO</title>", "a web page"),
        ("HTTP/1.1 302 Found\nlocation: http://ECHO/\n\n", "a redirect"),
    ] {
        let url = format!("ws://{}", echo(answer));
        let line = ["firehose", "tap", "--tap-host", &url];
        searched(&[&line[..], &["--tap-password", MARKER]].concat(), &[], says);
        searched(&[&line[..], &["--tap-password-file", file]].concat(), &[("DEBUG", "true")], says);
        searched(&line, &[("ATKAFKA_TAP_PASSWORD", MARKER)], says);
    }
}

#[test]
fn a_login_is_not_shown_even_where_the_pds_says_it() {
    for (answer, says) in [
        ("HTTP/1.1 500 X\n\n{\"error\":\"InternalServerError\",\"message\":\"ECHO\"}", "HTTP 500"),
        ("HTTP/1.1 503 X\n\n<title>ECHO</title>", "a web page"),
        ("HTTP/1.1 429 X\n\nECHO", "HTTP 429"),
    ] {
        let url = format!("http://{}", echo(answer));
        let line = ["ozone-events", "--pds-host", &url, "--identifier", "a.example", "--labeler-did", DID];
        searched(&[&line[..], &["--password", MARKER]].concat(), &[], says);
        searched(&line, &[("ATKAFKA_OZONE_PASSWORD", MARKER)], says);
    }
}

#[test]
fn what_cannot_be_parsed_is_not_quoted() {
    let basic = format!("Basic {}", BASE64.encode(format!("admin:{MARKER}").as_bytes()));
    for message in [
        format!(r#"{{"id":"{basic} {MARKER}","type":"record"}}"#),
        format!(r#"{{"id":1,"type":"record","record":"{basic} {MARKER}"}}"#),
        format!(r#"{{"id":1,"type":"identity","identity":{{"did":"did:plc:x","is_active":"{basic} {MARKER}"}}}}"#),
    ] {
        let tap = Tap::start(TapConfig {
            password: Some(MARKER.into()),
            retry: Duration::from_secs(1),
            ..TapConfig::default()
        });
        let tap = tap.expect("a port");
        let url = tap.url();
        // Again and again, since there is more than one run.
        thread::spawn(move || {
            loop {
                tap.push([TapEvent::raw(1, message.as_bytes())]);
                thread::sleep(Duration::from_millis(500));
            }
        });
        let line = ["firehose", "tap", "--tap-host", &url, "--tap-password", MARKER];
        searched(&line, &[], "invalid type: string, expected");
    }
    let ozone = Ozone::start(OzoneConfig::default()).expect("a port");
    let tokens = format!(r#"{{"accessJwt":"{MARKER}","refreshJwt":"{MARKER}"}}"#);
    ozone.answer_raw("createSession", Some((200, tokens)));
    ozone.answer_raw("queryEvents", Some((200, format!(r#"{{"events":"Bearer {MARKER}"}}"#))));
    let url = ozone.url();
    let line = ["ozone-events", "--pds-host", &url, "--identifier", "a.example", "--labeler-did", LABELER];
    searched(&line, &[("ATKAFKA_OZONE_PASSWORD", MARKER)], "invalid type: string, expected a sequence");
}

#[test]
fn the_proxys_login_is_not_shown() {
    let refuses = crate::proxy::Proxy::start(Some("another"));
    let url = refuses.url(&format!("user:{MARKER}@"));
    let line = ["firehose", "relay", "--relay-host", "wss://host.test", "--plc-host", "https://host.test"];
    searched(&line, &[("HTTPS_PROXY", &url)], "HTTP 407");
    let line = ["ozone-events", "--pds-host", "https://host.test", "--identifier", "a.example", "--labeler-did", DID];
    searched(&line, &[("HTTPS_PROXY", &url), ("ATKAFKA_OZONE_PASSWORD", "another")], "through the proxy 127.0.0.1");
    for url in [format!("socks5://user:{MARKER}@a:1"), format!("http://user:{MARKER}@a:x"), format!("::{MARKER}")] {
        let (code, out, err) = run(&["firehose", "relay"], &[("HTTPS_PROXY", &url)]);
        assert!(code == Some(2) && err.contains("HTTPS_PROXY") && !(out + &err).contains(MARKER), "{err}");
    }
}
