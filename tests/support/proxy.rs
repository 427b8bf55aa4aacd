//! An HTTP proxy on 127.0.0.1: CONNECT to any name leads to the same port of this machine.
#![allow(dead_code)] // each test file uses a part of it

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

pub struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// With `login`, base64 of user and password, it wants that.
    pub fn start(login: Option<&'static str>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let seen = seen.clone();
                std::thread::spawn(move || serve(client, login, &seen));
            }
        });
        Proxy { port, heads }
    }

    /// Its address, with this before it.
    pub fn url(&self, user_info: &str) -> String {
        format!("http://{user_info}127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What was asked for, as `HOST:PORT`, in order.
    pub fn targets(&self) -> Vec<String> {
        let target = |head: &String| head.split(' ').nth(1).unwrap_or_default().to_string();
        self.heads.lock().expect("heads").iter().map(target).collect()
    }
}

fn serve(mut client: TcpStream, login: Option<&str>, seen: &Mutex<Vec<String>>) -> Option<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let authorized = login.is_none_or(|login| {
        head.lines().any(|l| l.to_lowercase().starts_with("proxy-authorization:") && l.ends_with(&format!(" {login}")))
    });
    let port: u16 = head.split(' ').nth(1)?.rsplit(':').next()?.parse().ok()?;
    seen.lock().expect("heads").push(head.clone());
    let answer = match (head.starts_with("CONNECT "), authorized) {
        (false, _) => "405 Method Not Allowed",
        (_, false) => "407 Proxy Authentication Required",
        _ => "200 Connection established",
    };
    let host = TcpStream::connect(("127.0.0.1", port));
    let answer = if host.is_err() && answer.starts_with("200") { "502 Bad Gateway" } else { answer };
    client.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).ok()?;
    if !answer.starts_with("200") {
        return None;
    }
    let host = host.ok()?;
    let (mut from, mut to) = (client.try_clone().ok()?, host.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let (mut from, mut to) = (host, client);
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Both);
    Some(())
}
