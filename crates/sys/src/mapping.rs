//! Read-only maps of files that this process owns.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A whole file as a byte string, read by the kernel as it is touched.
///
/// Meant for complete files of ours that are never rewritten. Whoever truncates the file makes later access fail with
/// SIGBUS, and whoever writes to it changes bytes that Rust takes for constant.
pub struct Mapping {
    /// Absent for an empty file, which mmap(2) refuses.
    memory: Option<(NonNull<u8>, usize)>,
}

// SAFETY: the mapping is read-only memory that belongs to this value and to no thread.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}

// SAFETY: shared access only reads.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

/// Maps all of `file`, at the length it has now; the file may be closed and even unlinked afterwards.
///
/// Only for files that nobody writes to or truncates while the map lives: complete files in our own directories, put
/// there by rename.
///
/// # Errors
/// What fstat(2) and mmap(2) say: not a regular file, out of address space.
pub fn map_readonly(file: &File) -> io::Result<Mapping> {
    let len = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    if len == 0 {
        return Ok(Mapping { memory: None });
    }
    // SAFETY: the kernel chooses the address, so no memory of ours is replaced; the map is read-only, and the caller
    // promises (see above) that the file's content does not change.
    #[allow(unsafe_code)]
    let start = unsafe {
        mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ,
            MapFlags::SHARED,
            file,
            0,
        )
    }?;
    let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
    Ok(Mapping {
        memory: Some((start, len)),
    })
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let Some((start, len)) = self.memory else {
            return &[];
        };
        // SAFETY: `start` and `len` are our live, readable mapping; its content is constant while it lives.
        #[allow(unsafe_code)]
        unsafe {
            slice::from_raw_parts(start.as_ptr(), len)
        }
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some((start, len)) = self.memory {
            // SAFETY: the range is exactly our mapping, and no reference to it can outlive `self`.
            #[allow(unsafe_code)]
            let _ = unsafe { munmap(start.as_ptr().cast(), len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_map_is_the_files_content_and_outlives_its_name() {
        let content: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let mapping = map_readonly(file.as_file()).unwrap();
        drop(file);
        assert!(*mapping == content[..]);
        assert_eq!(mapping.as_ref().len(), 40_000);
    }

    #[test]
    fn an_empty_file_is_an_empty_map() {
        let file = tempfile::tempfile().unwrap();
        assert!(map_readonly(&file).unwrap().is_empty());
    }

    #[test]
    fn a_directory_cannot_be_mapped() {
        let directory = tempfile::tempdir().unwrap();
        assert!(map_readonly(&File::open(directory.path()).unwrap()).is_err());
    }

    #[test]
    fn a_file_opened_for_writing_only_cannot_be_mapped() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = File::create(directory.path().join("x")).unwrap();
        file.write_all(b"x").unwrap();
        assert!(map_readonly(&file).is_err());
    }
}
