//! A service of systemd: what the manager is told and when, the unit, the settings, and an installation, started as its
//! unit says. The brokers are librdkafka's own simulated ones.

use std::collections::HashMap;
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atkafka::pipeline::producer::DRAIN;
use atkafka_fixtures::frames;
use atkafka_fixtures::jetstream::{Jetstream, JetstreamConfig};
use atkafka_fixtures::ozone::{IDENTIFIER, LABELER, Ozone, OzoneConfig, PASSWORD};
use atkafka_fixtures::relay::{DropHow, Relay, RelayConfig};
use atkafka_fixtures::tap::{Tap, TapConfig};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::support::*;
use crate::{BINARY, SOON, read, root};

const MODES: [(&str, &str); 4] = [
    ("relay", "firehose relay"),
    ("jetstream", "firehose jetstream"),
    ("tap", "firehose tap"),
    ("ozone", "ozone-events"),
];

fn fixture(count: usize) -> Vec<Vec<u8>> {
    let mut all = frames::read(root().join("fixtures/network.bin.zst")).expect("the fixture");
    all.truncate(count);
    all
}

/// One broker, with the topic.
fn cluster(topic: &str) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).expect("a simulated cluster");
    cluster.create_topic(topic, 2, 1).expect("a topic");
    cluster
}

/// The manager's end of the socket.
struct Manager {
    name: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    /// With an abstract name, as containers have it.
    fn abstract_name() -> Manager {
        let name = unique("atkafka-manager");
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        Self::listen(format!("@{name}"), UnixDatagram::bind_addr(&address).expect("a socket"))
    }

    /// With a path, as systemd has it.
    fn path() -> Manager {
        // A socket's path has 108 bytes at most.
        let path = std::env::temp_dir().join(unique("manager"));
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Self::listen(path.to_string_lossy().into_owned(), socket)
    }

    fn listen(name: String, socket: UnixDatagram) -> Manager {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = heard.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(n) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                all.lock().expect("heard").extend(text.lines().map(str::to_string));
            }
        });
        Manager { name, heard }
    }

    /// All assignments so far.
    fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("heard").clone()
    }

    fn count(&self, line: &str) -> usize {
        self.heard().iter().filter(|l| *l == line).count()
    }

    fn wait(&self, what: &str, timeout: Duration, seen: impl Fn(&Manager) -> bool) {
        let until = Instant::now() + timeout;
        while !seen(self) {
            assert!(Instant::now() < until, "not within {timeout:?}: {what}\nheard: {:#?}", self.heard());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(&self, parts: &[&str]) -> bool {
        self.heard().iter().any(|l| l.starts_with("STATUS=") && parts.iter().all(|p| l.contains(p)))
    }
}

#[test]
fn ready_when_source_and_broker_are_there_then_alive_over_outages_and_stopping() {
    let manager = Manager::abstract_name();
    let cluster = cluster("events");
    cluster.broker_down(1).expect("down");
    let (port, state) = (free_port(), folder("state"));
    let url = format!("ws://127.0.0.1:{port}");
    let servers = cluster.bootstrap_servers();
    let mut bridge = Bridge::start_with(
        &["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", &servers, "--output-topic", "events"],
        &[
            ("NOTIFY_SOCKET", &manager.name),
            ("WATCHDOG_USEC", "2000000"),
            ("STATE_DIRECTORY", &state.to_string_lossy()),
        ],
    );
    // Neither is there: the start gets more time, and the status says why.
    manager.wait("more time for the start", SOON, |m| m.heard().iter().any(|l| l.starts_with("EXTEND_TIMEOUT_USEC=")));
    manager.wait("why it is not ready", SOON, |m| m.status(&["not connected to 127.0.0.1", "output"]));
    let config = RelayConfig { port, rate: 20.0, ..RelayConfig::looped(fixture(200), 100_000) };
    let relay = Relay::start(config).expect("a relay");
    bridge.wait("connected to the relay alone", SOON, |b| b.metric("atkafka_connected") == 1.0);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(manager.count("READY=1"), 0, "the broker is away");
    assert_eq!(manager.count("WATCHDOG=1"), 0, "no watchdog before it is ready");
    cluster.broker_up(1).expect("up");
    manager.wait("ready", SOON, |m| m.count("READY=1") == 1);
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200));
    bridge.wait_delivered(20, SOON);
    manager.wait("rate and lag", SOON, |m| {
        let goes = m.heard().into_iter().filter(|l| l.contains(" delivered ") && l.contains(", lag "));
        goes.filter_map(|l| l.strip_prefix("STATUS=received ")?.split('/').next()?.parse::<u32>().ok())
            .any(|rate| rate > 0)
    });
    let alive = |when: &str| {
        let before = manager.count("WATCHDOG=1");
        manager.wait(when, SOON, |m| m.count("WATCHDOG=1") > before + 5);
    };

    // Outages are no hang.
    relay.pause(DropHow::Rst);
    bridge.wait("the relay is away", SOON, |b| b.metric("atkafka_connected") == 0.0);
    alive("signs of life without the relay");
    cluster.broker_down(1).expect("down");
    relay.resume();
    bridge.wait("the broker is away, and events wait", SOON, |b| b.metric("atkafka_frames_in_flight") >= 10.0);
    alive("signs of life without the broker");
    cluster.broker_up(1).expect("up");
    bridge.wait("it is delivered", SOON, |b| b.metric("atkafka_last_seq_delivered") >= 60.0);

    assert_eq!(manager.count("STOPPING=1"), 0);
    bridge.signal("TERM");
    manager.wait("stopping", SOON, |m| m.count("STOPPING=1") == 1);
    assert_eq!(bridge.end(SOON).code(), Some(0));
    assert_eq!(manager.count("READY=1"), 1, "once");
    let known = ["READY=1", "STOPPING=1", "WATCHDOG=1", "STATUS=", "EXTEND_TIMEOUT_USEC="];
    let odd: Vec<String> = manager.heard().into_iter().filter(|l| !known.iter().any(|k| l.starts_with(k))).collect();
    assert!(odd.is_empty(), "{odd:?}");
}

