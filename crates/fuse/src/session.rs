//! A mounted file system while it is served.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::OFlags;
use zerocopy::IntoBytes;

use crate::abi;
use crate::answer::Responder;
use crate::file_system::FileSystem;
use crate::init::{Negotiated, Terms};
use crate::mount::{self, MountError, MountOptions};
use crate::mountinfo::{self, MountInfo};
use crate::worker::Connection;

/// A notification without a body is a header.
const RESEND_LEN: u32 = 16;

/// One mount and the threads that serve it.
///
/// Dropping it neither unmounts nor stops the serving: the threads go on until the kernel lets go of the connection,
/// after the last user of an unmounted mount has left, and then drop the file system. When the process ends, the mount
/// stays, dead.
pub struct Session {
    connection: Arc<Connection>,
    mount: MountInfo,
}

impl Session {
    /// Mounts `files` read-only on the directory `dir` and serves it.
    ///
    /// # Errors
    /// [`MountError`]; nothing stays mounted then.
    pub fn mount(
        files: Arc<dyn FileSystem>,
        dir: &Path,
        options: MountOptions,
    ) -> Result<Self, MountError> {
        let dir = mount::resolve(dir)?;
        let failed = |action| {
            let path = dir.clone();
            move |source| MountError::Failed {
                path,
                action,
                source,
            }
        };
        let device = mount::open_device()?;
        mount::mount(&device, &dir, &options)?;
        let read_ahead = options.read_ahead_kib;
        let session =
            Self::serve(files, device, None, options).map_err(failed("start its workers"));
        let session = session.and_then(|connection| {
            let mount = mountinfo::mount_at(&dir).map_err(failed("read /proc/self/mountinfo"))?;
            let mount = mount.ok_or_else(|| MountError::NotOurs { path: dir.clone() })?;
            Ok(Self { connection, mount })
        });
        match &session {
            Ok(session) => session.raise_read_ahead(read_ahead),
            // Nobody can use what nobody serves.
            Err(_) => drop(mount::detach_path(&dir)),
        }
        session
    }

    /// Serves a mount that somebody else made, over a duplicate of its descriptor.
    ///
    /// `mount` and `negotiated` are what the predecessor's [`Session::mount_info`] and [`Session::negotiated`] said.
    /// Of `options`, only `workers` and `metrics` still count. Requests that were never read are answered at once; for
    /// those that the predecessor read and left, see [`Session::resend`].
    ///
    /// # Errors
    /// Threads, descriptors or memory cannot be had.
    pub fn adopt(
        files: Arc<dyn FileSystem>,
        device: OwnedFd,
        mount: MountInfo,
        negotiated: Option<Negotiated>,
        options: MountOptions,
    ) -> io::Result<Self> {
        // The flag belongs to the open file, which whoever held it may have changed; a worker that blocks in read()
        // could not be parked.
        let flags = rustix::fs::fcntl_getfl(&device)?;
        rustix::fs::fcntl_setfl(&device, flags | OFlags::NONBLOCK)?;
        let connection = Self::serve(files, device, negotiated, options)?;
        Ok(Self { connection, mount })
    }

    /// Has the kernel send again what was read and not answered. Only when the predecessor is wholly dead: what it
    /// reads after this is lost. Also takes back what this session is about to answer, so call it once, at the start.
    ///
    /// # Errors
    /// `Unsupported` before Linux 6.9; otherwise what write(2) says.
    pub fn resend(&self) -> io::Result<()> {
        if !self
            .negotiated()
            .is_some_and(|negotiated| negotiated.has_resend)
        {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let header = abi::OutHeader {
            len: RESEND_LEN,
            error: abi::NOTIFY_RESEND,
            unique: 0,
        };
        rustix::io::write(self.descriptor(), header.as_bytes())?;
        Ok(())
    }

    fn serve(
        files: Arc<dyn FileSystem>,
        device: OwnedFd,
        negotiated: Option<Negotiated>,
        options: MountOptions,
    ) -> io::Result<Arc<Connection>> {
        let responder = Responder {
            files,
            terms: Terms {
                max_readahead: options.read_ahead_kib.saturating_mul(1024),
                default_permissions: options.default_permissions,
            },
            negotiated: negotiated.map_or_else(OnceLock::new, OnceLock::from),
            metrics: options.metrics,
        };
        let connection = Arc::new(Connection::new(device, responder, options.workers)?);
        connection.serve()?;
        Ok(connection)
    }

    fn raise_read_ahead(&self, kib: u32) {
        if let Err(error) = mount::set_read_ahead(self.mount.device, kib) {
            tracing::warn!(%error, "reading ahead stays at the kernel's default; is /sys writable?");
        }
    }

    /// Takes the mount away from its path. Whoever uses it still (an open file, an overlay above) is served on; the
    /// session ends when the last one has left. Nothing happens when it has been unmounted already.
    ///
    /// # Errors
    /// [`MountError::NotOurs`] when something else is mounted over it, or what umount2(2) says.
    pub fn detach(&self) -> Result<(), MountError> {
        let path = self.directory();
        let failed = |action| {
            move |source| MountError::Failed {
                path: path.to_owned(),
                action,
                source,
            }
        };
        let uppermost = mountinfo::mount_at(path).map_err(failed("read /proc/self/mountinfo"))?;
        match uppermost {
            None => Ok(()),
            Some(mount) if mount.device == self.mount.device => {
                mount::detach_path(path).map_err(failed("detach it"))
            }
            Some(_) => Err(MountError::NotOurs {
                path: path.to_owned(),
            }),
        }
    }

    /// Waits until the session has ended: the mount was unmounted and its last user left, or [`Session::park`].
    pub fn wait(&self) {
        self.connection.wait(None);
    }

    /// Like [`Session::wait`], for at most `timeout`; `false` when the session has not ended by then.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.connection.wait(Some(timeout))
    }

    /// Whether requests are answered: neither unmounted and left by everybody, nor parked.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.connection.is_served()
    }

    /// Whether the kernel has let go of the connection.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.connection.has_ended()
    }

    /// Stops serving after the requests in hand; those that come later wait, unanswered, for somebody else who holds
    /// the descriptor.
    ///
    /// # Errors
    /// The signal to the workers cannot be given; in practice never.
    pub fn park(&self) -> io::Result<()> {
        self.connection.park()
    }

    /// Absolute path of the mount point.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.mount.mount_point
    }

    /// Major and minor number of `st_dev`; the minor one names the connection in `/sys/fs/fuse/connections`.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        self.mount.device
    }

    /// What the mount is in `/proc/self/mountinfo`.
    #[must_use]
    pub fn mount_info(&self) -> &MountInfo {
        &self.mount
    }

    /// What was agreed with the kernel; `None` until INIT was answered.
    #[must_use]
    pub fn negotiated(&self) -> Option<Negotiated> {
        self.connection.responder.negotiated.get().copied()
    }

    /// The connection's descriptor, to be duplicated into whatever shall keep it open beyond this process.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.connection.device.as_fd()
    }
}
