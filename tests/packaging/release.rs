//! What comes with the program: completions that complete, a manual page that lists every flag, and a release that is whole
//! and the same each time.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::BINARY;
use crate::support::*;

const COMMANDS: [&str; 4] = ["firehose relay", "firehose tap", "ozone-events", "record"];

fn printed(args: &[&str]) -> String {
    let (code, out, err) = run(args, &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
    out
}

/// The flags of all commands, from their help, with the variable of each.
fn flags() -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for command in COMMANDS {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let mut flag = String::new();
        for line in printed(&words).lines().filter(|l| l.starts_with("  ")) {
            if let Some(rest) = line.strip_prefix("  --") {
                flag = format!("--{}", rest.split([' ', '<']).next().unwrap_or_default());
            }
            if let Some((_, rest)) = line.rsplit_once('[').filter(|_| line.ends_with(']')) {
                all.insert((flag.clone(), rest.trim_end_matches(']').to_string()));
            }
        }
    }
    assert!(all.len() > 50, "{all:?}");
    all
}

/// Standard output of a program of this machine that reads `input`. `None`, and a line that says so, where it is missing.
fn tool(name: &str, args: &[&str], input: &str) -> Option<(bool, String)> {
    let child = Command::new(name)
        .args(args)
        .env("HOME", folder("home"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: {name} is not installed");
        return None;
    };
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    let out = child.wait_with_output().expect("output");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    Some((out.status.success(), text))
}

// --- completions --------------------------------------------------------------------------------

#[test]
fn each_shell_knows_each_flag() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&["completions", shell]);
        for (flag, _) in flags() {
            let written = if shell == "fish" { format!("-l {}", &flag[2..]) } else { flag };
            let whole = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
            let found = script.match_indices(&written).any(|(at, _)| script[at + written.len()..].starts_with(whole));
            assert!(found, "{shell}: {written}");
        }
    }
}

/// Lines to complete, and what each is completed to.
const LINES: [(&str, &[&str]); 6] = [
    ("atkafka oz", &["ozone-events"]),
    ("atkafka firehose ", &["jetstream", "relay", "replay", "tap"]),
    ("atkafka firehose relay --tls-c", &["--tls-ca-file", "--tls-cert-file"]),
    ("atkafka firehose tap --tap-w", &["--tap-workers"]),
    ("atkafka --contact x firehose relay --osp", &["--osprey-compatible"]),
    ("atkafka completions ", &["bash", "fish", "zsh"]),
];

#[test]
fn bash_completes() {
    let script = printed(&["completions", "bash"]);
    for (line, want) in LINES {
        // As bash does on TAB, which calls what `complete -p` names with the words of the line.
        let ask = format!(
            "{script}
             line='{line}'; read -ra COMP_WORDS <<<\"$line\"
             [[ $line != *' ' ]] || COMP_WORDS+=('')
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
             [[ $(complete -p atkafka) =~ -F\\ ([^ ]+) ]] && \"${{BASH_REMATCH[1]}}\"
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let (well, said) = tool("bash", &["--norc", "-s"], &ask).expect("bash");
        let mut got: Vec<&str> = said.lines().filter(|l| *l != "--help").collect();
        got.sort();
        assert!(well && got == want, "{line:?}: {said}");
    }
}

#[test]
fn fish_completes() {
    let script = printed(&["completions", "fish"]);
    for (line, want) in LINES {
        let Some((well, said)) = tool("fish", &["--no-config"], &format!("{script}\ncomplete -C '{line}'\n")) else {
            return;
        };
        let mut got: Vec<&str> = said.lines().filter_map(|l| l.split('\t').next()).collect();
        got.sort();
        assert!(well && got == want, "{line:?}: {said}");
    }
}

#[test]
fn zsh_reads_its_completions() {
    let Some((well, said)) = tool("zsh", &["-f", "-n"], &printed(&["completions", "zsh"])) else { return };
    assert!(well && said.is_empty(), "{said}");
}

// --- the manual page ----------------------------------------------------------------------------

#[test]
fn the_manual_page_has_each_flag_with_its_variable_and_is_well_formed() {
    let page = printed(&["man"]);
    for (flag, variable) in flags() {
        let flag = flag.replace('-', "\\-");
        let entry = page.split(".TP\n").find(|e| e.starts_with(&format!("\\fB{flag}\\fR")));
        assert!(entry.is_some_and(|e| e.contains(&format!("[{variable}]"))), "{flag} [{variable}]");
    }
    for command in COMMANDS {
        assert!(page.contains(&format!(".SS atkafka {}\n", command.replace('-', "\\-"))), "{command}");
    }
    let file = folder("man").join("atkafka.1");
    std::fs::write(&file, &page).expect("written");
    let file = file.to_string_lossy().into_owned();
    if let Some((well, said)) = tool("man", &["--warnings", "-l", "-Tutf8", &file], "") {
        assert!(well && said.contains("NAME") && !said.contains("warning:"), "{said}");
    }
    if let Some((_, said)) = tool("mandoc", &["-T", "lint", &file], "") {
        // Long lines are a matter of taste; a date would differ from one build to the next.
        let odd = said.lines().filter(|l| !l.contains("STYLE: input text line longer") && !l.contains("missing date"));
        assert_eq!(odd.collect::<Vec<_>>(), Vec::<&str>::new());
    }
}

// --- the local broker ---------------------------------------------------------------------------

/// `scripts/kafka.sh ARGS`: whether it succeeds, what it prints, and its errors.
fn kafka(args: &[&str]) -> (bool, String, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.sh");
    let out = Command::new(script).args(args).stdin(Stdio::null()).output().expect("the script runs");
    let [said, err] = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    (out.status.success(), said, err)
}

#[test]
fn a_taken_port_is_said_with_the_way_to_choose_another() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    // Any of a broker's five.
    let (started, _, err) = kafka(&["start", "--port", &(port - 2).to_string()]);
    assert!(!started && err.lines().count() == 1, "{err}");
    assert!(err.contains(&format!("port {port} is in use")) && err.contains("make kafka KAFKA_PORT="), "{err}");
}