#[test]
fn no_sign_of_life_while_the_producer_hangs() {
    let manager = Manager::path();
    let relay = Relay::start(RelayConfig::looped(fixture(200), 100_000)).expect("a relay");
    // A pipe that nobody reads holds the producer in the middle of a turn.
    let mut service = Service::start(
        Path::new(BINARY),
        &["firehose", "relay"],
        &[
            ("ATKAFKA_RELAY_HOST", &relay.url()),
            ("METRICS_LISTEN_ADDRESS", "none"),
            ("NOTIFY_SOCKET", &manager.name),
            ("WATCHDOG_USEC", "2000000"),
        ],
    );
    manager.wait("ready", SOON, |m| m.count("READY=1") == 1);
    std::thread::sleep(Duration::from_secs(2));
    let before = manager.count("WATCHDOG=1");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(manager.count("WATCHDOG=1"), before, "longer than WATCHDOG_USEC: systemd ends it by now");
    let mut out = service.child.stdout.take().expect("piped");
    std::thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(1..) = out.read(&mut buffer) {}
    });
    manager.wait("alive again", SOON, |m| m.count("WATCHDOG=1") > before + 1);
    let _ = std::fs::remove_file(&manager.name);
}

#[test]
fn a_watchdog_of_somebody_else_and_no_manager_at_all() {
    let relay = Relay::start(RelayConfig::looped(fixture(200), 200)).expect("a relay");
    let url = relay.url();
    let manager = Manager::abstract_name();
    for env in [
        [("NOTIFY_SOCKET", manager.name.as_str()), ("WATCHDOG_USEC", "400000"), ("WATCHDOG_PID", "1")],
        // Nobody listens there: it works all the same.
        [("NOTIFY_SOCKET", "/nowhere/at/all"), ("WATCHDOG_USEC", "400000"), ("WATCHDOG_PID", "")],
    ] {
        let bridge = Bridge::start_with(&["firehose", "relay", "--relay-host", &url], &env);
        bridge.wait_delivered(200, SOON);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(bridge.stop().0, Some(0));
    }
    assert_eq!(manager.count("WATCHDOG=1"), 0);
    assert_eq!(manager.count("READY=1"), 1);
}

