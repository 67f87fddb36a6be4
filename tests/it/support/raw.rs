//! Bytes on a connection: for requests that no proper client sends.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::server::{PATIENCE, eventually};

pub struct Raw(TcpStream);

impl Raw {
    pub async fn connect(port: u16) -> Self {
        Self(TcpStream::connect(("127.0.0.1", port)).await.unwrap())
    }

    /// A connection that was made otherwise.
    pub fn of(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// Writes; `false` when the other side has hung up.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Waits until the server has taken all that was written.
    pub async fn is_read(&self) {
        let (us, server) = (self.0.local_addr().unwrap(), self.0.peer_addr().unwrap());
        // proc_pid_net(5): what waits to be sent, and what is received and not read, at either end.
        let end = |address: SocketAddr| {
            let IpAddr::V4(ip) = address.ip() else { panic!("{address} is no IPv4 address") };
            format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), address.port())
        };
        let nothing = |from, to| format!(" {} {} 01 00000000:00000000 ", end(from), end(to));
        let (here, there) = (nothing(us, server), nothing(server, us));
        eventually("it is read", async || {
            let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
            (connections.contains(&here) && connections.contains(&there)).then_some(())
        })
        .await;
    }

    /// Waits until the first of an answer is there, and leaves it.
    pub async fn is_answered(&self) {
        let mut first = [0];
        let peeking = tokio::time::timeout(PATIENCE, self.0.peek(&mut first));
        assert_eq!(peeking.await.expect("waited in vain for an answer").unwrap(), 1);
    }

    /// Everything up to the end of the connection, which must come.
    pub async fn read_to_end(mut self) -> String {
        let mut bytes = Vec::new();
        let reading = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await;
        // A reset after the answer is an end, too.
        let _ = reading.expect("waited in vain until the server hangs up");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Says that nothing more will come, and reads to the end.
    pub async fn finish(mut self) -> String {
        let _ = self.0.shutdown().await;
        self.read_to_end().await
    }

    /// Writes these bytes one by one, with a pause before each, until all are written or the other
    /// side has had enough; then reads what it said.
    pub async fn trickle(mut self, bytes: impl AsRef<[u8]>, pause: Duration) -> String {
        let (mut reader, mut writer) = self.0.split();
        let mut answer = Vec::new();
        let writing = async {
            for byte in bytes.as_ref() {
                tokio::time::sleep(pause).await;
                if writer.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let reading = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut answer));
        tokio::select! {
            () = writing => {}
            read = reading => { let _ = read.expect("waited in vain until the server hangs up"); }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// One request, written at once on a connection of its own, and all that came back.
pub async fn exchange(port: u16, request: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(port).await;
    raw.write(request).await;
    raw.read_to_end().await
}

/// The status of an answer; 0 where the server hung up without one.
pub fn status(answer: &str) -> u16 {
    let second = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    second.and_then(|status| status.parse().ok()).unwrap_or(0)
}
