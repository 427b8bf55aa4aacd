//! The status page and `/status`: each field is there and in the documents, what only this machine may see is shown to no
//! other, and what comes from the network stays text in a real browser.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use atkafka_fixtures::frames;
use atkafka_fixtures::network::builder::{A_TIME, Commit, Op, identity_frame, record};
use atkafka_fixtures::relay::{Inject, Relay, RelayConfig};
use data_encoding::BASE64;
use ipld_core::ipld;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::*;
use crate::{DID, SOON};

/// What a page that takes it for markup would run.
const EVIL: &str = "<img src=x onerror=\"document.title='taken over'\"><script>document.title='taken over'</script>";

/// A relay whose texts are markup wherever it can say something: collections, record keys, notices, frames.
fn evil_relay() -> Relay {
    let post = record(&ipld!({ "$type": "app.bsky.feed.post", "text": EVIL }));
    let float = record(&ipld!({ "$type": "app.bsky.feed.post", "n": 1.5 }));
    let commit = || Commit::new(DID, "3kaaaaaaaaaa2");
    let list = vec![
        frames::info_frame("OutdatedCursor", Some(EVIL)),
        commit().ops([Op::create(&format!("{EVIL}.a.b/1"), &post), Op::create("app.bsky.feed.post/1", &post)]).frame(1),
        commit().op(Op::create(&format!("app.bsky.feed.post/{EVIL}"), &float)).frame(2),
        identity_frame(3, DID, A_TIME, Some(EVIL)),
    ];
    let mut config = RelayConfig::script(list);
    config.faults.inject.push(Inject::text(2, EVIL));
    Relay::start(config).expect("a relay")
}

fn started(relay: &Relay) -> Bridge {
    let nobody = "http://user:hunter2@127.0.0.1:1";
    let url = relay.url();
    let args = ["firehose", "relay", "--relay-host", &url, "--cursor", "oldest", "--plc-host", "http://127.0.0.1:1"];
    let bridge = Bridge::start_with(&args, &[("HTTP_PROXY", nobody), ("ATKAFKA_METADATA_TIMEOUT", "1s")]);
    bridge.wait_delivered(3, SOON);
    bridge
}

/// `GET path` with these headers: the head of the answer, and its body.
fn ask(port: u16, path: &str, headers: &str) -> (String, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    write!(socket, "GET {path} HTTP/1.1\r\n{headers}\r\n").expect("written");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_string(), body.to_string())
}

fn status(bridge: &Bridge, headers: &str) -> Value {
    let (head, body) = ask(bridge.port, "/status", headers);
    assert!(head.contains("200 OK") && head.contains("application/json") && head.contains("no-store"), "{head}");
    serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}"))
}

/// The names of all fields that hold something, such as `sources[].name`.
fn fields(value: &Value, at: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                fields(value, &if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, out);
            }
        }
        Value::Array(list) => {
            assert!(!list.is_empty() || at == "reasons", "{at} is empty: nothing is known of its fields");
            if list.is_empty() {
                out.insert(format!("{at}[]"));
            }
            list.iter().for_each(|value| fields(value, &format!("{at}[]"), out));
        }
        _ => {
            out.insert(at.to_string());
        }
    }
}

