//! A file system in memory, a mount of it that is always cleaned up, and children that look at it.
//!
//! The process that serves never touches the mount itself: it would wait for itself.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use fuse::{
    Attr, DirReply, Entry, Errno, FileSystem, Inode, Metrics, MountError, MountOptions,
    OpcodeLabel, ReadReply, Session, StatFs,
};
use tempfile::TempDir;

/// A child that takes longer is stuck.
const DEADLINE_SECONDS: &str = "60";

pub(crate) enum Body {
    Directory(Vec<(Vec<u8>, Inode)>),
    File,
    /// A file whose reads wait for [`Gate::open`].
    Slow,
    /// A file whose reads panic.
    Panicking,
    /// A file whose reads fail with this.
    Broken(Errno),
    Symlink(Vec<u8>),
    Device,
}

pub(crate) struct Node {
    pub(crate) attr: Attr,
    pub(crate) body: Body,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let open = self.open.lock().unwrap();
        let (_open, outcome) = self
            .opened
            .wait_timeout_while(open, Duration::from_secs(60), |open| !*open)
            .unwrap();
        assert!(!outcome.timed_out(), "the gate was never opened");
    }
}

/// Node with inode number i lies at i - 1.
pub(crate) struct Memory {
    pub(crate) nodes: Vec<Node>,
    pub(crate) xattrs: bool,
    pub(crate) gate: Arc<Gate>,
}

/// Content of every file at `offset`: a pattern that differs between pages and files.
pub(crate) fn byte(inode: Inode, offset: u64) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 9).wrapping_mul(7) ^ inode.0) as u8
}

pub(crate) fn content(inode: Inode, len: u64) -> Vec<u8> {
    (0..len).map(|offset| byte(inode, offset)).collect()
}

impl Memory {
    pub(crate) fn new() -> Self {
        let mut memory = Self {
            nodes: Vec::new(),
            xattrs: false,
            gate: Arc::default(),
        };
        memory.node(0o040_755, 0, Body::Directory(Vec::new()));
        memory
    }

    fn node(&mut self, mode: u32, size: u64, body: Body) -> Inode {
        let inode = Inode(self.nodes.len() as u64 + 1);
        self.nodes.push(Node {
            attr: Attr {
                ino: inode,
                size,
                mode,
                nlink: 1,
                uid: 0,
                gid: 0,
                rdev: 0,
                mtime: 1_600_000_000 + i64::try_from(inode.0).unwrap(),
                mtime_nanos: 123_456_789,
            },
            body,
            xattrs: BTreeMap::new(),
        });
        inode
    }

    pub(crate) fn add(
        &mut self,
        parent: Inode,
        name: impl AsRef<[u8]>,
        mode: u32,
        size: u64,
        body: Body,
    ) -> Inode {
        let inode = self.node(mode, size, body);
        self.link(parent, name, inode);
        inode
    }

    pub(crate) fn link(&mut self, parent: Inode, name: impl AsRef<[u8]>, inode: Inode) {
        let Body::Directory(entries) = &mut self.nodes[parent.0 as usize - 1].body else {
            panic!("not a directory")
        };
        entries.push((name.as_ref().to_vec(), inode));
    }

    pub(crate) fn file(&mut self, name: &str, size: u64) -> Inode {
        self.add(Inode::ROOT, name, 0o100_644, size, Body::File)
    }

    pub(crate) fn directory(&mut self, name: &str) -> Inode {
        self.add(Inode::ROOT, name, 0o040_755, 0, Body::Directory(Vec::new()))
    }

    pub(crate) fn get(&self, inode: Inode) -> Result<&Node, Errno> {
        let index = usize::try_from(inode.0.wrapping_sub(1)).map_err(|_| Errno::ESTALE)?;
        self.nodes.get(index).ok_or(Errno::ESTALE)
    }

    fn entry(&self, inode: Inode) -> Entry {
        match self.get(inode) {
            Ok(node) => Entry {
                inode,
                attr: node.attr,
                entry_valid: Duration::MAX,
                attr_valid: Duration::MAX,
            },
            // A number that leads nowhere: the kernel finds out when it asks.
            Err(_) => Entry {
                inode,
                attr: Attr {
                    ino: inode,
                    mode: 0o100_644,
                    ..self.nodes[0].attr
                },
                entry_valid: Duration::ZERO,
                attr_valid: Duration::ZERO,
            },
        }
    }

