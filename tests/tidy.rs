//! What the design says about the source, held by reading it: dependence goes one way, nothing can stop the process, every
//! queue has a bound, threads start in one place, and the documents know every metric and flag.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// README.md and everything in docs/.
fn documents() -> String {
    let mut text = read(&root().join("README.md"));
    for entry in fs::read_dir(root().join("docs")).expect("docs/") {
        text += &read(&entry.expect("an entry").path());
    }
    text
}

/// All Rust files below a folder.
fn rust_files(dir: &str) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![root().join(dir)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "no source in {dir}");
    files
}

/// The code of a file line by line, with its numbers: without comments, and without its tests, which stand at its end or in
/// files of their own.
fn code(path: &Path) -> Vec<(usize, String)> {
    let is_test = name(path).starts_with("src/") && path.components().any(|part| part.as_os_str() == "tests");
    if is_test || path.file_name().is_some_and(|name| name == "tests.rs") {
        return Vec::new();
    }
    let text = read(path);
    let tests = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    assert!(!text[..tests].contains("#[cfg(test)]"), "{}: a test part that this does not know", path.display());
    let mut lines = Vec::new();
    for (i, line) in text[..tests].lines().enumerate() {
        let line = line.trim();
        if line.starts_with("//") {
            continue;
        }
        // A comment behind code stands after a blank; a URL in a string does not.
        let line = line.split(" // ").next().unwrap_or_default();
        lines.push((i + 1, line.to_string()));
    }
    lines
}

/// `src/pipeline/worker.rs`
fn name(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned()
}

/// The first names of all paths that begin with `crate::`, also of `use crate::{a::b, c}`.
fn uses(code: &str) -> BTreeSet<String> {
    let ident =
        |s: &str| -> String { s.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect() };
    let mut out = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            out.insert(ident(rest));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (i, c) in list.char_indices() {
            if begins && depth == 0 && !c.is_whitespace() {
                out.insert(ident(&list[i..]));
                begins = false;
            }
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' => begins = true,
                _ => {}
            }
        }
    }
    out.remove("");
    out
}

#[test]
fn the_reader_of_uses_reads_them() {
    let code = "use crate::a::b; use crate::{c, d::{e, f}, g::h}; pub(crate) fn x() { crate::i::j() } mycrate::k()";
    let seen: Vec<String> = uses(code).into_iter().collect();
    assert_eq!(seen, ["a", "c", "d", "g", "i"]);
}

#[test]
fn modules_use_only_those_above_them_in_lib_rs() {
    let order: Vec<String> = code(&root().join("src/lib.rs"))
        .iter()
        .filter_map(|(_, line)| line.strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_string))
        .collect();
    assert!(order.len() > 10, "{order:?}");
    let place = |module: &str| order.iter().position(|m| m == module);
    let mut met = BTreeSet::new();
    let mut wrong = Vec::new();
    for path in rust_files("src") {
        let name = name(&path);
        let module = name["src/".len()..].trim_end_matches(".rs").split('/').next().unwrap_or_default().to_string();
        if module == "main" || module == "lib" {
            continue;
        }
        let own = place(&module).unwrap_or_else(|| panic!("{name}: not in src/lib.rs"));
        met.insert(module.clone());
        let text: Vec<String> = code(&path).into_iter().map(|(_, line)| line).collect();
        for used in uses(&text.join("\n")) {
            match place(&used) {
                Some(at) if at <= own => {}
                Some(_) => wrong.push(format!("{name} uses {used}, which stands below {module} in src/lib.rs")),
                None => wrong.push(format!("{name} uses crate::{used}, which is no module")),
            }
        }
    }
    assert_eq!(met.len(), order.len(), "each module of src/lib.rs has a file");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn enrich_source_and_sink_never_use_one_another() {
    let rooms = ["enrich", "source", "sink"];
    for room in rooms {
        for path in rust_files(&format!("src/{room}")) {
            let text: Vec<String> = code(&path).into_iter().map(|(_, line)| line).collect();
            let used = uses(&text.join("\n"));
            let other = rooms.iter().find(|other| **other != room && used.contains(**other));
            assert_eq!(other, None, "{} uses it", name(&path));
        }
    }
}

