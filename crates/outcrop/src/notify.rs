//! Readiness for systemd (`sd_notify(3)`): one datagram to the socket that `NOTIFY_SOCKET` names.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells whoever started us that we serve. Without a socket, nobody asked.
pub fn ready(socket: Option<&OsStr>) {
    tell(socket, "READY=1");
}

/// Tells whoever started us that we are about to end.
pub fn stopping(socket: Option<&OsStr>) {
    tell(socket, "STOPPING=1");
}

fn tell(socket: Option<&OsStr>, state: &str) {
    let Some(socket) = socket.filter(|socket| !socket.is_empty()) else {
        return;
    };
    if let Err(error) = send(socket, state) {
        tracing::warn!(%error, state, "cannot notify the service manager");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> Vec<u8> {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn states_arrive_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        ready(Some(path.as_os_str()));
        assert_eq!(received(&by_path), b"READY=1");

        let name = format!("outcrop-test-{}", std::process::id());
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        stopping(Some(OsStr::new(&format!("@{name}"))));
        assert_eq!(received(&by_name), b"STOPPING=1");
    }

    #[test]
    fn nobody_to_notify_is_no_failure() {
        ready(None);
        ready(Some(OsStr::new("")));
        ready(Some(OsStr::new("/no/such/socket")));
    }
}