#[test]
fn a_failure_is_the_last_status() {
    let ozone = Ozone::start(OzoneConfig::default()).expect("an Ozone");
    let manager = Manager::abstract_name();
    let url = ozone.url();
    let mut bridge = Bridge::start_with(
        &["ozone-events", "--pds-host", &url, "--identifier", IDENTIFIER, "--labeler-did", LABELER],
        &[("NOTIFY_SOCKET", &manager.name), ("ATKAFKA_OZONE_PASSWORD", "wrong")],
    );
    assert_eq!(bridge.end(SOON).code(), Some(2));
    manager.wait("stopping", SOON, |m| m.count("STOPPING=1") == 1);
    assert!(manager.status(&["password"]), "{:?}", manager.heard());
    assert_eq!(manager.count("READY=1"), 0);
}

// --- the unit -----------------------------------------------------------------------------------

/// The values of a key of the unit, in order.
fn values(unit: &str, key: &str) -> Vec<String> {
    unit.lines().filter_map(|l| l.strip_prefix(key)?.strip_prefix('=').map(str::to_string)).collect()
}

/// The only value.
fn value(unit: &str, key: &str) -> String {
    let all = values(unit, key);
    assert_eq!(all.len(), 1, "{key}: {all:?}");
    all[0].clone()
}

/// `scripts/install.sh`, with these variables.
fn install(args: &[&str], env: &[(&str, &str)]) -> String {
    let out = Command::new(root().join("scripts/install.sh"))
        .args(args)
        .env("BIN", BINARY)
        .envs(env.iter().copied())
        .output()
        .expect("the script runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

#[test]
fn systemd_takes_the_unit_and_calls_it_safe() {
    let have = Command::new("systemd-analyze").arg("--version").output();
    let Ok(version) = have.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()) else {
        assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "systemd-analyze is missing in CI");
        println!("skipped: systemd-analyze is not installed");
        return;
    };
    let version: u32 = version.split_whitespace().nth(1).and_then(|v| v.parse().ok()).expect("its version");
    let dir = folder("unit");
    let text = |path: &str| dir.join(path).to_string_lossy().into_owned();
    install(&[], &[("PREFIX", &text("usr")), ("SYSCONFDIR", &text("etc"))]);
    for (mode, _) in MODES {
        let unit = dir.join(format!("atkafka@{mode}.service"));
        std::fs::copy(dir.join("etc/systemd/system/atkafka@.service"), &unit).expect("copied");
        let run = |args: &[&str]| {
            let out = Command::new("systemd-analyze").args(args).arg(&unit).output().expect("systemd-analyze runs");
            let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            (out.status.success(), text)
        };
        let (well, said) = run(&["verify", "--man=no"]);
        // They are passed over before 254, which the unit says.
        let younger = ["RestartSteps", "RestartMaxDelaySec"];
        let odd: Vec<&str> =
            said.lines().filter(|l| version >= 254 || !younger.iter().any(|key| l.contains(key))).collect();
        assert!(well && odd.is_empty(), "{mode}: {said}");
        let (_, said) = run(&["security", "--offline=true", "--no-pager"]);
        let level = said.split("exposure level for").nth(1).and_then(|t| t.split_whitespace().nth(1)?.parse().ok());
        assert!(level.is_some_and(|level: f64| level < 2.0), "{mode}: {level:?}\n{said}");
    }
}

