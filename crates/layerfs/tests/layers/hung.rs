//! A mounted repository whose client hangs: it takes requests and does not answer.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use fuse::{
    Attr, DirReply, Entry, Errno, FileSystem, Inode, MountOptions, ReadReply, Session, StatFs,
};
use layerfs::{Config, Layers, Mounted, Refusal, Source, SourceError};
use testkit::LayerBlob;

use crate::outside::{EIO, read};
use crate::world::{World, attach, blob, eventually, mounts_possible, requests};

const CONTENT: &[u8] = b"content";

/// One layer with one file, `unpacked/<xx>/<hex>/x`; nothing is remembered by the kernel.
struct Client {
    names: [Vec<u8>; 4],
    hangs: Mutex<bool>,
    answers: Condvar,
}

impl Client {
    fn new(layer: &LayerBlob) -> Arc<Self> {
        let hex = &layer.digest[7..];
        let names = ["unpacked", &hex[..2], hex, "x"].map(|name| name.as_bytes().to_vec());
        Arc::new(Self {
            names,
            hangs: Mutex::new(false),
            answers: Condvar::new(),
        })
    }

    fn hang(&self, hangs: bool) {
        *self.hangs.lock().unwrap() = hangs;
        self.answers.notify_all();
    }

    /// Inode numbers go down the path from 1.
    fn attr(&self, inode: Inode) -> Attr {
        let mut hangs = self.hangs.lock().unwrap();
        while *hangs {
            hangs = self.answers.wait(hangs).unwrap();
        }
        let directory = inode.0 <= 4;
        Attr {
            ino: inode,
            size: if directory { 0 } else { CONTENT.len() as u64 },
            mode: if directory { 0o040_755 } else { 0o100_644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            mtime: 1,
            mtime_nanos: 0,
        }
    }

    fn entry(&self, inode: Inode) -> Entry {
        Entry {
            inode,
            attr: self.attr(inode),
            entry_valid: Duration::ZERO,
            attr_valid: Duration::ZERO,
        }
    }
}

impl FileSystem for Client {
    fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Option<Entry>, Errno> {
        let entry = self.entry(Inode(parent.0 + 1));
        let known = self.names.get(usize::try_from(parent.0).unwrap() - 1);
        Ok(known.is_some_and(|known| known == name).then_some(entry))
    }

    fn negative_valid(&self) -> Duration {
        Duration::ZERO
    }

    fn getattr(&self, inode: Inode) -> Result<(Attr, Duration), Errno> {
        Ok((self.attr(inode), Duration::ZERO))
    }

    fn readlink(&self, _: Inode) -> Result<Vec<u8>, Errno> {
        Err(Errno::EINVAL)
    }

    fn read(&self, inode: Inode, offset: u64, out: &mut ReadReply<'_>) -> Result<(), Errno> {
        self.attr(inode);
        out.push(
            CONTENT
                .get(usize::try_from(offset).unwrap()..)
                .unwrap_or(b""),
        );
        Ok(())
    }

    fn readdir(&self, inode: Inode, offset: u64, out: &mut DirReply<'_>) -> Result<(), Errno> {
        if offset == 0 {
            let name = &self.names[usize::try_from(inode.0).unwrap() - 1];
            out.add(name, 1, &self.entry(Inode(inode.0 + 1)));
        }
        Ok(())
    }

    fn has_xattrs(&self) -> bool {
        false
    }

    fn getxattr(&self, _: Inode, _: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(Errno::ENODATA)
    }

    fn listxattr(&self, _: Inode) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(Vec::new())
    }

    fn statfs(&self) -> StatFs {
        StatFs {
            content_bytes: 0,
            inodes: 5,
        }
    }
}

/// Answers again and unmounts at the end, whatever happens: nobody may be left waiting for it.
struct Mount {
    client: Arc<Client>,
    session: Session,
}

impl Mount {
    fn new(client: Arc<Client>, directory: &Path) -> Self {
        std::fs::create_dir(directory).unwrap();
        let options = MountOptions {
            source: "theirs".to_owned(),
            subtype: "theirs".to_owned(),
            workers: 64,
            ..MountOptions::default()
        };
        let session = Session::mount(Arc::clone(&client) as _, directory, options).unwrap();
        Self { client, session }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.client.hang(false);
        self.session.detach().unwrap();
    }
}

fn says_no_answer(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Source(error @ SourceError::Unavailable { .. }) => {
            error.to_string().contains("does not answer")
        }
        _ => false,
    }
}

fn node(world: &World, directory: &Path, deadline: Duration) -> Layers {
    let config = Config {
        mounted_deadline: deadline,
        ..world.config()
    };
    let source = Mounted {
        directory: directory.to_owned(),
        trust_without_diff_id: true,
    };
    Layers::open(config, vec![Source::Mounted(source)]).unwrap()
}

#[test]
fn a_client_that_hangs_delays_nobody_beyond_the_deadline() {
    if !mounts_possible() {
        return;
    }
    let image = [blob([testkit::Entry::file("x", CONTENT)])];
    let world = World::new();
    let theirs = world.path("theirs");
    let mount = Mount::new(Client::new(&image[0]), &theirs);
    let node = node(&world, &theirs, Duration::from_millis(500));
    let (_, path) = attach(&node, &image);

    mount.client.hang(true);
    let other = &requests(&[blob([testkit::Entry::file("y", "y")])])[0];
    assert!(says_no_answer(&node.claim(other).unwrap_err()));
    assert_eq!(read(&path.join("x")), Err(EIO));
    assert!(node.metrics().failed_reads.get() > 0);
    // Soon it is not even asked any more.
    eventually("nothing is begun any more", || {
        let refusal = node.claim(other).unwrap_err();
        assert!(says_no_answer(&refusal));
        refusal.to_string().contains("still unanswered")
    });

    mount.client.hang(false);
    eventually("it is asked again", || {
        matches!(node.claim(other), Err(Refusal::NotFound { .. }))
    });
    assert_eq!(read(&path.join("x")).unwrap(), CONTENT);
}

#[test]
fn attaching_from_a_client_that_hangs_fails() {
    if !mounts_possible() {
        return;
    }
    let image = [blob([testkit::Entry::file("x", CONTENT)])];
    let world = World::new();
    let theirs = world.path("theirs");
    let mount = Mount::new(Client::new(&image[0]), &theirs);
    let node = node(&world, &theirs, Duration::from_millis(500));
    let chain = crate::world::claim(&node, &image).unwrap();
    eventually("the tree is built", || {
        node.metrics().trees_built.get() == 1
    });
    node.retain(&layerfs::Named::default()).unwrap();
    mount.client.hang(true);
    match node.attach(&chain) {
        Err(layerfs::AttachError::Layer { cause, .. }) => {
            assert!(cause.to_string().contains("does not answer"), "{cause}");
        }
        answer => panic!("{answer:?}"),
    }
}
