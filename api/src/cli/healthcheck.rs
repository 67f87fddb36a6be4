//! `entrybook healthcheck`: whether the server of this machine answers; for containers that hold nothing else to ask with.

use super::exit::Refused;
use anyhow::Context;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(3);

/// Asks `/healthz` where the server listens; every address of the machine is asked at its loopback.
pub(super) fn run(listen: SocketAddr) -> anyhow::Result<()> {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, listen.port());
    let head = ask(address).with_context(|| format!("no server answers on {address}"))?;
    if head.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    let line: Vec<u8> = head.iter().copied().take_while(|byte| *byte != b'\r').take(80).collect();
    Err(Refused(format!("{address} answers {:?}, and not 200.", String::from_utf8_lossy(&line)))
        .into())
}

fn ask(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    stream.take(1024).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answer(text: &'static str) -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // All of it: closing with something unread would reset the connection.
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                asked.extend(byte);
            }
            assert!(asked.starts_with(b"GET /healthz HTTP/1.1\r\n"));
            stream.write_all(text.as_bytes()).unwrap();
        });
        let result = run(SocketAddr::from(([0, 0, 0, 0], port)));
        server.join().unwrap();
        result
    }

    #[test]
    fn only_a_200_is_healthy() {
        assert!(answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok());
        assert!(answer("HTTP/1.1 503 Service Unavailable\r\n\r\n").is_err());
        assert!(answer("HTTP/1.1 2000\r\n").is_err());
        assert!(answer("").is_err());
    }

    #[test]
    fn nobody_there_is_not_healthy() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = run(SocketAddr::from(([127, 0, 0, 1], port))).unwrap_err();
        assert!(error.to_string().contains("no server answers"), "{error}");
    }
}