    fn entries(&self, inode: Inode) -> Result<&[(Vec<u8>, Inode)], Errno> {
        match &self.get(inode)?.body {
            Body::Directory(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }
}

impl FileSystem for Memory {
    fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Option<Entry>, Errno> {
        let found = self
            .entries(parent)?
            .iter()
            .find(|(entry, _)| entry == name);
        Ok(found.map(|&(_, inode)| self.entry(inode)))
    }

    fn negative_valid(&self) -> Duration {
        Duration::MAX
    }

    fn getattr(&self, inode: Inode) -> Result<(Attr, Duration), Errno> {
        Ok((self.get(inode)?.attr, Duration::MAX))
    }

    fn readlink(&self, inode: Inode) -> Result<Vec<u8>, Errno> {
        match &self.get(inode)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn read(&self, inode: Inode, offset: u64, out: &mut ReadReply<'_>) -> Result<(), Errno> {
        let node = self.get(inode)?;
        match node.body {
            Body::File => {}
            Body::Slow => self.gate.pass(),
            Body::Panicking => panic!("this panic is part of a test"),
            Body::Broken(errno) => return Err(errno),
            _ => return Err(Errno::EISDIR),
        }
        out.push_with(node.attr.size.saturating_sub(offset), |space| {
            for (index, slot) in space.iter_mut().enumerate() {
                *slot = byte(inode, offset + index as u64);
            }
            Ok::<_, Errno>(space.len())
        })?;
        Ok(())
    }

    fn readdir(&self, inode: Inode, offset: u64, out: &mut DirReply<'_>) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        for (index, (name, child)) in self.entries(inode)?.iter().enumerate().skip(start) {
            if !out.add(name, index as u64 + 1, &self.entry(*child)) {
                break;
            }
        }
        Ok(())
    }

    fn has_xattrs(&self) -> bool {
        self.xattrs
    }

    fn getxattr(&self, inode: Inode, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.get(inode)?
            .xattrs
            .get(name)
            .cloned()
            .ok_or(Errno::ENODATA)
    }

    fn listxattr(&self, inode: Inode) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(self.get(inode)?.xattrs.keys().cloned().collect())
    }

    fn statfs(&self) -> StatFs {
        StatFs {
            content_bytes: self.nodes.iter().map(|node| node.attr.size).sum(),
            inodes: self.nodes.len() as u64,
        }
    }
}

/// A mount in a temporary directory that does not outlive the test, even a failed one.
pub(crate) struct Mounted {
    pub(crate) session: Option<Session>,
    pub(crate) path: PathBuf,
    pub(crate) metrics: Metrics,
    gate: Arc<Gate>,
    directory: Option<TempDir>,
}

/// Mounts `memory`; says why and gives `None` where that is impossible.
pub(crate) fn mount(memory: Memory) -> Option<Mounted> {
    mount_with(memory, MountOptions::default())
}

pub(crate) fn mount_with(memory: Memory, options: MountOptions) -> Option<Mounted> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = directory.path().canonicalize().unwrap().join("mnt");
    std::fs::create_dir(&path).unwrap();
    let gate = Arc::clone(&memory.gate);
    let metrics = options.metrics.clone();
    match Session::mount(Arc::new(memory), &path, options) {
        Ok(session) => Some(Mounted {
            session: Some(session),
            path,
            metrics,
            gate,
            directory: Some(directory),
        }),
        Err(
            error @ (MountError::DeviceMissing(_)
            | MountError::DeviceForbidden(_)
            | MountError::NotPermitted { .. }),
        ) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}: {error:?}"),
    }
}

impl Mounted {
    pub(crate) fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }

    pub(crate) fn requests(&self, opcode: &'static str) -> u64 {
        self.metrics
            .requests
            .get_or_create(&OpcodeLabel { opcode })
            .get()
    }

    /// Runs a shell script in the mount's parent directory; the mount is `mnt`.
    pub(crate) fn sh(&self, script: &str) -> Output {
        self.shell(script).output().unwrap()
    }

    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-s", "KILL", DEADLINE_SECONDS, "sh", "-c", script])
            .env("LC_ALL", "C")
            .current_dir(self.path.parent().unwrap())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn stdout(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn failure(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(!output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.gate.open();
        // Whatever a test mounted beside or over it goes too, last first.
        let parent = self.path.parent().unwrap();
        let left = fuse::mounts_below(parent).unwrap_or_default();
        let detached = left
            .iter()
            .rev()
            .all(|mount| fuse::detach_path(&mount.mount_point).is_ok());
        if !detached {
            // Removing the directory would walk through the mount, and wait for this very process.
            std::mem::forget(self.directory.take());
        }
    }
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
