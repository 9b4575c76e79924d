//! Requests as the kernel writes them: header, body, names that end in a zero byte.

use thiserror::Error;
use zerocopy::FromBytes;

use crate::abi::{self, opcode};
use crate::attr::Inode;
use crate::directory::DirFormat;
use crate::init::Proposal;

/// One request of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Names the request in its answer. Bit 63 marks a request that is sent again; the answer repeats it.
    pub unique: u64,
    /// Number of the operation, known to us or not.
    pub opcode: u32,
    /// The node that it is about; unchecked.
    pub inode: Inode,
    /// What is asked.
    pub operation: Operation<'a>,
}

/// What a request asks, as far as a read-only file system cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// The entry of this name in the directory.
    Lookup {
        /// Never empty, without zero bytes.
        name: &'a [u8],
    },
    /// Attributes.
    Getattr,
    /// Target of a symbolic link.
    Readlink,
    /// Bytes of a file.
    Read {
        /// Position of the first byte.
        offset: u64,
        /// Number of bytes.
        size: u32,
    },
    /// Entries of a directory.
    Readdir {
        /// 0, or where an earlier listing ended.
        offset: u64,
        /// Room for the answer, in bytes.
        size: u32,
        /// What is said about each entry.
        format: DirFormat,
    },
    /// Size of the file system.
    Statfs,
    /// Value of an extended attribute.
    Getxattr {
        /// Never empty, without zero bytes.
        name: &'a [u8],
        /// Room for the answer, in bytes; 0 asks for the length.
        size: u32,
    },
    /// Names of extended attributes.
    Listxattr {
        /// Room for the answer, in bytes; 0 asks for the length.
        size: u32,
    },
    /// Start of a connection.
    Init(Proposal),
    /// Something that wants no answer and, without handles and reference counts, no action (FORGET, BATCH_FORGET,
    /// INTERRUPT).
    NoAnswer,
    /// Something that is done by saying so (RELEASE, RELEASEDIR, DESTROY).
    Nothing,
    /// Everything else: what changes files, what this file system leaves to the kernel, what is newer than we.
    Unsupported,
}

/// A request that is not in the kernel's form.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// Not even a header: it cannot be answered.
    #[error("a FUSE request of {len} bytes is shorter than its header")]
    NoHeader {
        /// Bytes that were there.
        len: usize,
    },
    /// A header, but a body that does not fit it.
    #[error("a FUSE request with operation {opcode} has a malformed body")]
    Body {
        /// Names the request in its answer.
        unique: u64,
        /// Number of the operation.
        opcode: u32,
    },
}

/// Reads one request. Never panics, whatever the bytes are.
///
/// # Errors
/// [`RequestError`]; the kernel does not send such a thing.
pub fn parse_request(bytes: &[u8]) -> Result<Request<'_>, RequestError> {
    let (header, body) = abi::InHeader::read_from_prefix(bytes)
        .map_err(|_| RequestError::NoHeader { len: bytes.len() })?;
    let malformed = RequestError::Body {
        unique: header.unique,
        opcode: header.opcode,
    };
    if usize::try_from(header.len) != Ok(bytes.len()) {
        return Err(malformed);
    }
    // Extensions carry groups and labels for files that are created.
    let extensions = usize::from(header.total_extlen) * 8;
    let body = body
        .len()
        .checked_sub(extensions)
        .and_then(|len| body.get(..len))
        .ok_or(malformed)?;
    Ok(Request {
        unique: header.unique,
        opcode: header.opcode,
        inode: Inode(header.nodeid),
        operation: parse_operation(header.opcode, body).ok_or(malformed)?,
    })
}

fn parse_operation(code: u32, body: &[u8]) -> Option<Operation<'_>> {
    Some(match code {
        opcode::LOOKUP => Operation::Lookup { name: name(body)? },
        opcode::GETATTR => Operation::Getattr,
        opcode::READLINK => Operation::Readlink,
        opcode::READ => {
            let (read, _) = abi::ReadIn::read_from_prefix(body).ok()?;
            Operation::Read {
                offset: read.offset,
                size: read.size,
            }
        }
        opcode::READDIR => readdir(body, DirFormat::Plain)?,
        opcode::READDIRPLUS => readdir(body, DirFormat::Plus)?,
        opcode::STATFS => Operation::Statfs,
        opcode::GETXATTR => {
            let (getxattr, rest) = abi::GetxattrIn::read_from_prefix(body).ok()?;
            Operation::Getxattr {
                name: name(rest)?,
                size: getxattr.size,
            }
        }
        opcode::LISTXATTR => {
            let (getxattr, _) = abi::GetxattrIn::read_from_prefix(body).ok()?;
            Operation::Listxattr {
                size: getxattr.size,
            }
        }
        opcode::INIT => Operation::Init(Proposal::parse(body)?),
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => Operation::NoAnswer,
        opcode::RELEASE | opcode::RELEASEDIR | opcode::DESTROY => Operation::Nothing,
        // There are no handles, and the kernel keeps contents and listings between opens.
        opcode::OPEN | opcode::OPENDIR => Operation::Unsupported,
        _ => Operation::Unsupported,
    })
}

fn readdir(body: &[u8], format: DirFormat) -> Option<Operation<'static>> {
    let (read, _) = abi::ReadIn::read_from_prefix(body).ok()?;
    Some(Operation::Readdir {
        offset: read.offset,
        size: read.size,
        format,
    })
}

