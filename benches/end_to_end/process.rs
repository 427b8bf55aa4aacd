//! The program as a process: started, asked for its metrics, and what the kernel says that it used.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a process used since its start.
pub struct Usage {
    /// Microseconds of all its threads.
    pub cpu_us: f64,
    /// Times that one of its threads was taken off a processor, because it waited or had to make room.
    pub switches: f64,
}

impl Usage {
    /// What was used between the two.
    pub fn since(&self, before: &Usage) -> Usage {
        Usage { cpu_us: self.cpu_us - before.cpu_us, switches: self.switches - before.switches }
    }
}

/// Of the thread that asks.
pub fn this_thread() -> Usage {
    of_task(Path::new("/proc/thread-self")).expect("the thread is there")
}

fn of_task(task: &Path) -> Option<Usage> {
    let ran = fs::read_to_string(task.join("schedstat")).ok()?;
    let status = fs::read_to_string(task.join("status")).ok()?;
    let cpu_us = ran.split(' ').next()?.parse::<f64>().ok()? / 1e3;
    let switches = status.lines().filter(|line| line.contains("ctxt_switches:"));
    Some(Usage { cpu_us, switches: switches.filter_map(|line| line.split('\t').nth(1)?.parse::<f64>().ok()).sum() })
}

/// It is killed at the end, and its folder removed.
pub struct Program {
    child: Child,
    port: u16,
    state: PathBuf,
}

impl Program {
    /// With its metrics and a state directory, in an empty environment.
    pub fn start(program: &Path, args: &[&str]) -> Program {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let state = std::env::temp_dir().join(format!("atkafka-bench-{}-{port}", std::process::id()));
        fs::create_dir_all(&state).expect("a folder");
        let child = Command::new(program)
            .args(args)
            .arg(format!("--metrics-listen-address=127.0.0.1:{port}"))
            .arg("--state-dir")
            .arg(&state)
            .env_clear()
            .current_dir(&state)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        Program { child, port, state }
    }

    /// The sum of all samples whose name begins so.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().unwrap_or_default();
        let samples = text.lines().filter(|line| line.starts_with(name));
        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    fn metrics(&self) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Waits until everything up to `seq` is acknowledged.
    pub fn wait_delivered(&self, seq: u64, longest: Duration) {
        let until = Instant::now() + longest;
        while self.metric("atkafka_last_seq_delivered") < seq as f64 {
            assert!(Instant::now() < until, "seq {seq} is not delivered after {longest:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn proc(&self, path: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{path}", self.child.id())).expect("the process is there")
    }

    /// Of all threads that are there, from the scheduler's own clock.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage { cpu_us: 0.0, switches: 0.0 };
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the process is there");
        for task in tasks.map_while(Result::ok) {
            // A thread may end meanwhile.
            let Some(of_task) = of_task(&task.path()) else { continue };
            usage.cpu_us += of_task.cpu_us;
            usage.switches += of_task.switches;
        }
        usage
    }

    /// Resident memory at its highest, in megabytes.
    pub fn peak_mb(&self) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) * 1024.0 / 1e6
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.state);
    }
}