#[test]
fn each_field_of_status_is_in_the_documents_and_says_what_happened() {
    let relay = evil_relay();
    let bridge = started(&relay);
    bridge.wait("the first sample of the chart", SOON, |b| {
        b.get("/status").is_some_and(|(_, s)| !s.contains("\"lag_seconds\":[],"))
    });
    let status = status(&bridge, "Host: localhost\r\n");
    let mut there = BTreeSet::new();
    fields(&status, "", &mut there);
    let document = include_str!("../../docs/operating.md");
    let section =
        document.split("## Status page").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
    let told: BTreeSet<String> =
        rows.flat_map(|names| names.split('`').skip(1).step_by(2)).map(str::to_string).collect();
    assert_eq!(there, told, "on the left what there is, on the right what docs/operating.md tells");

    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["output"], &status["local"]), (&"stdout".into(), &true.into()));
    assert_eq!(status["sources"][0]["state"], "connected");
    assert_eq!(status["sources"][0]["frames"], 5, "an #info, two commits, a text and an #identity");
    assert_eq!(status["totals"]["delivered"], 4, "two posts, an identity and the info of the gap");
    assert_eq!(status["waiting"]["frames"], 0);
    let events = status["events"].as_array().expect("a list");
    let posts = events.iter().find(|e| e["collection"] == "app.bsky.feed.post").expect("posts");
    assert_eq!((&posts["action"], &posts["count"]), (&"operation#create".into(), &1.into()));
    assert_eq!(status["dead_letters"]["count"], 2);
    let letters = status["dead_letters"]["last"].as_array().expect("a list");
    let text = letters.iter().find(|l| l["reason"] == "text_frame").expect("the text");
    assert_eq!(text["bytes"], BASE64.encode(EVIL.as_bytes()));
    assert_eq!(text["size"], EVIL.len());
    assert_eq!(status["gaps"]["last"][0]["kind"], "outdated_cursor");
    assert!(status["gaps"]["last"][0]["detail"].as_str().is_some_and(|detail| detail.contains("<script>")));
    let settings = status["settings"].as_array().expect("a list");
    let from = |flag: &str| settings.iter().find(|s| s["flag"] == flag).map(|s| s["from"].clone());
    assert_eq!(from("--cursor"), Some("flag".into()));
    assert_eq!(from("--metadata-timeout"), Some("ATKAFKA_METADATA_TIMEOUT".into()));
    assert!(!status.to_string().contains("hunter2"));
}

#[test]
fn settings_and_bytes_are_shown_to_this_machine_only() {
    let relay = evil_relay();
    let bridge = started(&relay);
    for (headers, local) in [
        ("Host: localhost:6009\r\n", true),
        ("Host: 127.0.0.1\r\n", true),
        ("Host: atkafka.example\r\n", false),
        ("Host: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n", false),
    ] {
        let status = status(&bridge, headers);
        assert_eq!(status["local"], local, "{headers}");
        assert_eq!(status["settings"].is_array(), local, "{headers}");
        let letters = status["dead_letters"]["last"].as_array().expect("a list");
        assert!(letters.len() == 2 && letters.iter().all(|l| l["bytes"].is_string() == local), "{headers}");
        assert!(letters[0]["size"].as_u64().is_some_and(|size| size > 0), "the size is no secret");
    }
}

#[test]
fn the_page_is_one_answer_and_its_policy_allows_nothing_from_outside() {
    let relay = evil_relay();
    let bridge = started(&relay);
    let (head, page) = ask(bridge.port, "/", "Host: localhost\r\n");
    let policy = head.lines().find_map(|l| l.strip_prefix("Content-Security-Policy: ")).expect("a policy");
    for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
        let text = page.split(&format!("<{tag}>")).nth(1).and_then(|t| t.split(&format!("</{tag}>")).next());
        let hash = BASE64.encode(&Sha256::digest(text.expect("its text").as_bytes()));
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}';")), "{policy}");
        assert_eq!(page.matches(&format!("<{tag}")).count(), 1);
    }
    assert!(policy.starts_with("default-src 'none';") && policy.contains("connect-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
    assert!(head.contains("X-Content-Type-Options: nosniff"), "{head}");
    for word in [" src=", "@import", "url(", "http://localhost", " style=", " onclick", "<link rel=\"stylesheet\""] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn a_browser_shows_what_comes_from_the_network_as_text_and_has_no_complaint() {
    let relay = evil_relay();
    let bridge = started(&relay);
    let profile = folder("browser");
    let browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=7000"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(["--dump-dom", &format!("http://localhost:{}/", bridge.port)])
        .output();
    let Ok(out) = browser else {
        println!("skipped: chromium is not installed");
        return;
    };
    let (page, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let body = page.split("<script>").next().unwrap_or_default();
    assert!(body.contains(">ready<") || body.contains(">not ready<"), "the script has run: {page}\n{said}");
    // In the collection, the dead letters' details and bytes, and the gap.
    assert!(body.matches("&lt;img src=x onerror=").count() >= 4, "{body}");
    assert!(!body.contains("<img") && body.contains("<title>atkafka</title>"), "{body}");
    assert!(!said.contains("CONSOLE"), "{said}");
}