/// A longer test file holds several subjects: it becomes modules of the same test program, since each program links librdkafka.
#[test]
fn no_test_file_is_longer_than_600_lines() {
    let files = [rust_files("tests"), rust_files("fixtures"), rust_files("benches")].concat();
    let lengths = files.iter().map(|path| (name(path), read(path).lines().count()));
    let long: Vec<(String, usize)> = lengths.filter(|(_, lines)| *lines > 600).collect();
    assert!(long.is_empty(), "{long:?}");
}

/// Words that may not stand in code, and where they may.
#[test]
fn nothing_panics_on_purpose_and_every_queue_has_a_bound() {
    let nowhere: &[&str] = &[];
    let forbidden = [
        (".unwrap()", nowhere),
        ("todo!", nowhere),
        ("unimplemented!", nowhere),
        ("dbg!", nowhere),
        ("unbounded(", nowhere),
        ("mpsc::channel(", nowhere),
        // Another toolchain hashes otherwise, and what is hashed may be in a state file.
        ("DefaultHasher", nowhere),
        ("thread::spawn", &["src/pipeline/"]),
        ("thread::Builder", &["src/pipeline/"]),
        ("thread::scope", &["src/pipeline/"]),
        // Only main ends the process.
        ("process::exit", &["src/main.rs"]),
        // Only main reads what is around the process.
        ("env::var", &["src/main.rs"]),
        ("env::args", &["src/main.rs"]),
        // What people read goes through the log, which escapes and limits it; a backtrace is our own.
        ("eprint", &["src/main.rs"]),
        ("stderr()", &["src/log/"]),
        ("SystemTime::now", nowhere),
        ("Timestamp::now", &["src/clock.rs"]),
    ];
    let mut wrong = Vec::new();
    for path in rust_files("src") {
        let name = name(&path);
        for (number, line) in code(&path) {
            for (word, allowed) in forbidden {
                if line.contains(word) && !allowed.iter().any(|place| name.starts_with(place)) {
                    wrong.push(format!("{name}:{number}: {word}: {line}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same message gives the same event, whenever it is decoded: the time of its arrival comes with the job.
#[test]
fn what_decodes_reads_no_clock() {
    let pure = ["atproto", "event", "decode", "filter", "route"];
    let mut wrong = Vec::new();
    for path in rust_files("src") {
        let name = name(&path);
        if !pure.iter().any(|room| name.starts_with(&format!("src/{room}/")) || name == format!("src/{room}.rs")) {
            continue;
        }
        for (number, line) in code(&path) {
            if line.contains("Instant::now") || line.contains("clock::") {
                wrong.push(format!("{name}:{number}: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// JSON logs are sorted by it.
#[test]
fn every_entry_of_the_log_names_its_event() {
    let mut wrong = Vec::new();
    let mut entries = 0;
    for path in rust_files("src") {
        let name = name(&path);
        let lines = code(&path);
        for (i, (number, line)) in lines.iter().enumerate() {
            if !["log::info!(", "log::warn!(", "log::error!(", "log::log!("].iter().any(|level| line.contains(level)) {
                continue;
            }
            entries += 1;
            let entry: String = lines[i..lines.len().min(i + 3)].iter().map(|(_, line)| line.as_str()).collect();
            if !entry.contains("event = \"") {
                wrong.push(format!("{name}:{number}: {line}"));
            }
        }
    }
    assert!(entries > 40 && wrong.is_empty(), "{entries} entries, without an event:\n{}", wrong.join("\n"));
}

/// sonic-rs overflows the stack on a deeply nested text. `json_input` checks each text first, so that nobody else may parse.
#[test]
fn only_json_input_parses_json() {
    let mut wrong = Vec::new();
    for path in rust_files("src") {
        let name = name(&path);
        for (number, line) in code(&path) {
            let used = line.replace("sonic_rs::to_vec(", "").replace("sonic_rs::to_string(", "");
            if used.contains("sonic_rs") && name != "src/atproto/json_input.rs" {
                wrong.push(format!("{name}:{number}: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "parse by atproto::json_input:\n{}", wrong.join("\n"));
}

/// Whether `text` has `word`, and not only as a part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part)
    })
}

#[test]
fn every_metric_stands_in_the_documents() {
    let mut metrics = BTreeSet::new();
    for part in support::metrics_source().split('"').skip(1).step_by(2) {
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        if part.starts_with("atkafka_") && part.chars().all(is_name) {
            metrics.insert(part.to_string());
        }
    }
    assert!(metrics.len() >= 20, "{metrics:?}");
    let text = documents();
    let missing: Vec<&String> = metrics.iter().filter(|m| !has_word(&text, m)).collect();
    assert!(missing.is_empty(), "not in the documents: {missing:?}");
}

#[test]
fn every_flag_stands_in_the_documents() {
    let text = documents();
    let mut missing = BTreeMap::new();
    for command in [&["firehose", "relay"][..], &["record"]] {
        let (code, help, _) = support::run(&[command, &["--help"]].concat(), &[]);
        assert_eq!(code, Some(0));
        let flags = help.lines().filter_map(|l| l.trim_start().strip_prefix("--")?.split_whitespace().next());
        // Every command has these two.
        let flags = flags.filter(|f| !["help", "version"].contains(f));
        let flags: Vec<String> = flags.map(|f| format!("--{}", f.trim_end_matches(','))).collect();
        assert!(flags.len() > 3, "{help}");
        for flag in flags {
            if !has_word(&text, &flag) {
                missing.insert(flag, command.join(" "));
            }
        }
    }
    assert!(missing.is_empty(), "not in the documents: {missing:?}");
}

#[test]
fn every_log_line_of_the_documents_is_one_of_the_program() {
    let text = documents();
    let table = text.split("| log line |").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the table");
    let mut source = String::new();
    for path in rust_files("src") {
        // A long text stands on several lines, with a backslash at the end of each.
        source += &read(&path).replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
    }
    let (mut checked, mut missing) = (0, Vec::new());
    for row in table.lines().skip(2) {
        let said = row.split('|').nth(1).unwrap_or_default();
        for piece in said.split('`').skip(1).step_by(2).flat_map(|line| line.split("...")) {
            // Capitals stand for what differs.
            let words = piece
                .split([' ', ':', ';', ','])
                .map(|w| if w.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()) { "\n" } else { w });
            for fixed in words.collect::<Vec<_>>().join(" ").split('\n').map(|f| f.trim_matches([' ', ';', ','])) {
                if fixed.len() >= 5 {
                    checked += 1;
                    if !source.contains(fixed) {
                        missing.push(fixed.to_string());
                    }
                }
            }
        }
    }
    assert!(checked > 15, "{checked}");
    assert!(missing.is_empty(), "not in src/: {missing:#?}");
}

/// The names in one section of Cargo.toml.
fn dependencies(section: &str) -> Vec<String> {
    let toml = read(&root().join("Cargo.toml"));
    let lines = toml.lines().skip_while(|l| l.trim() != section).skip(1).take_while(|l| !l.starts_with('['));
    let names = lines.filter(|l| !l.trim_start().starts_with('#')).filter_map(|l| l.split_once('='));
    names.map(|(name, _)| name.trim().to_string()).filter(|name| !name.contains(['"', ' '])).collect()
}

#[test]
fn every_dependency_is_used() {
    for (section, places) in [("[dependencies]", &["src"][..]), ("[dev-dependencies]", &["tests", "benches"])] {
        let mut text = String::new();
        for path in places.iter().flat_map(|place| rust_files(place)) {
            for (_, line) in code_with_tests(&path) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        let all = dependencies(section);
        assert!(!all.is_empty(), "{section}");
        let unused: Vec<&String> = all
            .iter()
            .filter(|name| {
                let name = name.replace('-', "_");
                !["::", "!", ";"].iter().any(|end| has_start(&text, &format!("{name}{end}")))
            })
            .collect();
        assert!(unused.is_empty(), "{section} of Cargo.toml, and not used in {places:?}: {unused:?}");
    }
}

/// Lines without comments, tests included.
fn code_with_tests(path: &Path) -> Vec<(usize, String)> {
    let text = read(path);
    let lines = text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"));
    lines.map(|(i, l)| (i + 1, l.to_string())).collect()
}

/// Whether `text` has `word` where no longer name or path leads to it.
fn has_start(text: &str, word: &str) -> bool {
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':'))
}

/// Without the recorded data a test of them is ignored, and says so; it must not pass, and not be silent.
#[test]
fn every_test_of_recorded_data_is_ignored_where_they_are_not() {
    let ignored = r#"#[cfg_attr(not(recorded_data), ignore = "needs the recorded data"#;
    let (mut marked, mut wrong) = (0, Vec::new());
    for path in rust_files("tests").into_iter().filter(|p| !name(p).starts_with("tests/tidy.rs")) {
        let text = read(&path);
        for test in text.split("#[test]\n").skip(1) {
            let body = test.split("\n}\n").next().unwrap_or_default();
            let reads = body.contains(" shared(") || body.contains("(shared(");
            marked += usize::from(body.starts_with(ignored));
            if reads && !body.starts_with(ignored) {
                wrong.push(format!("{}: {}", name(&path), body.lines().next().unwrap_or_default()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(marked >= 10, "{marked}: the reader of tests reads them");
}

/// The table of what must always hold says which test holds each: a test that goes or gets another name must not leave its
/// promise without one.
#[test]
fn every_test_that_the_design_names_exists() {
    let text = read(&root().join("docs/design.md"));
    let table = text.split("| invariant | held by |").nth(1).and_then(|t| t.split("\n\n").next()).expect("the table");
    let mut source = String::new();
    for path in rust_files("src").into_iter().chain(rust_files("tests")) {
        source += &read(&path);
    }
    let rows = table.lines().skip(2);
    let (mut named, mut missing) = (0, Vec::new());
    for row in rows {
        let tests: Vec<&str> = row.rsplit('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "held by nothing: {row}");
        named += tests.len();
        missing.extend(tests.into_iter().filter(|test| !source.contains(&format!("fn {test}("))));
    }
    assert!(named > 15 && missing.is_empty(), "{named} tests, of which there are not: {missing:?}");
}

/// And its list of rooms is that of src/lib.rs.
#[test]
fn the_rooms_of_the_design_are_those_of_lib_rs() {
    let text = read(&root().join("docs/design.md"));
    let table = text.split("| room | what it has |").nth(1).and_then(|t| t.split("\n\n").next()).expect("the table");
    let told: Vec<&str> = table.lines().skip(2).filter_map(|row| row.split('`').nth(1)).collect();
    let lib = code(&root().join("src/lib.rs"));
    let real: Vec<&str> = lib.iter().filter_map(|(_, line)| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(told, real, "the list of rooms in docs/design.md, and the modules of src/lib.rs");
}

/// What is longer does more than one thing, and is split by job.
#[test]
fn no_file_of_the_source_is_long() {
    const MOST: usize = 400;
    let lines = |path: &PathBuf| read(path).lines().count();
    let long: Vec<String> =
        rust_files("src").into_iter().filter(|path| lines(path) > MOST).map(|path| name(&path)).collect();
    assert!(long.is_empty(), "over {MOST} lines: {long:?}");
}
