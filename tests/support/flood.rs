//! A host whose websocket never runs dry.
#![allow(dead_code)] // each test file uses a part of it

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use atkafka_fixtures::relay::wire;

pub struct Flood {
    port: u16,
    /// The texts that clients sent.
    texts: Arc<Mutex<Vec<String>>>,
}

impl Flood {
    /// Each connection gets `first`, and then `again` for as long as it takes it. The thread ends with the process.
    pub fn start(first: Vec<u8>, again: Vec<u8>) -> Flood {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let texts: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = texts.clone();
        // Many a write, so that the next bytes are there before the last are read.
        let again = again.repeat((64 << 10) / again.len() + 1);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let Ok(request) = wire::read_request(&mut stream) else { continue };
                let Some(key) = request.key else {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    continue;
                };
                let mut answers = stream.try_clone().expect("a handle");
                let (first, again, heard) = (first.clone(), again.clone(), heard.clone());
                std::thread::spawn(move || {
                    let (mut buffer, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
                    while let Ok(n @ 1..) = answers.read(&mut chunk) {
                        buffer.extend_from_slice(&chunk[..n]);
                        while let Some((opcode, payload)) = wire::take_client_frame(&mut buffer) {
                            if opcode == wire::TEXT {
                                let text = String::from_utf8_lossy(&payload).into_owned();
                                heard.lock().expect("no panic").push(text);
                            }
                        }
                    }
                });
                std::thread::spawn(move || {
                    let mut sent = stream.write_all(&[wire::upgrade(&key).into_bytes(), first].concat());
                    while sent.is_ok() {
                        sent = stream.write_all(&again);
                    }
                });
            }
        });
        Flood { port, texts }
    }

    /// `ws://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    pub fn texts(&self) -> Vec<String> {
        self.texts.lock().expect("no panic").clone()
    }
}