#[test]
fn the_unit_fits_the_program() {
    let unit = read(root().join("packaging/systemd/atkafka@.service"));
    assert_eq!(value(&unit, "Type"), "notify");
    let seconds = |key| value(&unit, key).trim_end_matches('s').parse::<u64>().expect("seconds");
    assert!(seconds("TimeoutStopSec") >= DRAIN.as_secs() + 5, "the drain, and the last save");
    // Wrong usage ends with 2.
    assert_eq!(value(&unit, "RestartPreventExitStatus"), "2");
    assert_eq!(run(&["firehose", "relay", "--workers", "x"], &[]).0, Some(2));
    assert!(
        value(&unit, "LimitNOFILE").parse::<u64>().expect("a number") >= 4_096,
        "256 look-ups, brokers and scrapes"
    );
    assert_eq!(value(&unit, "LimitCORE"), "0", "passwords are in the memory");
    let memory = value(&unit, "MemoryMax").trim_end_matches('G').parse::<u64>().expect("GiB") << 10;
    assert!(
        memory >= 128 + 64 + 256 + 150 + 128,
        "the default limit, what is promised beside it, caches, look-ups, and air"
    );
}

// --- the settings -------------------------------------------------------------------------------

/// Names and values, in order.
type Settings = Vec<(String, String)>;

/// The lines of a file of settings, and those that are commented out.
fn settings(text: &str) -> (Settings, Settings) {
    let (mut active, mut offered) = (Vec::new(), Vec::new());
    for line in text.lines().filter(|l| !l.is_empty()) {
        let (list, line) = match line.strip_prefix('#') {
            // A comment has a blank behind the hash.
            Some(rest) if rest.starts_with(' ') => continue,
            Some(rest) => (&mut offered, rest),
            None => (&mut active, line),
        };
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("no setting: {line:?}"));
        // A shell would read them, too.
        let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let value = quoted.unwrap_or(value);
        assert!(!value.is_empty() && !value.contains(['"', '\'', '$']) && (quoted.is_some() || !value.contains(' ')));
        list.push((name.to_string(), value.to_string()));
    }
    (active, offered)
}

#[test]
fn each_setting_of_the_examples_is_one_of_the_program() {
    for (mode, command) in MODES {
        let (active, offered) = settings(&read(root().join(format!("packaging/systemd/{mode}.env"))));
        assert_eq!(active[0], ("ATKAFKA_COMMAND".to_string(), command.to_string()), "{mode}");
        let words: Vec<&str> = command.split(' ').collect();
        let (_, help, _) = run(&[&words[..], &["--help"]].concat(), &[]);
        for (name, _) in active[1..].iter().chain(&offered) {
            assert!(help.contains(&format!("[{name}]")), "{mode}: no flag has {name}");
        }
        let mut names: Vec<&String> = active.iter().chain(&offered).map(|(name, _)| name).collect();
        names.sort();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{mode}: {names:?}");

        // As it is, and with everything that is offered.
        let secret = folder("secret").join("password");
        std::fs::write(&secret, "secret\n").expect("a file");
        let secret = secret.to_string_lossy().into_owned();
        for all in [false, true] {
            let mut env: HashMap<String, String> = active[1..].iter().cloned().collect();
            if all {
                env.extend(offered.clone());
                // One of the two.
                env.remove("ATKAFKA_OZONE_PASSWORD");
            }
            for (_, value) in env.iter_mut().filter(|(_, v)| v.starts_with("/run/credentials/")) {
                assert!(value.starts_with(&format!("/run/credentials/atkafka@{mode}.service/")), "{mode}: {value}");
                *value = secret.clone();
            }
            for host in ["ATKAFKA_RELAY_HOST", "ATKAFKA_TAP_HOST", "ATKAFKA_OZONE_PDS_HOST"] {
                env.insert(host.into(), "http://127.0.0.1:1".into());
            }
            env.insert("ATKAFKA_BOOTSTRAP_SERVERS".into(), "127.0.0.1:1".into());
            env.remove("METRICS_LISTEN_ADDRESS");
            env.remove("ATKAFKA_LOG_LEVEL");
            let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let bridge = Bridge::start_with(&words, &env);
            let topic = &active.iter().find(|(name, _)| name == "ATKAFKA_OUTPUT_TOPIC").expect("a topic").1;
            bridge.wait("it starts", SOON, |b| b.log_contains(&format!(": into {topic}, ")));
        }
    }
}

// --- an installation ----------------------------------------------------------------------------

