//! What readers may rely on in README.md and docs/: short lines, links that lead somewhere, and commands that are run by a
//! test or marked as not run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Columns of a line of text. Tables, code and comments may be wider; in README.md only comments.
const WIDTH: usize = 120;
/// Lines of README.md: what is looked up stands in docs/.
const README_LINES: usize = 200;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every Markdown file that is written for readers, by its path from the root.
fn documents() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in [root().to_path_buf(), root().join("docs")] {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        paths.extend(entries.map(|e| e.expect("an entry").path()).filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    paths.sort();
    let name = |p: &Path| p.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
    let list: Vec<_> = paths.iter().map(|p| (name(p), read(p))).collect();
    assert!(list.len() >= 10, "{} documents", list.len());
    list
}

/// The lines of a document with their numbers, and whether each stands in a block of code.
fn lines(text: &str) -> impl Iterator<Item = (usize, bool, &str)> {
    let mut code = false;
    text.lines().enumerate().map(move |(i, line)| {
        let fence = line.trim_start().starts_with("```");
        let inside = code || fence;
        code ^= fence;
        (i + 1, inside, line)
    })
}

/// The anchors of a document's headings, as forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = lines(text).filter(|(_, code, line)| !code && line.starts_with('#'));
    headings
        .map(|(_, _, line)| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn lines_are_short() {
    let mut wide = Vec::new();
    for (name, text) in documents() {
        for (number, code, line) in lines(&text) {
            let table = line.starts_with('|') && name != "README.md";
            let comment = line.starts_with("<!--");
            let command = line.ends_with('`') && line.contains(" `atkafka ");
            let may_be_wide =
                table || comment || (command && name == "docs/options.md") || (code && name != "README.md");
            if !may_be_wide && line.chars().count() > WIDTH {
                wide.push(format!("{name}:{number}"));
            }
        }
    }
    assert!(wide.is_empty(), "over {WIDTH} columns: {wide:#?}");
    let readme = read(&root().join("README.md")).lines().count();
    assert!(readme <= README_LINES, "README.md has {readme} lines");
}

#[test]
fn links_lead_somewhere() {
    let (mut checked, mut dead) = (0, Vec::new());
    for (name, text) in documents() {
        let folder = root().join(&name).parent().expect("a folder").to_path_buf();
        for (number, code, line) in lines(&text) {
            if code {
                continue;
            }
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                checked += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let path = if file.is_empty() { root().join(&name) } else { folder.join(file) };
                let found = path.exists() && (anchor.is_empty() || anchors(&read(&path)).contains(anchor));
                if !found {
                    dead.push(format!("{name}:{number}: {target}"));
                }
            }
        }
    }
    assert!(checked > 20, "{checked} links");
    assert!(dead.is_empty(), "{dead:#?}");
}

/// Each block of shell commands stands below a comment: `<!-- tested: FILE NAME ... -->`, where each NAME is a test or a
/// target that runs it, or `<!-- not run by a test: REASON -->`.
#[test]
fn commands_are_tested_or_marked() {
    let (mut tested, mut wrong) = (0, Vec::new());
    for (name, text) in documents() {
        let all: Vec<&str> = text.lines().collect();
        for (i, line) in all.iter().enumerate() {
            if !line.trim_start().starts_with("```sh") {
                continue;
            }
            let mark = if i == 0 { "" } else { all[i - 1].trim() };
            if mark.starts_with("<!-- not run by a test: ") && mark.ends_with("-->") {
                continue;
            }
            let Some(words) = mark.strip_prefix("<!-- tested: ").and_then(|m| m.strip_suffix(" -->")) else {
                wrong.push(format!("{name}:{}: no mark above the block", i + 1));
                continue;
            };
            let mut words = words.split(' ');
            let file = root().join(words.next().unwrap_or_default());
            let source = fs::read_to_string(&file).unwrap_or_default();
            for word in words {
                tested += 1;
                if !source.contains(word) {
                    wrong.push(format!("{name}:{}: {} has no {word}", i + 1, file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(tested > 0, "no block is tested");
}

#[test]
fn the_change_log_has_a_place_for_what_comes() {
    assert!(read(&root().join("CHANGELOG.md")).contains("\n## Unreleased\n"));
}

#[test]
fn options_md_is_what_the_flags_say() {
    let path = root().join("docs/options.md");
    let written = atkafka::config::help::markdown();
    if std::env::var_os("ATKAFKA_WRITE_OPTIONS").is_some() {
        fs::write(&path, &written).expect("written");
    }
    assert!(read(&path) == written, "docs/options.md is older than the flags: make options writes it");
}
