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