#[test]
fn stopping_a_broker_that_is_gone_says_so_in_one_line() {
    let port = free_port().to_string();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kafka").join(format!("data-{port}"));
    std::fs::create_dir_all(&data).expect("a folder");
    // What a broker leaves that was killed: a pid that nobody has.
    std::fs::write(data.join("pid"), "999999999\n").expect("written");
    let (well, said, err) = kafka(&["stop", "--port", &port]);
    let first = said.lines().next();
    assert_eq!(
        (well, first, err.as_str()),
        (true, Some(&*format!("no broker of this folder runs on port {port}")), "")
    );
    // Others that run here are named.
    assert!(said.lines().skip(1).all(|l| l.contains("make kafka-stop KAFKA_PORT=")), "{said}");
    std::fs::remove_dir_all(&data).expect("removed");
}

// --- a release ----------------------------------------------------------------------------------

fn sh(dir: &Path, line: &str) -> String {
    let out = Command::new("bash").args(["-c", line]).current_dir(dir).env("BIN", BINARY).output().expect("bash");
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{line}: {err}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// What a release and an installation have beside the program.
fn taken_along() -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install.sh --files");
    let files: Vec<String> = sh(Path::new("/"), script).lines().map(str::to_string).collect();
    for name in [
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "docker-compose.ozone.yml",
        "docker-compose.tap.yml",
        "docker-compose.yml",
        "docs/operating.md",
        "packaging/grafana/dashboards/atkafka.json",
        "packaging/kubernetes/atkafka.yml",
        "packaging/prometheus/alerts.yml",
        "packaging/services.yml",
        "packaging/third-party-notices.txt",
    ] {
        assert!(files.iter().any(|f| f == name), "{name} is not in {files:?}");
    }
    files
}

#[test]
fn each_linked_library_is_in_the_third_party_notices() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let notices = std::fs::read_to_string(root.join("packaging/third-party-notices.txt")).expect("the notices");
    let list = "cargo tree --locked -p atkafka -e normal,no-proc-macro --target x86_64-unknown-linux-gnu --prefix none";
    let mut crates: BTreeSet<String> = sh(root, list)
        .lines()
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap_or_default()))
        .collect();
    assert!(crates.remove(concat!("atkafka ", env!("CARGO_PKG_VERSION"))));
    assert!(crates.len() > 100, "{crates:?}");
    let missing: Vec<&String> =
        crates.iter().filter(|c| !notices.lines().any(|l| l.starts_with(&format!("{c}: ")))).collect();
    assert!(missing.is_empty(), "not in packaging/third-party-notices.txt (make notices writes it): {missing:?}");
    // The C libraries, by words of their own licences.
    for words in [
        "librdkafka - Apache Kafka C driver library",
        "LZ4 Library",
        "(librdkafka/LICENSES.txt)",
        "openssl/LICENSE.txt)",
        "Jean-loup Gailly",
        "(zstd/LICENSE)",
        "Meta Platforms",
        "Microsoft Corporation, Daan Leijen",
    ] {
        assert!(notices.contains(words), "{words}");
    }
}

