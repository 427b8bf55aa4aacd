//! The status page: one self-contained answer, put together once from the files in `page/`. The policy that goes with it lets
//! a browser run exactly this script and style, and connect to this port only; nothing from outside.

use std::sync::LazyLock;

use data_encoding::BASE64;
use sha2::{Digest, Sha256};

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// The page.
pub static PAGE: LazyLock<String> =
    LazyLock::new(|| HTML.replacen("/*style.css*/", STYLE, 1).replacen("/*script.js*/", SCRIPT, 1));

/// Its Content-Security-Policy.
pub static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| BASE64.encode(&Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_its_parts_and_writes_text_as_text_only() {
        assert!(PAGE.contains(STYLE) && PAGE.contains(SCRIPT));
        for word in ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "DOMParser"] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
        // Nothing is fetched but /status; the one address is the name of a language.
        assert_eq!(PAGE.replace("http://www.w3.org/2000/svg", "").matches("//").count(), SCRIPT.matches("// ").count());
        assert!(!SCRIPT.contains("</script") && !STYLE.contains("</style"));
        assert!(POLICY.is_ascii() && POLICY.starts_with("default-src 'none'"));
    }
}
