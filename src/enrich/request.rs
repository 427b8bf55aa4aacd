//! One HTTP request about accounts, and what its answer says in general: something about the account, or that the host is in
//! trouble or wants a pause. It knows neither questions nor formats. A thread `fetch-N` waits for it.

use std::io::Read;
use std::time::Duration;

use crate::client;

/// Why there is no answer.
pub enum Trouble {
    /// The host is in trouble, or cannot be reached.
    Host(String),
    /// It asks for a pause.
    Pause(Duration),
    /// Its gate is closed, for so long at least.
    Closed(Duration),
}

/// An HTTP answer that says something about the account.
pub enum Reply {
    /// At most one byte more than the limit of the request.
    Body(Vec<u8>),
    /// There is no such account.
    Absent,
}

/// One GET: a body of `limit` bytes at most, or the news that there is nothing, and a pause that it asked for.
pub fn get(agent: &ureq::Agent, url: &str, limit: u64) -> Result<(Reply, Option<Duration>), Trouble> {
    let trouble = |e: &dyn std::fmt::Display| Trouble::Host(format!("{url}: {e}"));
    let mut response = agent.get(url).call().map_err(|e| trouble(&e))?;
    let pause = client::asked_wait(response.headers());
    // Of every answer, since a connection whose answer is not read to its end cannot be used again. One byte more, so that
    // what is too long shows, and is judged by whoever reads it; the rest ends with its connection.
    // A length that is promised is taken at once, so that no buffer grows to twice of it.
    let length = response.body().content_length().unwrap_or_default().min(limit + 1);
    let mut body = Vec::with_capacity(length as usize);
    let read = response.body_mut().as_reader().take(limit + 1).read_to_end(&mut body);
    match response.status().as_u16() {
        200 => read.map(|_| (Reply::Body(body), pause)).map_err(|e| trouble(&e)),
        // An AppView says 400 of an account that it does not have, a PLC directory 410 of one that is no more.
        400 | 404 | 410 => Ok((Reply::Absent, pause)),
        429 => Err(Trouble::Pause(pause.unwrap_or(Duration::from_secs(5)))),
        status => Err(trouble(&format!("HTTP {status}"))),
    }
}
