//! From a request's bytes to the answer's bytes: everything between the two system calls of a worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use zerocopy::IntoBytes;

use crate::abi;
use crate::attr::{self, Inode};
use crate::directory::{DirFormat, DirReply};
use crate::errno::Errno;
use crate::file_system::FileSystem;
use crate::init::{self, Negotiated, Proposal, Terms};
use crate::metrics::Metrics;
use crate::read_reply::ReadReply;
use crate::reply_buffer::ReplyBuffer;
use crate::request::{Operation, Request, RequestError, parse_request};

/// Listings are cut here; the kernel asks for the rest.
const LARGEST_LISTING: usize = 64 << 10;

/// Answers requests of one connection.
pub(crate) struct Responder {
    pub(crate) files: Arc<dyn FileSystem>,
    pub(crate) terms: Terms,
    pub(crate) negotiated: OnceLock<Negotiated>,
    pub(crate) metrics: Metrics,
}

/// A body in the reply buffer.
struct Filled {
    /// Size that the room was asked with, which finds it again.
    room: usize,
    len: usize,
}

impl Responder {
    /// The answer to one request, in `buffer`; `None` when it wants none.
    pub(crate) fn answer<'b>(&self, bytes: &[u8], buffer: &'b mut ReplyBuffer) -> Option<&'b [u8]> {
        let request = match parse_request(bytes) {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(%error, "malformed request");
                return match error {
                    RequestError::NoHeader { .. } => None,
                    RequestError::Body { unique, .. } => {
                        Some(self.refuse(unique, Errno::EIO, buffer))
                    }
                };
            }
        };
        self.metrics.count_request(request.opcode);
        if request.operation == Operation::NoAnswer {
            return None;
        }
        let unique = request.unique;
        let filled =
            catch_unwind(AssertUnwindSafe(|| self.fill(&request, buffer))).unwrap_or_else(|_| {
                tracing::error!(
                    opcode = request.opcode,
                    inode = request.inode.0,
                    "a file system panicked"
                );
                self.metrics.panics.inc();
                Err(Errno::EIO)
            });
        match filled {
            Ok(Filled { room, len }) => match buffer.reply(room) {
                Ok(reply) => Some(reply.finish(unique, len)),
                // The same room was there a moment ago.
                Err(_) => None,
            },
            Err(errno) => Some(self.refuse(unique, errno, buffer)),
        }
    }

    fn refuse<'b>(&self, unique: u64, errno: Errno, buffer: &'b mut ReplyBuffer) -> &'b [u8] {
        self.metrics.count_error(errno);
        buffer.header_only().fail(unique, errno)
    }

    fn fill(&self, request: &Request<'_>, buffer: &mut ReplyBuffer) -> Result<Filled, Errno> {
        let inode = request.inode;
        match request.operation {
            Operation::Lookup { name } => self.lookup(inode, name, buffer),
            Operation::Getattr => self.getattr(inode, buffer),
            Operation::Readlink => copy(&self.files.readlink(inode)?, buffer),
            Operation::Read { offset, size } => self.read(inode, offset, size, buffer),
            Operation::Readdir {
                offset,
                size,
                format,
            } => self.readdir(inode, offset, size, format, buffer),
            Operation::Statfs => copy(self.files.statfs().encode().as_bytes(), buffer),
            // For ever: the kernel then takes it that no node has any.
            Operation::Getxattr { .. } | Operation::Listxattr { .. }
                if !self.files.has_xattrs() =>
            {
                Err(Errno::ENOSYS)
            }
            Operation::Getxattr { name, size } => {
                value(&self.files.getxattr(inode, name)?, size, buffer)
            }
            Operation::Listxattr { size } => {
                let mut names = self.files.listxattr(inode)?;
                names.iter_mut().for_each(|name| name.push(0));
                value(&names.concat(), size, buffer)
            }
            Operation::Init(proposal) => self.init(proposal, buffer),
            Operation::Nothing | Operation::NoAnswer => Ok(Filled { room: 0, len: 0 }),
            // OPEN and OPENDIR among them: no handles, and the kernel keeps listings and contents.
            Operation::Unsupported => Err(Errno::ENOSYS),
        }
    }

    fn lookup(
        &self,
        parent: Inode,
        name: &[u8],
        buffer: &mut ReplyBuffer,
    ) -> Result<Filled, Errno> {
        match self.files.lookup(parent, name)? {
            Some(entry) => copy(entry.encode().as_bytes(), buffer),
            None => match self.files.negative_valid() {
                Duration::ZERO => Err(Errno::ENOENT),
                valid => copy(attr::negative_entry(valid).as_bytes(), buffer),
            },
        }
    }

    fn getattr(&self, inode: Inode, buffer: &mut ReplyBuffer) -> Result<Filled, Errno> {
        let (attributes, valid) = self.files.getattr(inode)?;
        let (attr_valid, attr_valid_nsec) = attr::validity(valid);
        let out = abi::AttrOut {
            attr_valid,
            attr_valid_nsec,
            dummy: 0,
            attr: attributes.encode(),
        };
        copy(out.as_bytes(), buffer)
    }

    /// A short answer means the end of the file, so a read larger than the buffer is an error, never cut.
    fn read(
        &self,
        inode: Inode,
        offset: u64,
        size: u32,
        buffer: &mut ReplyBuffer,
    ) -> Result<Filled, Errno> {
        let room = size as usize;
        let mut reply = buffer.reply(room)?;
        let mut out = ReadReply::new(reply.body());
        self.files.read(inode, offset, &mut out)?;
        let len = out.filled().len();
        self.metrics.read_bytes.inc_by(len as u64);
        Ok(Filled { room, len })
    }

    fn readdir(
        &self,
        inode: Inode,
        offset: u64,
        size: u32,
        format: DirFormat,
        buffer: &mut ReplyBuffer,
    ) -> Result<Filled, Errno> {
        let room = LARGEST_LISTING.min(size as usize);
        let mut reply = buffer.reply(room)?;
        let mut out = DirReply::new(reply.body(), format);
        self.files.readdir(inode, offset, &mut out)?;
        let len = out.filled().len();
        Ok(Filled { room, len })
    }

    fn init(&self, proposal: Proposal, buffer: &mut ReplyBuffer) -> Result<Filled, Errno> {
        match proposal.answer(self.terms) {
            init::Answer::AskAgain => copy(init::version_only().as_bytes(), buffer),
            init::Answer::TooOld => {
                tracing::error!(?proposal, "this kernel's FUSE is too old");
                Err(Errno::EPROTO)
            }
            init::Answer::Agree(negotiated) => {
                // INIT comes again only when our first answer was lost, and then it says the same.
                let negotiated = self.negotiated.get_or_init(|| negotiated);
                tracing::debug!(?negotiated, "connection starts");
                copy(negotiated.encode().as_bytes(), buffer)
            }
        }
    }
}