/// The bytes before the first zero byte, which must be there.
fn name(body: &[u8]) -> Option<&[u8]> {
    let end = body.iter().position(|&byte| byte == 0)?;
    (end > 0).then(|| &body[..end])
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;

    /// A request as the kernel would write it.
    pub(crate) fn encode(code: u32, nodeid: u64, body: &[u8]) -> Vec<u8> {
        let header = abi::InHeader {
            len: u32::try_from(size_of::<abi::InHeader>() + body.len()).unwrap(),
            opcode: code,
            unique: 42,
            nodeid,
            uid: 0,
            gid: 0,
            pid: 1,
            total_extlen: 0,
            padding: 0,
        };
        [header.as_bytes(), body].concat()
    }

    pub(crate) fn read_body(offset: u64, size: u32) -> Vec<u8> {
        abi::ReadIn {
            fh: 0,
            offset,
            size,
            read_flags: 0,
            lock_owner: 0,
            flags: 0,
            padding: 0,
        }
        .as_bytes()
        .to_vec()
    }

    pub(crate) fn xattr_body(size: u32, name: &[u8]) -> Vec<u8> {
        [abi::GetxattrIn { size, padding: 0 }.as_bytes(), name].concat()
    }

    fn operation(code: u32, body: &[u8]) -> Option<String> {
        parse_request(&encode(code, 3, body))
            .ok()
            .map(|request| format!("{:?}", request.operation))
    }

    fn shown(operation: Operation<'_>) -> Option<String> {
        Some(format!("{operation:?}"))
    }

    #[test]
    fn each_operation_is_read_from_its_body() {
        let read = read_body(1 << 40, 4096);
        let cases: Vec<(u32, Vec<u8>, Operation<'_>)> = vec![
            (
                opcode::LOOKUP,
                b"name\0".to_vec(),
                Operation::Lookup { name: b"name" },
            ),
            (opcode::GETATTR, vec![0; 16], Operation::Getattr),
            (opcode::READLINK, vec![], Operation::Readlink),
            (
                opcode::READ,
                read.clone(),
                Operation::Read {
                    offset: 1 << 40,
                    size: 4096,
                },
            ),
            (
                opcode::READDIR,
                read.clone(),
                Operation::Readdir {
                    offset: 1 << 40,
                    size: 4096,
                    format: DirFormat::Plain,
                },
            ),
            (
                opcode::READDIRPLUS,
                read,
                Operation::Readdir {
                    offset: 1 << 40,
                    size: 4096,
                    format: DirFormat::Plus,
                },
            ),
            (opcode::STATFS, vec![], Operation::Statfs),
            (
                opcode::GETXATTR,
                xattr_body(7, b"user.a\0"),
                Operation::Getxattr {
                    name: b"user.a",
                    size: 7,
                },
            ),
            (
                opcode::LISTXATTR,
                xattr_body(9, b""),
                Operation::Listxattr { size: 9 },
            ),
            (opcode::FORGET, vec![0; 8], Operation::NoAnswer),
            (opcode::BATCH_FORGET, vec![0; 24], Operation::NoAnswer),
            (opcode::INTERRUPT, vec![0; 8], Operation::NoAnswer),
            (opcode::RELEASE, vec![0; 24], Operation::Nothing),
            (opcode::OPEN, vec![0; 8], Operation::Unsupported),
            (opcode::OPENDIR, vec![0; 8], Operation::Unsupported),
            (4711, b"whatever".to_vec(), Operation::Unsupported),
        ];
        for (code, body, expected) in cases {
            assert_eq!(operation(code, &body), shown(expected), "operation {code}");
        }
    }

    #[test]
    fn header_fields_are_kept() {
        let bytes = encode(opcode::READLINK, 77, b"");
        let request = parse_request(&bytes).unwrap();
        assert_eq!(
            (request.unique, request.inode, request.opcode),
            (42, Inode(77), 5)
        );
    }

    #[test]
    fn malformed_bodies_are_refused_by_name_of_the_request() {
        for (code, body) in [
            (opcode::LOOKUP, &b""[..]),
            (opcode::LOOKUP, b"\0"),
            (opcode::LOOKUP, b"no end"),
            (opcode::READ, &[0; 39]),
            (opcode::READDIRPLUS, b""),
            (opcode::GETXATTR, &[0; 7]),
            (opcode::GETXATTR, &[0; 9]),
            (opcode::LISTXATTR, &[0; 7]),
            (opcode::INIT, &[0; 15]),
        ] {
            let expected = RequestError::Body {
                unique: 42,
                opcode: code,
            };
            assert_eq!(parse_request(&encode(code, 1, body)), Err(expected));
        }
    }

    #[test]
    fn lengths_must_agree() {
        let mut bytes = encode(opcode::READLINK, 1, b"");
        assert_eq!(
            parse_request(&bytes[..39]),
            Err(RequestError::NoHeader { len: 39 })
        );
        bytes.push(0);
        assert!(matches!(
            parse_request(&bytes),
            Err(RequestError::Body { .. })
        ));
    }

    #[test]
    fn extensions_are_not_part_of_the_body() {
        let mut bytes = encode(opcode::LOOKUP, 1, b"ab\0-ext----");
        bytes[36..38].copy_from_slice(&1u16.to_ne_bytes());
        assert_eq!(
            parse_request(&bytes).unwrap().operation,
            Operation::Lookup { name: b"ab" }
        );
        bytes[36..38].copy_from_slice(&2u16.to_ne_bytes());
        assert!(parse_request(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_request(&bytes);
        }

        #[test]
        fn random_bodies_never_panic(code in 0u32..60, body in prop::collection::vec(any::<u8>(), 0..100)) {
            let bytes = encode(code, 1, &body);
            if let Ok(Request { operation: Operation::Lookup { name }, .. }) = parse_request(&bytes) {
                prop_assert!(!name.is_empty() && !name.contains(&0));
            }
        }
    }
}