/// A process, ended with the test.
struct Service {
    child: Child,
}

impl Service {
    fn start(program: &Path, args: &[&str], env: &[(&str, &str)]) -> Service {
        let child = Command::new(program)
            .args(args)
            .env_clear()
            .envs(env.iter().copied())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        Service { child }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files below a folder, with their modes.
fn tree(dir: &Path) -> Vec<(String, u32)> {
    let (mut folders, mut files) = (vec![dir.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mode = path.metadata().expect("a file").permissions().mode() & 0o777;
                files.push((path.strip_prefix(dir).expect("below").to_string_lossy().into_owned(), mode));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn an_installation_starts_as_its_unit_says() {
    let dest = folder("dest");
    let dest_text = dest.to_string_lossy().into_owned();
    install(&[], &[("DESTDIR", &dest_text), ("PREFIX", "/usr")]);
    let unit = read(dest.join("usr/lib/systemd/system/atkafka@.service"));
    let exec = value(&unit, "ExecStart");
    assert_eq!(exec, "/usr/bin/atkafka $ATKAFKA_COMMAND");
    let cluster = cluster("atproto-events");
    cluster.create_topic("ozone-events", 2, 1).expect("a topic");
    let servers = cluster.bootstrap_servers();
    let relay = Relay::start(RelayConfig::looped(fixture(50), 50)).expect("a relay");
    let jetstream = Jetstream::start(JetstreamConfig::default()).expect("a Jetstream");
    let tap = Tap::start(TapConfig::default()).expect("a Tap");
    let ozone = Ozone::start(OzoneConfig::default()).expect("an Ozone");
    for (mode, _) in MODES {
        let manager = Manager::path();
        let file = value(&unit, "EnvironmentFile").replace("%i", mode);
        let (mut env, _) = settings(&read(dest.join(file.trim_start_matches('/'))));
        let mut set = |name: &str, value: &str| {
            env.retain(|(n, _)| n != name);
            env.push((name.to_string(), value.to_string()));
        };
        let state = folder("state");
        set("ATKAFKA_BOOTSTRAP_SERVERS", &servers);
        set("ATKAFKA_RELAY_HOST", &relay.url());
        set("ATKAFKA_JETSTREAM_HOST", &jetstream.url());
        set("ATKAFKA_TAP_HOST", &tap.url());
        set("ATKAFKA_OZONE_PDS_HOST", &ozone.url());
        set("ATKAFKA_OZONE_IDENTIFIER", IDENTIFIER);
        set("ATKAFKA_OZONE_LABELER_DID", LABELER);
        set("ATKAFKA_OZONE_PASSWORD", PASSWORD);
        set("METRICS_LISTEN_ADDRESS", "127.0.0.1:0");
        // What systemd sets.
        set("NOTIFY_SOCKET", &manager.name);
        set("STATE_DIRECTORY", &state.to_string_lossy());
        let env: Vec<(&str, &str)> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        // A variable without braces becomes as many words as it has.
        let words: Vec<&str> = exec
            .split(' ')
            .flat_map(|word| match word.strip_prefix('$') {
                Some(name) => env.iter().find(|(n, _)| *n == name).expect("set").1.split(' ').collect(),
                None => vec![word],
            })
            .collect();
        let mut service = Service::start(&dest.join(words[0].trim_start_matches('/')), &words[1..], &env);
        manager.wait(&format!("{mode} is ready"), SOON, |m| m.count("READY=1") == 1);
        let pid = service.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().is_ok_and(|s| s.success()));
        assert_eq!(service.child.wait().expect("waited").code(), Some(0), "{mode}");
        assert_eq!(manager.count("STOPPING=1"), 1, "{mode}");
        let cursors = tree(&state).iter().filter(|(name, _)| name.ends_with(".lock")).count();
        assert_eq!(cursors, usize::from(mode != "tap"), "{mode}: a Tap keeps the position itself");
        let _ = std::fs::remove_file(&manager.name);
    }
}

/// A tree whose program is older than its source gets a new one first; no other program is ever taken, as that of `make dist`.
#[test]
fn an_installation_takes_no_program_that_is_older_than_its_source() {
    let dir = folder("stale");
    let sh = |line: &str| {
        let out = Command::new("bash").args(["-ec", line]).current_dir(&dir).output().expect("bash");
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    // The project as far as the script reads it, and a build that only copies.
    let root = root().display();
    sh(&format!(
        "mkdir -p src target/vendored/release && cp -r {root}/scripts {root}/packaging {root}/docs {root}/schema . &&
         cp {root}/{{*.md,LICENSE,Cargo.*,build.rs}} {root}/docker-compose*.yml . && touch src/main.rs &&
         cp {BINARY} target/vendored/release/atkafka &&
         printf '#!/bin/sh\\necho built >>builds; mkdir -p target/release; cp {BINARY} target/release/\\n' >scripts/build.sh"
    ));
    let install = "unset BIN CARGO_TARGET_DIR; DESTDIR=$PWD/dest scripts/install.sh; cat builds";
    assert!(sh(install).contains("target/release/atkafka is missing or older than its source: building it"));
    let again = sh(install);
    assert!(!again.contains("building") && again.ends_with("built\n") && !again.ends_with("built\nbuilt\n"), "{again}");
    sh("touch -d '+1 min' src/main.rs");
    assert!(sh(install).ends_with("built\nbuilt\n"), "the source is newer");
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn install_puts_everything_in_its_place_and_uninstall_takes_it_away() {
    let dest = folder("dest");
    let text = dest.to_string_lossy().into_owned();
    let env = [("DESTDIR", text.as_str()), ("PREFIX", "/opt/at")];
    install(&[], &env);
    let mut want = vec![
        ("etc/systemd/system/atkafka@.service".to_string(), 0o644),
        ("opt/at/bin/atkafka".into(), 0o755),
        ("opt/at/share/bash-completion/completions/atkafka".into(), 0o644),
        ("opt/at/share/fish/vendor_completions.d/atkafka.fish".into(), 0o644),
        ("opt/at/share/man/man1/atkafka.1".into(), 0o644),
        ("opt/at/share/zsh/site-functions/_atkafka".into(), 0o644),
    ];
    for (mode, _) in MODES {
        want.push((format!("etc/atkafka/{mode}.env"), 0o600));
        want.push((format!("opt/at/share/doc/atkafka/examples/{mode}.env"), 0o644));
    }
    // The documents, with their links as they are; and what Compose, Prometheus and Grafana read, each where the next one looks.
    let taken = install(&["--files"], &[]);
    assert!(taken.lines().count() > 20, "{taken}");
    for file in taken.lines() {
        let place = match file {
            "packaging/third-party-notices.txt" => "doc/atkafka/third-party-notices.txt".into(),
            _ if file.starts_with("packaging/") || file.starts_with("docker-compose") => format!("atkafka/{file}"),
            _ => format!("doc/atkafka/{file}"),
        };
        want.push((format!("opt/at/share/{place}"), 0o644));
    }
    want.sort();
    assert_eq!(tree(&dest), want);
    let size = |path: &Path| path.metadata().expect("a file").len();
    assert!(size(&dest.join("opt/at/bin/atkafka")) < size(Path::new(BINARY)), "stripped");
    let unit = read(dest.join("etc/systemd/system/atkafka@.service"));
    assert_eq!(value(&unit, "ExecStart"), "/opt/at/bin/atkafka $ATKAFKA_COMMAND", "the path follows PREFIX");

    // Settings are the operator's: neither a second installation nor the end of one touches them.
    let changed = dest.join("etc/atkafka/relay.env");
    std::fs::write(&changed, "ATKAFKA_COMMAND=record\n").expect("written");
    install(&[], &env);
    assert_eq!(read(&changed), "ATKAFKA_COMMAND=record\n");
    let said = install(&["--uninstall"], &env);
    assert!(said.contains("etc/atkafka/relay.env"), "{said}");
    let left: Vec<String> = tree(&dest).into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["etc/atkafka/relay.env"]);
}