fn copy(bytes: &[u8], buffer: &mut ReplyBuffer) -> Result<Filled, Errno> {
    let room = bytes.len();
    buffer.reply(room)?.body().copy_from_slice(bytes);
    Ok(Filled { room, len: room })
}

/// An attribute's value or the list of names, or its length when `size` is 0.
fn value(bytes: &[u8], size: u32, buffer: &mut ReplyBuffer) -> Result<Filled, Errno> {
    if size == 0 {
        let size = u32::try_from(bytes.len()).map_err(|_| Errno::E2BIG)?;
        return copy(abi::GetxattrOut { size, padding: 0 }.as_bytes(), buffer);
    }
    if bytes.len() > size as usize {
        return Err(Errno::ERANGE);
    }
    copy(bytes, buffer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromBytes;

    use super::*;
    use crate::abi::opcode;
    use crate::attr::{Attr, Entry, StatFs};
    use crate::directory::parse_directory;
    use crate::request::tests::{encode, read_body, xattr_body};

    /// A directory with one file, number 2, of five bytes.
    struct OneFile {
        negative: Duration,
        xattrs: bool,
    }

    fn attributes(inode: Inode) -> Attr {
        Attr {
            ino: inode,
            size: 5,
            mode: if inode == Inode::ROOT {
                0o040_755
            } else {
                0o100_644
            },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            mtime: 0,
            mtime_nanos: 0,
        }
    }

    fn entry(inode: Inode) -> Entry {
        Entry {
            inode,
            attr: attributes(inode),
            entry_valid: Duration::MAX,
            attr_valid: Duration::MAX,
        }
    }

    impl FileSystem for OneFile {
        fn lookup(&self, _: Inode, name: &[u8]) -> Result<Option<Entry>, Errno> {
            assert!(name != b"panic", "this panic is part of a test");
            Ok((name == b"file").then(|| entry(Inode(2))))
        }

        fn negative_valid(&self) -> Duration {
            self.negative
        }

        fn getattr(&self, inode: Inode) -> Result<(Attr, Duration), Errno> {
            if inode.0 > 2 {
                return Err(Errno::ESTALE);
            }
            Ok((attributes(inode), Duration::from_secs(3)))
        }

        fn readlink(&self, _: Inode) -> Result<Vec<u8>, Errno> {
            Ok(b"target".to_vec())
        }

        fn read(&self, _: Inode, offset: u64, out: &mut ReadReply<'_>) -> Result<(), Errno> {
            out.push(b"12345".get(offset as usize..).unwrap_or_default());
            Ok(())
        }

        fn readdir(&self, _: Inode, offset: u64, out: &mut DirReply<'_>) -> Result<(), Errno> {
            if offset == 0 {
                out.add(b"file", 1, &entry(Inode(2)));
            }
            Ok(())
        }

        fn has_xattrs(&self) -> bool {
            self.xattrs
        }

        fn getxattr(&self, _: Inode, _: &[u8]) -> Result<Vec<u8>, Errno> {
            Ok(b"value".to_vec())
        }

        fn listxattr(&self, _: Inode) -> Result<Vec<Vec<u8>>, Errno> {
            Ok(vec![b"user.a".to_vec(), b"user.b".to_vec()])
        }

        fn statfs(&self) -> StatFs {
            StatFs::default()
        }
    }

    fn responder(files: OneFile) -> Responder {
        Responder {
            files: Arc::new(files),
            terms: Terms {
                max_readahead: 1 << 20,
                default_permissions: true,
            },
            negotiated: OnceLock::new(),
            metrics: Metrics::default(),
        }
    }

    fn plain() -> Responder {
        responder(OneFile {
            negative: Duration::MAX,
            xattrs: false,
        })
    }

    /// Number of the error, or the body.
    fn ask(responder: &Responder, code: u32, nodeid: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let mut buffer = ReplyBuffer::new().unwrap();
        let answer = responder
            .answer(&encode(code, nodeid, body), &mut buffer)
            .unwrap();
        let (header, body) = abi::OutHeader::read_from_prefix(answer).unwrap();
        assert_eq!(header.unique, 42);
        assert_eq!(header.len as usize, answer.len());
        match header.error {
            0 => Ok(body.to_vec()),
            error => {
                assert!(body.is_empty());
                Err(-error)
            }
        }
    }

    #[test]
    fn names_lead_to_entries_present_or_absent() {
        let found = ask(&plain(), opcode::LOOKUP, 1, b"file\0").unwrap();
        assert_eq!(found, entry(Inode(2)).encode().as_bytes());
        let absent = ask(&plain(), opcode::LOOKUP, 1, b"absent\0").unwrap();
        let absent = abi::EntryOut::read_from_bytes(&absent).unwrap();
        assert_eq!((absent.nodeid, absent.entry_valid), (0, u64::MAX));
        let unremembered = responder(OneFile {
            negative: Duration::ZERO,
            xattrs: false,
        });
        assert_eq!(ask(&unremembered, opcode::LOOKUP, 1, b"absent\0"), Err(2));
    }

    #[test]
    fn attributes_carry_their_validity() {
        let out = ask(&plain(), opcode::GETATTR, 2, &[0; 16]).unwrap();
        let out = abi::AttrOut::read_from_bytes(&out).unwrap();
        assert_eq!((out.attr_valid, out.attr.ino, out.attr.size), (3, 2, 5));
        assert_eq!(ask(&plain(), opcode::GETATTR, 77, &[0; 16]), Err(116));
    }

    #[test]
    fn reads_end_with_the_file_and_are_never_cut() {
        let read = |offset, size| ask(&plain(), opcode::READ, 2, &read_body(offset, size));
        assert_eq!(read(0, 4096).unwrap(), b"12345");
        assert_eq!(read(1, 2).unwrap(), b"23");
        assert_eq!(read(u64::MAX, 2).unwrap(), b"");
        assert_eq!(read(0, 1 << 20).unwrap(), b"12345");
        assert_eq!(read(0, (1 << 20) + 1), Err(22));
        assert_eq!(read(0, u32::MAX), Err(22));
    }

    #[test]
    fn listings_are_cut_and_end_empty() {
        for (code, format) in [
            (opcode::READDIR, DirFormat::Plain),
            (opcode::READDIRPLUS, DirFormat::Plus),
        ] {
            let list = |offset, size| ask(&plain(), code, 1, &read_body(offset, size)).unwrap();
            let entries = parse_directory(&list(0, u32::MAX), format);
            assert_eq!(entries.len(), 1);
            assert_eq!(
                (&entries[0].name[..], entries[0].inode),
                (&b"file"[..], Inode(2))
            );
            assert_eq!(list(entries[0].next_offset, 4096), b"");
        }
    }

    #[test]
    fn attribute_values_follow_the_callers_room() {
        let responder = responder(OneFile {
            negative: Duration::MAX,
            xattrs: true,
        });
        let get = |size| {
            ask(
                &responder,
                opcode::GETXATTR,
                2,
                &xattr_body(size, b"user.a\0"),
            )
        };
        assert_eq!(get(0).unwrap(), [5u32, 0].as_bytes());
        assert_eq!(get(5).unwrap(), b"value");
        assert_eq!(get(4), Err(34));
        let list = |size| ask(&responder, opcode::LISTXATTR, 2, &xattr_body(size, b""));
        assert_eq!(list(0).unwrap(), [14u32, 0].as_bytes());
        assert_eq!(list(100).unwrap(), b"user.a\0user.b\0");
        assert_eq!(list(13), Err(34));
    }

    #[test]
    fn what_shall_never_come_back_is_not_implemented() {
        let body = xattr_body(0, b"user.a\0");
        // FLUSH, ACCESS, LSEEK, STATX and something from the future among them.
        for code in [
            opcode::OPEN,
            opcode::OPENDIR,
            opcode::GETXATTR,
            opcode::LISTXATTR,
            25,
            34,
            46,
            52,
            9999,
        ] {
            assert_eq!(ask(&plain(), code, 2, &body), Err(38), "operation {code}");
        }
        assert_eq!(ask(&plain(), opcode::RELEASE, 2, &[0; 24]).unwrap(), b"");
    }

    #[test]
    fn forgetting_wants_no_answer() {
        let mut buffer = ReplyBuffer::new().unwrap();
        for code in [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT] {
            assert_eq!(
                plain().answer(&encode(code, 2, &[0; 24]), &mut buffer),
                None
            );
        }
        assert_eq!(plain().answer(b"short", &mut buffer), None);
    }

    #[test]
    fn malformed_and_panicking_requests_fail_and_are_counted() {
        let responder = plain();
        assert_eq!(ask(&responder, opcode::LOOKUP, 1, b"no end"), Err(5));
        assert_eq!(ask(&responder, opcode::LOOKUP, 1, b"panic\0"), Err(5));
        assert_eq!(responder.metrics.panics.get(), 1);
        let eio = crate::metrics::ErrnoLabel { errno: "EIO" };
        assert_eq!(responder.metrics.errors.get_or_create(&eio).get(), 2);
    }

    #[test]
    fn init_is_a_request_that_may_come_again() {
        let responder = plain();
        let body: Vec<u8> = [7u32, 45, 131_072, u32::MAX, u32::MAX]
            .into_iter()
            .chain([0; 11])
            .flat_map(u32::to_ne_bytes)
            .collect();
        let first = ask(&responder, opcode::INIT, 0, &body).unwrap();
        assert_eq!(first.len(), 64);
        assert_eq!(ask(&responder, opcode::INIT, 0, &body).unwrap(), first);
        assert_eq!(responder.negotiated.get().unwrap().minor, 40);
        let newer: Vec<u8> = [8u32, 0, 0, 0]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        let version = ask(&plain(), opcode::INIT, 0, &newer).unwrap();
        assert_eq!(version[..8], [7u32, 40].as_bytes()[..]);
        let older: Vec<u8> = [7u32, 20, 0, 0]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        assert_eq!(ask(&plain(), opcode::INIT, 0, &older), Err(71));
    }

    proptest! {
        #[test]
        fn any_request_gets_a_well_formed_answer(
            code in 0u32..60,
            nodeid in prop_oneof![0u64..4, any::<u64>()],
            body in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut buffer = ReplyBuffer::new().unwrap();
            let responder = plain();
            if let Some(answer) = responder.answer(&encode(code, nodeid, &body), &mut buffer) {
                let (header, _) = abi::OutHeader::read_from_prefix(answer).unwrap();
                prop_assert_eq!(header.len as usize, answer.len());
                prop_assert_eq!(header.unique, 42);
                prop_assert!((-511..=0).contains(&header.error));
                prop_assert!(header.error == 0 || answer.len() == 16);
            }
        }
    }
}
