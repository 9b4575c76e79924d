//! Content that cannot be had: the file exists all the same, and no wrong byte is ever shown.

use testkit::{Entry, Fault, LayerBlob, Storage, When};

use crate::outside::{EIO, read};
use crate::world::{World, attach, blob, mounts_possible};

fn image() -> (Vec<LayerBlob>, Vec<u8>) {
    let content: Vec<u8> = (0..200_000_u32).map(|n| (n ^ n >> 7) as u8).collect();
    let layer = blob([
        Entry::file("good", "good"),
        Entry::file("file", &content).storage(Storage::Plain),
        Entry::file("chunks", &content[1..]).storage(Storage::Chunked(64 << 10)),
        Entry::file("external", &content[2..]).storage(Storage::External),
    ]);
    (vec![layer], content)
}

fn flip(world: &World, from: usize) {
    for server in &world.servers[from..] {
        server.fault(When::path("/data/"), Fault::FlipByte(1000));
        server.fault(When::path("/_external/"), Fault::FlipByte(1000));
    }
}

#[test]
fn damaged_content_is_an_error_and_recovers() {
    if !mounts_possible() {
        return;
    }
    let (image, content) = image();
    let world = World::serving(&image, 2);
    let node = world.layers();
    let (_, path) = attach(&node, &image);
    flip(&world, 0);
    for (number, name) in ["file", "chunks", "external"].into_iter().enumerate() {
        let before = node.metrics().failed_reads.get();
        assert_eq!(read(&path.join(name)), Err(EIO), "{name}");
        assert!(node.metrics().failed_reads.get() > before, "{name}");
        // The metadata needs nobody.
        let size = content.len() - number;
        let seen = crate::outside::walk(&path, 0);
        assert_eq!(
            seen.rows[&format!("/{name}")].get(testkit::Field::Size),
            size.to_string()
        );
    }
    for server in &world.servers {
        server.clear_faults();
    }
    for (skipped, name) in ["file", "chunks", "external"].into_iter().enumerate() {
        crate::world::eventually("reads recover", || {
            read(&path.join(name)).is_ok_and(|read| read == content[skipped..])
        });
    }
}

#[test]
fn content_that_no_host_has_is_an_input_output_error() {
    if !mounts_possible() {
        return;
    }
    let (image, _) = image();
    let world = World::serving(&image, 2);
    let node = world.layers();
    let (_, path) = attach(&node, &image);
    // "Not found" of an object is not "not found" of a file.
    for server in &world.servers {
        server.fault(When::always(), Fault::StatusCode(404));
    }
    assert_eq!(read(&path.join("file")), Err(EIO));
    assert_eq!(read(&path.join("external")), Err(EIO));
    assert_eq!(read(&path.join("absent")), Err(crate::outside::ENOENT));
}

#[test]
fn the_second_host_gives_the_right_bytes() {
    if !mounts_possible() {
        return;
    }
    let (image, content) = image();
    let world = World::serving(&image, 2);
    let node = world.layers();
    let (_, path) = attach(&node, &image);
    for fault in [Fault::FlipByte(1000), Fault::Truncate(500), Fault::Close] {
        world.servers[0].fault(When::always(), fault);
    }
    assert!(read(&path.join("file")) == Ok(content.clone()));
    assert!(read(&path.join("chunks")) == Ok(content[1..].to_vec()));
    assert!(read(&path.join("external")) == Ok(content[2..].to_vec()));
    assert_eq!(node.metrics().failed_reads.get(), 0);
}
