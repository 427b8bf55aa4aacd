//! A server that answers whatever it is asked with bytes that the test gives.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

/// Answers each request by its head, with these bytes.
pub fn server(answer: impl Fn(&str) -> Vec<u8> + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            thread::spawn(move || {
                let mut head = [0; 8192];
                let read = socket.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let _ = socket.write_all(&answer(&head));
                // A reset would take the answer with it.
                let _ = socket.shutdown(std::net::Shutdown::Write);
                let _ = socket.read(&mut [0; 1]);
            });
        }
    });
    address.to_string()
}

/// An answer of HTTP; `head` has further lines, each with its end.
pub fn http(status: &str, head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{head}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into_bytes()
}
