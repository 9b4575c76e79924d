//! The snapshotter's socket.

use crate::error::{Error, Kind};
use std::fs::{DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Binds `path`, mode 0600; its directory is made with mode 0700 if it is missing. A socket that a dead daemon left is
/// replaced. Call it before there are threads: the mode comes from the process's umask, so that there is no moment at which
/// others may connect.
///
/// # Errors
/// [`Kind::Unavailable`] if a living daemon answers there, [`Kind::Config`] if the path cannot be a socket.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    let cannot = |error: std::io::Error| {
        Error::new(
            Kind::Config,
            format!("cannot make the socket {}", path.display()),
        )
        .because(error)
        .hint("run as root, or set socket to another path")
    };
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(cannot)?;
    }
    make_room(path)?;
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(umask);
    let listener = bound.map_err(cannot)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(cannot)?;
    Ok(listener)
}

/// Whether a living daemon answers at `path`; changes nothing.
///
/// # Errors
/// [`Kind::Unavailable`] if one does.
pub fn check_free(path: &Path) -> Result<(), Error> {
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::new(
            Kind::Unavailable,
            format!("a living daemon answers at {}", path.display()),
        )
        .hint("stop it first (systemctl stop outcrop), or set socket to another path")),
        Err(_) => Ok(()),
    }
}

fn make_room(path: &Path) -> Result<(), Error> {
    let cannot = |error: std::io::Error| {
        Error::new(Kind::Config, format!("cannot replace {}", path.display())).because(error)
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(Error::new(
                Kind::Config,
                format!("{} exists and is no socket", path.display()),
            )
            .hint("remove it, or set socket to another path"));
        }
        Ok(_) => {}
    }
    check_free(path)?;
    std::fs::remove_file(path).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_socket_and_its_directory_are_ours_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run/snapshotter.sock");
        let _listener = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            path.parent().unwrap().metadata().unwrap().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn a_dead_daemon_s_socket_is_replaced_and_a_living_one_s_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("snapshotter.sock");
        drop(bind(&path).unwrap());
        assert!(path.exists(), "closing a socket leaves its file");
        let _living = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(
            error.to_string().contains("a living daemon answers"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("snapshotter.sock");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), Kind::Config);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
