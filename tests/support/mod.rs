//! What the tests drive the real binary with: the process, its metrics, and a reader of what arrived in Kafka.
#![allow(dead_code)] // each test file uses a part of it

pub mod kafka_script;
pub mod schema;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Headers;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

/// The variable that names a broker for the tests, set by `scripts/test.sh`.
pub const KAFKA: &str = "ATKAFKA_TEST_KAFKA";
/// A broker of 3.9, which the `kafka` crate can speak to.
pub const KAFKA_39: &str = "ATKAFKA_TEST_KAFKA_39";

/// The broker in `variable`. Without one a test fails, since it would prove nothing. `None`, which skips the test, only for
/// whoever asks for that by `ATKAFKA_TEST_KAFKA=none`; never with `CI=true`.
pub fn broker(variable: &str) -> Option<String> {
    let value = |variable: &str| std::env::var(variable).unwrap_or_default();
    if value(KAFKA) == "none" && value("CI") != "true" {
        println!("skipped: {KAFKA} is none");
        return None;
    }
    let broker = value(variable);
    assert!(
        !broker.is_empty() && broker != "none",
        "this test needs a broker in {variable}: `make test` starts two and sets it; with {KAFKA}=none it is skipped"
    );
    Some(broker)
}

/// A file or folder of `../shared`, the recorded data of the real network, which are no part of the project. A test that uses
/// them is ignored where they are not (`cfg(recorded_data)`, see build.rs); what is in `fixtures/` is everywhere.
pub fn shared(path: &str) -> PathBuf {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    assert!(full.exists(), "{} is missing", full.display());
    full
}

/// A name that no other test uses.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis());
    format!("{prefix}-{}-{}-{}", std::process::id(), time % 1_000_000_000, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A new empty folder under the build's temporary one.
pub fn folder(prefix: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique(prefix));
    std::fs::create_dir_all(&dir).expect("a folder for the test");
    dir
}

/// A port that was free just now, and that this process gives out once. Below those that the system gives out by itself,
/// so that no connection takes it meanwhile.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + (n % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The binary at work.
pub struct Bridge {
    child: Child,
    pub port: u16,
    log: Arc<Mutex<Vec<String>>>,
    out: Arc<Mutex<Vec<u8>>>,
}

impl Bridge {
    /// Starts `atkafka ARGS --metrics-listen-address 127.0.0.1:FREE`, in an empty environment and folder.
    pub fn start(args: &[&str]) -> Bridge {
        Self::start_with(args, &[])
    }

    pub fn start_with(args: &[&str], env: &[(&str, &str)]) -> Bridge {
        let port = free_port();
        let listen = format!("--metrics-listen-address=127.0.0.1:{port}");
        let mut child = command(args, env)
            .arg(listen)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (log, out) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (err_lines, stderr) = (log.clone(), child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if std::env::var_os("ATKAFKA_TEST_LOG").is_some() {
                    println!("    {line}");
                }
                err_lines.lock().expect("log").push(line);
            }
        });
        let (bytes, mut stdout) = (out.clone(), child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while let Ok(n @ 1..) = stdout.read(&mut buffer) {
                bytes.lock().expect("out").extend_from_slice(&buffer[..n]);
            }
        });
        Bridge { child, port, log, out }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lines on standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("log").clone()
    }

    pub fn log_contains(&self, text: &str) -> bool {
        self.log().iter().any(|l| l.contains(text))
    }

    /// Lines on standard output so far, whole ones.
    pub fn lines(&self) -> Vec<String> {
        let out = self.out.lock().expect("out");
        String::from_utf8_lossy(&out).lines().map(str::to_string).collect()
    }

    /// `GET path`: status and body. `None` while nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http_get(self.port, path)
    }

    /// The metrics, by name with labels as it stands in the text.
    pub fn metrics(&self) -> HashMap<String, f64> {
        let (_, text) = self.get("/metrics").unwrap_or_default();
        let samples = text.lines().filter(|l| !l.starts_with('#'));
        samples
            .filter_map(|l| l.rsplit_once(' ').and_then(|(name, v)| Some((name.to_string(), v.parse().ok()?))))
            .collect()
    }

    /// The sum of all samples whose name starts with `prefix` (0 when there is none).
    pub fn metric(&self, prefix: &str) -> f64 {
        self.metrics().iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, v)| v).sum()
    }

    /// Waits until `seen` says yes; fails the test with the log when it does not within `timeout`.
    pub fn wait(&self, what: &str, timeout: Duration, mut seen: impl FnMut(&Bridge) -> bool) {
        let until = Instant::now() + timeout;
        while !seen(self) {
            if Instant::now() > until {
                panic!("not within {timeout:?}: {what}\nlog:\n{}", self.log().join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until everything up to `seq` is acknowledged (of the only host).
    pub fn wait_delivered(&self, seq: u64, timeout: Duration) {
        self.wait(&format!("delivered up to seq {seq}"), timeout, |b| {
            b.metric("atkafka_last_seq_delivered") >= seq as f64
        });
    }

    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(done.is_ok_and(|s| s.success()), "kill -{name}");
    }

    /// SIGKILL, and gone.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited");
    }

    /// Waits for the end.
    pub fn end(&mut self, timeout: Duration) -> ExitStatus {
        let status = end_of(&mut self.child, timeout);
        status.unwrap_or_else(|| panic!("still runs after {timeout:?}\nlog:\n{}", self.log().join("\n")))
    }

    /// SIGTERM; the exit code.
    pub fn stop(mut self) -> (Option<i32>, Vec<String>) {
        self.signal("TERM");
        let status = self.end(Duration::from_secs(12));
        // The threads that read the pipes see their end a moment later.
        std::thread::sleep(Duration::from_millis(50));
        (status.code(), self.log())
    }

    /// Resident memory at its highest, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A second panic would hide the first.
        if !std::thread::panicking() {
            schema::check_lines(&self.out.lock().expect("out"));
        }
    }
}

