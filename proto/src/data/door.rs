//! What a connection to a worker's port speaks, by its first byte.

use std::time::Duration;

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::{
    Connection, MAGIC,
    buffers::{Buffers, KEPT},
};

/// What somebody who has connected speaks.
#[derive(Debug)]
pub enum Visitor {
    /// The data protocol.
    Data(Connection),
    /// Something else, most likely HTTP/2; no byte of it has been taken.
    Other(TcpStream),
}

/// Waits for the first byte, but not for longer than `patience`; `None` for who sends none, or only begins like [`MAGIC`].
pub async fn recognize(mut stream: TcpStream, patience: Duration) -> Option<Visitor> {
    let tell = async {
        let mut first = [0];
        if stream.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        if first[0] != MAGIC[0] {
            return Some(Visitor::Other(stream));
        }
        let mut magic = [0; MAGIC.len()];
        stream.read_exact(&mut magic).await.ok()?;
        (magic == MAGIC).then(|| Visitor::Data(Connection::new(stream, Buffers::keeping(KEPT))))
    };
    timeout(patience, tell).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    async fn visit(bytes: &[u8], patience: Duration) -> Option<Visitor> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut visitor = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        visitor.write_all(bytes).await.unwrap();
        let recognized = recognize(listener.accept().await.unwrap().0, patience).await;
        drop(visitor);
        recognized
    }

    #[tokio::test]
    async fn visitors_are_told_apart() {
        let soon = Duration::from_secs(5);
        assert!(matches!(visit(&MAGIC, soon).await, Some(Visitor::Data(_))));
        let Some(Visitor::Other(mut http)) = visit(b"PRI * HTTP/2.0\r\n", soon).await else { panic!("not HTTP") };
        let mut begun = [0; 5];
        http.read_exact(&mut begun).await.unwrap();
        assert_eq!(&begun, b"PRI *", "nothing of it was taken");
        assert!(visit(b"LARDERxx", soon).await.is_none());
        assert!(visit(b"LARD", Duration::from_millis(50)).await.is_none(), "silence has an end");
        assert!(visit(b"", Duration::from_millis(50)).await.is_none());
    }
}
