//! Answers of strangers and errors of connections, in the words that people see.

use super::*;

fn answer(status: u16, body: &str) -> Answer {
    Answer { status, body: body.into(), ..Answer::default() }
}

#[test]
fn strangers_are_named() {
    let redirect = |to: &str| Answer { status: 301, location: Some(to.into()), ..Answer::default() };
    for (answer, says) in [
        (
            answer(200, "\n <!doctype html><TITLE>Wifi\n login</TITLE>"),
            "a web page (\"Wifi login\"): is --pds-host a PDS",
        ),
        (answer(502, "<html><head><title>502 Bad Gateway</title>"), "says that the PDS is away"),
        (answer(403, "<html>"), "HTTP 403, a web page: is"),
        (Answer { html: true, ..answer(200, "") }, "HTTP 200, a web page: is"),
        (redirect("https://u:secret@pds.example.com/x?token=secret"), "a redirect to https://pds.example.com: if"),
        (redirect("/login"), "a redirect to another page"),
        (answer(407, ""), "a proxy that wants a login"),
        (answer(400, "Client sent an HTTP request to an HTTPS server.\n"), "give --pds-host with https://"),
        (answer(400, "<html><title>400 The plain HTTP request was sent to HTTPS port</title>"), "with https://"),
    ] {
        let said = answer.stranger(Meant::Pds).expect("no PDS");
        assert!(said.contains(says) && !said.contains("secret") && !said.contains('\n'), "{said}");
    }
    assert!(answer(400, r#"{"error":"InvalidRequest","message":"<html>"}"#).stranger(Meant::Pds).is_none());
    assert!(answer(404, "404 page not found").stranger(Meant::Pds).is_none());
    let said = answer(400, "Client sent an HTTP request to an HTTPS server.\n").stranger(Meant::Relay);
    assert!(said.is_some_and(|said| said.contains("--relay-host with wss://")));
}

#[test]
fn hosts_are_known_by_their_first_page_and_their_first_message() {
    for (page, found) in [
        ("Welcome to Jetstream", Found::Jetstream),
        ("This is an atproto [https://atproto.com] relay instance, running the 'relay' codebase", Found::Relay),
        ("This is an AT Protocol Personal Data Server (aka, an atproto PDS)", Found::Pds),
        ("This is an AT Protocol Application View (AppView) for the \"bsky.app\" application", Found::AppView),
    ] {
        assert_eq!(Found::by_page(page.as_bytes()), Some(found), "{page}");
    }
    assert_eq!(Found::by_page(b"404 page not found"), None);
    for (text, found) in [
        (r#"{"did":"did:plc:a","time_us":1,"kind":"identity","identity":{}}"#, Some(Found::Jetstream)),
        (r##"{"$type":"message","payload":{"$type":"x#commit","seq":1}}"##, Some(Found::Jetstream)),
        (r#"{"id":1,"type":"record","record":{}}"#, Some(Found::Tap)),
        ("hello", None),
        ("{}", None),
    ] {
        assert_eq!(Found::by_text(text), found, "{text}");
    }
    assert_eq!(Found::by_binary(b"\xa2\x61t\x67#commit\x62op\x01\xa0"), Some(Found::Relay));
    assert_eq!(Found::by_binary(b"\xff"), None);
    for meant in [Meant::Relay, Meant::Tap, Meant::Pds] {
        for found in [Found::Jetstream, Found::Relay, Found::Pds, Found::AppView, Found::Ozone, Found::Tap] {
            let said = found.in_place_of(meant);
            assert!(said.starts_with("it is a") && !said.contains('\n'), "{said}");
        }
    }
}

#[test]
fn what_does_not_answer_is_explained() {
    let expired = "TLS: error:0A000086:SSL routines:tls_post_process_server_certificate:certificate verify \
                   failed:../ssl/statem/statem_clnt.c:1889: (certificate has expired)";
    for (text, tls, says) in [
        ("127.0.0.1:1: Connection refused (os error 111)", false, "is the relay running"),
        ("a.invalid: failed to lookup address information: Name or service not known", true, "does DNS work"),
        (expired, true, "TLS: certificate verify failed (certificate has expired); its certificate does not hold"),
        ("TLS: error:0A00010B:SSL routines:ssl3_get_record:wrong version number:x.c:3:", true, "is it ws://?"),
        ("TLS: the certificate verify failed (IP address mismatch)", true, "is for another name"),
        ("TLS: certificate verify failed (self-signed certificate)", true, "not trusted"),
        ("TLS: unexpected EOF", true, "give --relay-host with ws://"),
        ("Handshake not finished", false, "give --relay-host with wss://"),
        ("[2001:db8::1]:443: connection timed out", true, "behind a firewall"),
    ] {
        let said = unreachable(text, tls, Meant::Relay);
        assert!(said.contains(says), "{text}: {said}");
    }
}
