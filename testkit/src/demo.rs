use anyhow::Result;

use crate::fixture::busybox;
use crate::image::{Image, ImageBuilder};
use crate::layer::{Entry, Layer};

/// Names under which the image calls busybox.
const APPLETS: [&str; 24] = [
    "sh",
    "ls",
    "cat",
    "echo",
    "sleep",
    "find",
    "stat",
    "id",
    "rm",
    "mkdir",
    "touch",
    "md5sum",
    "sha256sum",
    "head",
    "tail",
    "wc",
    "grep",
    "env",
    "true",
    "false",
    "ps",
    "mount",
    "ln",
    "chmod",
];

/// What [`demo_image`] holds besides its fixed content.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemoOptions {
    /// So many more small files in a layer of their own (none: no such layer).
    pub files: usize,
    /// Random (but the same) bytes in `/data/blob`.
    pub blob_bytes: usize,
}

/// An image that a container runtime can run, whose layers show everything that layers do: hardlinks, whiteouts, an
/// opaque directory, a capability, other owners, modes that keep others out.
///
/// Its command is `/bin/sh`. After a correct merge `/etc/removed` and `/etc/old/lower` are absent, `/etc/old/upper` is
/// there, `/etc/changed` says `new`.
///
/// # Errors
/// Never: all is compiled in.
pub fn demo_image(options: DemoOptions) -> Result<Image> {
    let mut builder = ImageBuilder::new()
        .layer(base()?)
        .layer(upper(options.blob_bytes))
        .entrypoint(&["/bin/sh"])
        .environment("PATH=/bin");
    if options.files > 0 {
        let mut bulk = Layer::bulk(options.files);
        bulk.entries
            .iter_mut()
            .for_each(|entry| entry.path = [b"bulk/", entry.path.as_slice()].concat());
        builder = builder.layer(bulk);
    }
    builder.build()
}

/// An image for a pod's sandbox: busybox that sleeps.
///
/// # Errors
/// Never: all is compiled in.
pub fn pause_image() -> Result<Image> {
    let layer = Layer::new([
        Entry::directory("bin"),
        Entry::file("bin/busybox", busybox()?).mode(0o755),
        Entry::symlink("bin/sleep", "busybox"),
    ]);
    ImageBuilder::new()
        .layer(layer)
        .entrypoint(&["/bin/busybox", "sleep", "infinity"])
        .build()
}

fn base() -> Result<Layer> {
    let mut entries = vec![
        Entry::directory("bin"),
        Entry::file("bin/busybox", busybox()?).mode(0o755),
    ];
    entries.extend(
        APPLETS
            .iter()
            .map(|name| Entry::hardlink(format!("bin/{name}"), "bin/busybox")),
    );
    entries.extend([
        Entry::file("bin/ping", "not a program")
            .mode(0o755)
            .xattr("security.capability", CAP_NET_RAW),
        Entry::directory("etc"),
        Entry::file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n",
        ),
        Entry::file("etc/group", "root:x:0:\nuser:x:1000:\n"),
        Entry::file("etc/removed", "of the lower layer"),
        Entry::file("etc/changed", "old"),
        Entry::directory("etc/old"),
        Entry::file("etc/old/lower", "hidden by an opaque directory"),
        Entry::directory("root").mode(0o700),
        Entry::file("root/secret", "for root only").mode(0o600),
        Entry::directory("home"),
        Entry::directory("home/user").mode(0o750).owner(1000, 1000),
        Entry::file("home/user/own", "for the user")
            .mode(0o600)
            .owner(1000, 1000),
        Entry::directory("tmp").mode(0o1777),
        Entry::directory("proc"),
        Entry::directory("sys"),
        Entry::directory("dev"),
    ]);
    Ok(Layer::new(entries))
}

/// `cap_net_raw+ep`, revision 2 of the format.
const CAP_NET_RAW: &[u8] = &[
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

fn upper(blob_bytes: usize) -> Layer {
    let mut entries = vec![
        Entry::whiteout("etc/removed"),
        Entry::file("etc/changed", "new"),
        Entry::opaque("etc/old"),
        Entry::file("etc/old/upper", "over an opaque directory"),
        Entry::file("srv/implicit", "its directory has no entry"),
    ];
    if blob_bytes > 0 {
        entries.push(Entry::directory("data"));
        entries.push(Entry::file("data/blob", incompressible(blob_bytes)));
    }
    Layer::new(entries)
}

/// The same bytes at each call, which no compressor shortens (xorshift64*).
fn incompressible(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_has_the_layers_that_were_asked_for() {
        assert_eq!(demo_image(DemoOptions::default()).unwrap().layers.len(), 2);
        let image = demo_image(DemoOptions {
            files: 10,
            blob_bytes: 100_000,
        })
        .unwrap();
        assert_eq!(image.layers.len(), 3);
        assert!(image.layers[1].blob.len() > 100_000);
        assert!(image.layers[0].blob.starts_with(&[0x1f, 0x8b]));
    }

    #[test]
    fn busybox_is_an_elf_program() {
        assert!(busybox().unwrap().starts_with(b"\x7fELF"));
    }
}
