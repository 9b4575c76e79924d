//! One entry of a layer's tar: ustar, with PAX records for whatever ustar cannot hold.

use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

/// What is said of a file; its content comes apart.
pub(super) struct TarEntry<'a> {
    /// Relative; of a directory with a slash at its end.
    pub(super) path: &'a [u8],
    pub(super) kind: EntryType,
    /// Permission bits with set-uid, set-gid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) mtime: i64,
    pub(super) device: Option<(u32, u32)>,
    /// Target of a symbolic or hard link.
    pub(super) link: &'a [u8],
    pub(super) xattrs: &'a [(String, Vec<u8>)],
}

impl TarEntry<'_> {
    /// Writes header and `content`, which must have [`TarEntry::size`] bytes.
    pub(super) fn write(
        &self,
        tar: &mut Builder<impl Write>,
        content: impl Read,
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(self.uid.into());
        header.set_gid(self.gid.into());
        header.set_size(self.size);
        header.set_mtime(self.mtime.try_into().unwrap_or_default());
        if let Some((major, minor)) = self.device {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        let ustar = header
            .as_ustar_mut()
            .ok_or_else(|| io::Error::other("no ustar header"))?;
        if !fits(&mut ustar.name, self.path) {
            records.push(("path".to_owned(), self.path.to_owned()));
        }
        if !fits(&mut ustar.linkname, self.link) {
            records.push(("linkpath".to_owned(), self.link.to_owned()));
        }
        let decimal = |key: &str, value: i64| (key.to_owned(), value.to_string().into_bytes());
        // 11 octal digits for size and time, 7 for owners.
        if self.size >> 33 != 0 {
            records.push(decimal("size", self.size.try_into().unwrap_or(i64::MAX)));
        }
        if !(0..1 << 33).contains(&self.mtime) {
            records.push(decimal("mtime", self.mtime));
        }
        for (key, owner) in [("uid", self.uid), ("gid", self.gid)] {
            if owner >> 21 != 0 {
                records.push(decimal(key, owner.into()));
            }
        }
        for (name, value) in self.xattrs {
            records.push((format!("SCHILY.xattr.{name}"), value.clone()));
        }
        if !records.is_empty() {
            let records = records
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_slice()));
            tar.append_pax_extensions(records)?;
        }
        header.set_cksum();
        tar.append(&header, content)
    }
}

/// Copies as much of `text` as there is room for; false if that is not all.
fn fits(field: &mut [u8; 100], text: &[u8]) -> bool {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    text.len() <= field.len()
}
