//! The JSON Schemas of what is written, which are published in `schema/` and compiled in: `atkafka schema` prints one. That
//! they fit what [`super`] writes is held by the tests, which validate everything that the program writes in them.

/// The files, in the order in which each refers to those after it only.
const FILES: [(&str, &str); 5] = [
    ("osprey", include_str!("../../schema/osprey.json")),
    ("event", include_str!("../../schema/event.json")),
    ("operation", include_str!("../../schema/operation.json")),
    ("metadata", include_str!("../../schema/metadata.json")),
    ("ozone", include_str!("../../schema/ozone.json")),
];

/// The schema of `name` (`event`, `osprey` or `ozone`) with all that it refers to under `$defs`, each with its own `$id`: the
/// bundle of a compound document, as JSON Schema 2020-12 has it. Empty for a name that there is not.
pub fn bundle(name: &str) -> String {
    let Some((_, text)) = FILES.iter().find(|(file, _)| *file == name) else { return String::new() };
    let mut wanted = vec![name];
    for (file, text) in FILES.iter().skip_while(|(file, _)| *file != name) {
        if wanted.contains(file) {
            wanted.extend(FILES.iter().map(|(part, _)| *part).filter(|part| text.contains(&refers_to(part))));
        }
    }
    let parts = FILES.iter().filter(|(file, _)| *file != name && wanted.contains(file));
    let parts: Vec<String> = parts.map(|(file, text)| format!("\n    \"{file}\": {}", indented(text))).collect();
    match text.trim_end().strip_suffix("\n}") {
        Some(text) if !parts.is_empty() => format!("{text},\n  \"$defs\": {{{}\n  }}\n}}\n", parts.join(",")),
        _ => text.to_string(),
    }
}

fn refers_to(part: &str) -> String {
    format!(r#""$ref": "{part}.json""#)
}

/// A schema within another.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_has_everything_that_it_refers_to_once() {
        for (name, parts) in [
            ("event", &["operation", "metadata"][..]),
            ("osprey", &["event", "operation", "metadata", "ozone"]),
            ("ozone", &[]),
        ] {
            let bundle = bundle(name);
            for (file, _) in FILES {
                let id = format!(r#""$id": "https://atkafka.invalid/schema/{file}.json""#);
                let expected = usize::from(file == name || parts.contains(&file));
                assert_eq!(bundle.matches(&id).count(), expected, "{file} in {name}");
            }
            assert!(sonic_rs::from_str::<sonic_rs::Value>(&bundle).is_ok(), "{bundle}");
        }
        assert_eq!(bundle("nothing"), "");
    }
}
