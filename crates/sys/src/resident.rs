//! Memory that never has to be faulted in again.

use std::ffi::c_void;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};

/// Zeroed, page-aligned memory whose pages are all present, locked where the limits allow it.
///
/// A process killed while the kernel copies to or from a page that is absent loses the request that was being copied;
/// buffers given to `/dev/fuse` are therefore made of this.
pub struct Resident {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is private to this value and plain memory; nothing about it belongs to a thread.
#[allow(unsafe_code)]
unsafe impl Send for Resident {}

// SAFETY: shared access only reads, and writing needs `&mut self`.
#[allow(unsafe_code)]
unsafe impl Sync for Resident {}

/// Maps `len` bytes of resident memory.
///
/// Transparent huge pages are turned off, because collapsing them takes pages away for a moment, and the memory is not
/// inherited by forked children, because a fork would make the next write to each page a fault. Locking is best effort:
/// without the right to lock, the pages are present but may be swapped.
///
/// # Errors
/// `InvalidInput` when `len` is 0, otherwise what mmap(2) says, in practice `OutOfMemory`.
pub fn locked_buffer(len: usize) -> io::Result<Resident> {
    if len == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an anonymous mapping at an address that the kernel chooses touches no memory of ours.
    #[allow(unsafe_code)]
    let start = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }?;
    let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
    let mut resident = Resident { start, len };
    for advice in [Advice::LinuxNoHugepage, Advice::LinuxDontFork] {
        resident.advise(advice);
    }
    resident.lock();
    resident.touch_every_page();
    Ok(resident)
}

impl Resident {
    fn address(&self) -> *mut c_void {
        self.start.as_ptr().cast()
    }

    /// Advice is only that: a kernel without the feature refuses it, and the memory works all the same.
    fn advise(&mut self, advice: Advice) {
        // SAFETY: the range is exactly our mapping, and neither advice used changes its content.
        #[allow(unsafe_code)]
        let _ = unsafe { madvise(self.address(), self.len, advice) };
    }

    /// Best effort: RLIMIT_MEMLOCK may forbid it.
    fn lock(&mut self) {
        // SAFETY: the range is exactly our mapping; locking does not change its content.
        #[allow(unsafe_code)]
        let _ = unsafe { mlock(self.address(), self.len) };
    }

    fn touch_every_page(&mut self) {
        for page in self.chunks_mut(rustix::param::page_size()) {
            // `black_box` keeps the write to memory that is already zero from being optimised away.
            *std::hint::black_box(&mut page[0]) = 0;
        }
    }
}

impl Deref for Resident {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` and `len` are our live mapping, readable and initialised (zeroed) by the kernel.
        #[allow(unsafe_code)]
        unsafe {
            slice::from_raw_parts(self.start.as_ptr(), self.len)
        }
    }
}

impl DerefMut for Resident {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        #[allow(unsafe_code)]
        unsafe {
            slice::from_raw_parts_mut(self.start.as_ptr(), self.len)
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        // SAFETY: the range is exactly our mapping, and no reference to it can outlive `self`.
        #[allow(unsafe_code)]
        let _ = unsafe { munmap(self.address(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of the mapping that holds `address`, from a field of /proc/self/smaps.
    fn smaps_field(address: usize, field: &str) -> Option<u64> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            if let Some((low, high)) = first.split_once('-') {
                let low = usize::from_str_radix(low, 16).unwrap();
                let high = usize::from_str_radix(high, 16).unwrap();
                inside = (low..high).contains(&address);
            } else if inside && first == field {
                return rest
                    .trim()
                    .strip_suffix(" kB")
                    .and_then(|kb| kb.trim().parse().ok());
            }
        }
        None
    }

    #[test]
    fn every_page_is_present_at_once() {
        let buffer = locked_buffer(1 << 20).unwrap();
        let address = buffer.as_ptr() as usize;
        assert_eq!(address % rustix::param::page_size(), 0);
        assert!(smaps_field(address, "Rss:").unwrap() >= 1024);
    }

    #[test]
    fn content_is_zero_and_writable_to_the_last_byte() {
        let mut buffer = locked_buffer(5000).unwrap();
        assert_eq!(buffer.len(), 5000);
        assert!(buffer.iter().all(|&byte| byte == 0));
        buffer[4999] = 7;
        assert_eq!(buffer[4999], 7);
    }

    #[test]
    fn buffers_do_not_overlap_and_move_between_threads() {
        let mut one = locked_buffer(4096).unwrap();
        let two = locked_buffer(4096).unwrap();
        one = std::thread::spawn(move || {
            one.fill(0xff);
            one
        })
        .join()
        .unwrap();
        assert!(one.iter().all(|&byte| byte == 0xff));
        assert!(two.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn nothing_is_no_buffer() {
        assert_eq!(
            locked_buffer(0).err().unwrap().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn absurd_sizes_are_an_error() {
        assert!(locked_buffer(usize::MAX / 2).is_err());
    }
}
