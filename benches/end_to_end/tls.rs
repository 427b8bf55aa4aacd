//! TLS in front of the relay, as a relay itself would speak it: each websocket frame is a TLS record of its own.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use native_tls::{Identity, TlsAcceptor, TlsStream};

/// Bytes that are read of the relay at once, and written to the client at once.
const CHUNK: usize = 256 << 10;

/// Takes connections for `localhost`.
pub struct Front {
    port: u16,
    dir: PathBuf,
    ca: String,
}

impl Front {
    /// In front of the relay at this port, for as long as the process runs.
    pub fn start(relay: u16) -> Front {
        let dir = std::env::temp_dir().join(format!("atkafka-bench-tls-{}-{relay}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        certificates(&dir);
        let read = |name: &str| fs::read(dir.join(name)).expect("made");
        let identity = Identity::from_pkcs8(&read("server.pem"), &read("server.pk8")).expect("an identity");
        let acceptor = TlsAcceptor::new(identity).expect("an acceptor");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let acceptor = acceptor.clone();
                // It ends with either side.
                std::thread::spawn(move || serve(&acceptor, client, relay));
            }
        });
        let ca = dir.join("ca.pem").to_string_lossy().into_owned();
        Front { port, dir, ca }
    }

    pub fn url(&self) -> String {
        format!("wss://localhost:{}", self.port)
    }

    /// The file of the CA that signed the certificate.
    pub fn ca(&self) -> &str {
        &self.ca
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn certificates(dir: &Path) {
    let openssl = |args: &str| {
        let done = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().expect("openssl runs");
        assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
    };
    fs::write(dir.join("san"), "subjectAltName=DNS:localhost\n").expect("written");
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=atkafka-bench-ca");
    openssl("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost");
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile san");
    openssl("pkcs8 -topk8 -nocrypt -in server.key -out server.pk8");
}

/// The client's TCP stream: records wait here until they are flushed together.
#[derive(Debug)]
struct Together {
    tcp: TcpStream,
    waiting: Vec<u8>,
}

impl Read for Together {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.send()?;
        self.tcp.read(buf)
    }
}

impl Write for Together {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Together {
    fn send(&mut self) -> io::Result<()> {
        let sent = self.tcp.write_all(&self.waiting);
        self.waiting.clear();
        sent
    }
}

/// What the client says before the first frame, its request, goes to the relay; later it says nothing that matters here.
fn serve(acceptor: &TlsAcceptor, client: TcpStream, relay: u16) -> Option<()> {
    client.set_nodelay(true).ok()?;
    let mut client: TlsStream<Together> = acceptor.accept(Together { tcp: client, waiting: Vec::new() }).ok()?;
    let mut relay = TcpStream::connect(("127.0.0.1", relay)).ok()?;
    relay.set_nodelay(true).ok()?;
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
    }
    relay.write_all(&request).ok()?;
    let (mut buffer, mut end) = (vec![0; CHUNK], 0);
    let mut at_head = true;
    // A client that went away shows when it is written to, and a relay that has nothing more ends by itself.
    relay.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
    loop {
        match relay.read(&mut buffer[end..]) {
            Ok(0) | Err(_) => return None,
            Ok(n) => end += n,
        }
        let mut at = 0;
        while let Some(len) = piece(&buffer[at..end], at_head) {
            client.write_all(&buffer[at..at + len]).ok()?;
            (at, at_head) = (at + len, false);
        }
        client.get_mut().send().ok()?;
        buffer.copy_within(at..end, 0);
        end -= at;
        if end == buffer.len() {
            buffer.resize(end * 2, 0);
        }
    }
}

/// The length of what comes next, once it is there whole: the answer to the request, or a websocket frame.
fn piece(bytes: &[u8], at_head: bool) -> Option<usize> {
    if at_head {
        return bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
    }
    let (header, len) = match bytes.get(1)? & 127 {
        126 => (4, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    let whole = header + usize::try_from(len).ok()?;
    (bytes.len() >= whole).then_some(whole)
}