/// Whoever installs what the README says needs nothing more for `make build`, `make demo` and `make kafka`.
#[test]
fn the_readme_lists_each_package_that_the_make_targets_ask_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the README");
    let lines = readme.lines().filter_map(|l| l.strip_prefix("sudo apt-get install "));
    let listed: BTreeSet<&str> = lines.flat_map(|l| l.split('#').next().unwrap_or_default().split(' ')).collect();
    // With a PATH on which nothing is but cargo and the shell, all is missing.
    let dir = folder("path");
    let ask = format!(
        "ln -s $(command -v cargo) $(command -v bash) $(command -v paste) $(command -v id) $(command -v grep) {0}
         for kind in build test; do PATH={0} bash {1}/scripts/deps.sh $kind 2>&1 || true; done",
        dir.display(),
        root.display()
    );
    let said = sh(&dir, &ask);
    let asked: BTreeSet<&str> = said
        .lines()
        .filter_map(|l| l.split_once("apt-get install -y "))
        .flat_map(|(_, list)| list.split(' '))
        .collect();
    assert!(asked.contains("g++") && asked.contains("kcat"), "{said}");
    let missing: Vec<&&str> = asked.iter().filter(|p| !listed.contains(*p)).collect();
    assert!(missing.is_empty(), "README.md does not list {missing:?}");
}

#[test]
fn a_release_is_whole_and_the_same_each_time() {
    let dist = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/dist.sh");
    let dir = folder("dist");
    for out in ["one", "two"] {
        sh(&dir, &format!("OUT={out} SOURCE_DATE_EPOCH=1700000000 {dist}"));
    }
    sh(&dir, "cmp one/SHA256SUMS two/SHA256SUMS && cd one && sha256sum --check SHA256SUMS");
    let target = sh(&dir, "rustc -vV | sed -n 's/^host: //p'");
    let name = format!("atkafka-{}-{}", env!("CARGO_PKG_VERSION"), target.trim());
    let list = sh(&dir, &format!("tar tvzf one/{name}.tar.gz --numeric-owner"));
    let times_and_owners = list.lines().all(|l| l.contains(" 0/0 ") && l.contains(" 2023-11-1"));
    assert!(times_and_owners, "{list}");
    let files: Vec<&str> = list
        .lines()
        .filter(|l| !l.starts_with('d'))
        .filter_map(|l| l.split_once(&format!("{name}/")).map(|(_, file)| file))
        .collect();
    let mut want: Vec<String> = [
        "SHA256SUMS",
        "atkafka",
        "completions/atkafka.bash",
        "completions/atkafka.fish",
        "completions/atkafka.zsh",
        "man/atkafka.1",
        "packaging/systemd/atkafka@.service",
        "packaging/systemd/jetstream.env",
        "packaging/systemd/ozone.env",
        "packaging/systemd/relay.env",
        "packaging/systemd/tap.env",
        "scripts/install.sh",
    ]
    .map(String::from)
    .into();
    want.extend(taken_along());
    want.sort();
    assert_eq!(files, want);

    // It installs out of itself.
    sh(&dir, &format!("tar xzf one/{name}.tar.gz && cd {name} && sha256sum --check SHA256SUMS"));
    sh(&dir, &format!("unset BIN; DESTDIR=$PWD/dest PREFIX=/usr {name}/scripts/install.sh"));
    let version = format!("atkafka {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(sh(&dir, "dest/usr/bin/atkafka --version"), version);
    assert!(dir.join("dest/usr/lib/systemd/system/atkafka@.service").exists());
    assert!(dir.join("dest/usr/share/doc/atkafka/third-party-notices.txt").exists());
    // The program is large.
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn a_misspelt_variable_of_make_is_named() {
    let make = |variable: &str| {
        let out = std::process::Command::new("make")
            .args(["-n", "kafka-stop", variable, "ARGS=--a --b=c d"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("MAKEFLAGS")
            .output()
            .expect("make");
        assert!(out.status.success());
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    assert!(make("BOOTSTRAP_SERVER=localhost:9092").contains("BOOTSTRAP_SERVER: no variable of this Makefile"));
    assert_eq!(make("BOOTSTRAP_SERVERS=localhost:9092"), "");
}
