//! When a token is renewed.

use super::*;

#[test]
fn life_of_a_token_by_the_clock_of_its_server() {
    let jwt = |claims: &str| format!("x.{}.y", data_encoding::BASE64URL_NOPAD.encode(claims.as_bytes()));
    let hours = |n: u64| Some(Duration::from_secs(n * 3600));
    let by_itself = jwt(r#"{"sub":"did:plc:x","exp":1785007200,"iat":1785000000}"#);
    assert_eq!(life(&by_itself, None), hours(2));
    assert_eq!(life(&by_itself, Some(1_784_000_000_000)), hours(2));
    let by_date = jwt(r#"{"exp":1785007200}"#);
    assert_eq!(life(&by_date, Some(1_785_003_600_999)), hours(1));
    assert_eq!(life(&by_date, None), None, "then the server says when it has expired");
    assert_eq!(life(&by_date, Some(1_785_007_201_000)), None);
    assert_eq!(life("opaque", Some(0)), None);
}
