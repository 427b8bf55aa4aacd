//! A DID document: what events need of it, and the text as the directory gave it. Pure; it does not know how one is
//! fetched.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;

use crate::atproto::json_input::{self, LazyValue, SHALLOW};

/// Bytes of a document or a profile at most. PLC operations have 7.5 kB at most, so that their documents come to about 10.
pub const MAX: usize = 16 << 10;
/// What a handle becomes that its own side does not confirm (<https://atproto.com/specs/handle>).
pub const INVALID_HANDLE: &str = "handle.invalid";

/// A DID document, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Shared with the document of another handle.
    pub json: Arc<[u8]>,
    /// `https://host` or with a port, in lower case.
    pub pds: Option<Box<str>>,
    /// The first handle in it, or [`INVALID_HANDLE`] where that was found to be wrong.
    pub handle: Option<Box<str>>,
}

#[derive(Deserialize)]
struct View<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    // Each entry is read by itself: one that somebody wrote by hand must not take the others away.
    #[serde(borrow, default, rename = "alsoKnownAs")]
    also_known_as: Option<Vec<LazyValue<'a>>>,
    #[serde(borrow, default)]
    service: Option<Vec<LazyValue<'a>>>,
}

#[derive(Deserialize)]
struct Service<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default, rename = "serviceEndpoint")]
    endpoint: Cow<'a, str>,
}

impl Document {
    /// Fails, with the reason, when it is not the document of `did`.
    pub fn parse(did: &str, json: &[u8]) -> Result<Document, String> {
        checked(json)?;
        let view: View<'_> = json_input::read(json, SHALLOW)?;
        if view.id != did {
            return Err("it is the document of another DID".into());
        }
        let is_pds = |s: &Service<'_>| {
            let name = s.id.strip_prefix(did).unwrap_or(&s.id);
            name == "#atproto_pds" && s.kind == "AtprotoPersonalDataServer"
        };
        let (services, names) = (view.service.unwrap_or_default(), view.also_known_as.unwrap_or_default());
        let mut services = services.iter().filter_map(|raw| json_input::part::<Service<'_>>(raw).ok());
        let names = names.iter().filter_map(|raw| json_input::part::<String>(raw).ok());
        let handle = names.filter_map(|name| name.strip_prefix("at://").map(str::to_ascii_lowercase)).next();
        Ok(Document {
            json: json.into(),
            pds: services.find(is_pds).and_then(|s| origin(&s.endpoint)).map(Into::into),
            handle: handle.filter(|h| is_handle(h)).map(Into::into),
        })
    }

    /// The same with another handle.
    pub fn with_handle(&self, handle: Option<&str>) -> Document {
        Document { handle: handle.map(Into::into), ..self.clone() }
    }
}

/// Whether a JSON object from the network may be written as it is: valid, and neither too long nor too deep.
pub fn checked(json: &[u8]) -> Result<(), String> {
    match json.trim_ascii_start().first() {
        Some(b'{') if json.len() > MAX => Err(format!("longer than {MAX} bytes")),
        Some(b'{') => json_input::read::<LazyValue<'_>>(json, SHALLOW).map(drop),
        _ => Err("not a JSON object".into()),
    }
}

/// Scheme and host of a URL, with the port unless it is the usual one.
fn origin(url: &str) -> Option<String> {
    let uri: ureq::http::Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|s| matches!(*s, "https" | "http"))?;
    let host = uri.host().filter(|h| !h.is_empty() && !uri.authority().is_some_and(|a| a.as_str().contains('@')))?;
    let usual = if scheme == "https" { 443 } else { 80 };
    let port = uri.port_u16().filter(|p| *p != usual).map(|p| format!(":{p}")).unwrap_or_default();
    Some(format!("{scheme}://{}{port}", host.to_ascii_lowercase()))
}

/// Letters, digits, hyphens and dots, in at least two parts: enough to be put into a URL.
fn is_handle(handle: &str) -> bool {
    handle.len() <= 253
        && handle.contains('.')
        && handle
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DID: &str = "did:plc:abc";

    fn with(service: &str) -> String {
        format!(
            r#"{{"id":"{DID}","alsoKnownAs":[7,"https://x.example","at://Alice.Example"],"service":[{{"id":"did:plc:abc#other","type":["A","B"],"serviceEndpoint":{{"a":1}}}},null,{service}]}}"#
        )
    }

    #[test]
    fn what_events_need_of_it() {
        for (id, endpoint, pds) in [
            ("#atproto_pds", "https://pds.example", Some("https://pds.example")),
            ("did:plc:abc#atproto_pds", "https://PDS.example/", Some("https://pds.example")),
            ("#atproto_pds", "https://pds.example:443/path", Some("https://pds.example")),
            ("#atproto_pds", "http://pds.example:2583", Some("http://pds.example:2583")),
            ("#atproto_pds", "ftp://pds.example", None),
            ("#atproto_pds", "https://u@pds.example", None),
            ("#atproto_pds", "", None),
            ("#other", "https://pds.example", None),
        ] {
            let text =
                with(&format!(r#"{{"id":"{id}","type":"AtprotoPersonalDataServer","serviceEndpoint":"{endpoint}"}}"#));
            let document = Document::parse(DID, text.as_bytes()).expect("valid");
            assert_eq!(document.pds.as_deref(), pds, "{id} {endpoint}");
            assert_eq!(document.handle.as_deref(), Some("alice.example"));
            assert_eq!(&document.json[..], text.as_bytes(), "untouched");
        }
    }

    #[test]
    fn what_is_not_its_document() {
        for wrong in [
            "",
            "[]",
            "null",
            "{",
            r#"{"id":"did:plc:abd"}"#,
            r#"{"id":7}"#,
            &format!(r#"{{"id":"{DID}","x":{}{}}}"#, "[".repeat(40), "]".repeat(40)),
            &format!(r#"{{"id":"{DID}","x":"{}"}}"#, "x".repeat(MAX)),
        ] {
            assert!(Document::parse(DID, wrong.as_bytes()).is_err(), "{}", &wrong[..wrong.len().min(60)]);
        }
        for bare in [r#""alsoKnownAs":["at://no handle"]"#, r#""alsoKnownAs":null,"service":null"#, r#""service":[]"#] {
            let bare = Document::parse(DID, format!(" {{\"id\":\"{DID}\",{bare}}}").as_bytes()).expect("valid");
            assert_eq!((bare.pds, bare.handle), (None, None));
        }
    }
}