pub fn command(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atkafka"));
    command.args(args).env_clear().envs(env.iter().copied()).current_dir(folder("cwd"));
    if let Some(backtrace) = std::env::var_os("RUST_BACKTRACE") {
        command.env("RUST_BACKTRACE", backtrace);
    }
    command
}

/// Runs the binary to its end: exit code, standard output, standard error.
pub fn run(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let out = command(args, env).stdin(Stdio::null()).output().expect("the binary runs");
    if args.contains(&"replay") && !args.contains(&"--help") {
        schema::check_lines(&out.stdout);
    }
    (
        out.status.code(),
        String::from_utf8_lossy(&out.stdout).into_owned(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    )
}

/// The same, but the binary is killed when it still runs after `timeout`; then there is no code.
pub fn run_for(args: &[&str], env: &[(&str, &str)], timeout: Duration) -> (Option<i32>, String, String) {
    let pipes = (Stdio::piped(), Stdio::piped());
    let child = command(args, env).stdin(Stdio::null()).stdout(pipes.0).stderr(pipes.1).spawn();
    let mut child = child.expect("the binary starts");
    end_of(&mut child, timeout);
    let out = child.wait_with_output().expect("output");
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// Waits for the end of a process. `None` when it still ran after `timeout` and was killed.
pub fn end_of(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait().expect("waited") {
            return Some(status);
        }
        if Instant::now() > until {
            let _ = child.kill();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `GET path` from a port of this machine.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(socket, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_string()))
}

/// A record as it arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub partition: i32,
    pub key: Option<String>,
    pub value: Vec<u8>,
    pub time_ms: Option<i64>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Arrived {
    pub fn json(&self) -> sonic_rs::Value {
        sonic_rs::from_slice(&self.value).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.value)))
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| String::from_utf8_lossy(v).into_owned())
    }
}

/// Everything that atkafka wrote into a topic, each partition in order, partition after partition. Events are as the schemas
/// say; dead letters are known by their headers.
pub fn consume(broker: &str, topic: &str) -> Vec<Arrived> {
    let arrived = consume_with(broker, topic, &[]);
    let events = arrived.iter().filter(|a| a.header("reason").is_none());
    events.for_each(|event| schema::check(&event.value));
    arrived
}

/// Everything in a topic of dead letters: those that the `kafka` crate wrote have no headers to be known by.
pub fn letters(broker: &str, topic: &str) -> Vec<Arrived> {
    consume_with(broker, topic, &[])
}

/// Everything in a topic, whoever wrote it, by a consumer with these properties.
pub fn consume_with(broker: &str, topic: &str, properties: &[(&str, &str)]) -> Vec<Arrived> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker).set("group.id", "tests").set("enable.auto.commit", "false");
    for (key, value) in properties {
        config.set(*key, *value);
    }
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let timeout = Duration::from_secs(20);
    let metadata = consumer.fetch_metadata(Some(topic), timeout).expect("metadata");
    let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|p| p.id()).collect();
    let (mut list, mut ends, mut total) = (TopicPartitionList::new(), HashMap::new(), 0);
    for partition in partitions {
        let until = Instant::now() + timeout;
        let (low, high) = loop {
            match consumer.fetch_watermarks(topic, partition, timeout) {
                Ok(marks) => break marks,
                Err(e) if Instant::now() > until => panic!("watermarks: {e}"),
                // A broker that was just fenced on a busy machine is the leader again in a moment.
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        };
        if high > low {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("offset");
            ends.insert(partition, high);
            total += high - low;
        }
    }
    let mut out: Vec<Arrived> = Vec::with_capacity(total as usize);
    if ends.is_empty() {
        return out;
    }
    consumer.assign(&list).expect("assigned");
    let until = Instant::now() + Duration::from_secs(120);
    while !ends.is_empty() {
        assert!(Instant::now() < until, "the topic could not be read to its end");
        let message = match consumer.poll(Duration::from_millis(200)) {
            None => continue,
            // Told while a connection is made anew, as on a busy machine; the client goes on by itself.
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AllBrokersDown))) => continue,
            Some(message) => message.expect("a message"),
        };
        if ends.get(&message.partition()).is_some_and(|end| message.offset() >= end - 1) {
            ends.remove(&message.partition());
        }
        let headers = message.headers().into_iter().flat_map(|h| h.iter());
        out.push(Arrived {
            partition: message.partition(),
            key: message.key().map(|k| String::from_utf8_lossy(k).into_owned()),
            value: message.payload().unwrap_or_default().to_vec(),
            time_ms: message.timestamp().to_millis(),
            headers: headers.map(|h| (h.key.to_string(), h.value.unwrap_or_default().to_vec())).collect(),
        });
    }
    out.sort_by_key(|a| a.partition);
    out
}

/// A small packed recording that unpacks to hundreds of gigabytes of frames of an unknown kind, which have no seq.
pub fn frames_without_end() -> Vec<u8> {
    // {"op": 1, "t": "#x"} {}
    let frame = b"\x0b\0\0\0\xa2bop\x01atb#x\xa0";
    let packed = zstd::encode_all(&frame.repeat(4 << 20)[..], 3).expect("packed");
    packed.repeat(5_000)
}

/// The source of the metrics, without its tests: their names are read out of it, so that no test forgets a new one.
pub fn metrics_source() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics");
    let files = std::fs::read_dir(folder).expect("src/metrics");
    let text = |file: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("text");
        text.split("#[cfg(test)]").next().unwrap_or_default().to_string()
    };
    files.map(text).collect()
}
