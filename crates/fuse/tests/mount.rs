//! Real mounts, looked at by child processes and compared with the model in memory. Needs root and `/dev/fuse`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fuse::{Errno, Inode, MountError, MountOptions, Session};
use support::{Body, Memory, Mounted, content, eventually, mount, mount_with};

#[test]
fn a_walk_shows_what_the_model_holds() {
    let mut memory = Memory::new();
    let many = memory.directory("many");
    for number in 0..20_000 {
        memory.add(
            many,
            format!("entry-{number:05}"),
            0o100_644,
            number,
            Body::File,
        );
    }
    let odd = memory.directory("odd");
    memory.add(odd, "suid", 0o104_751, 5, Body::File);
    memory.add(
        odd,
        "link",
        0o120_777,
        9,
        Body::Symlink(b"../a/file".to_vec()),
    );
    memory.add(odd, "fifo", 0o010_600, 0, Body::Device);
    let hardlink = memory.add(odd, "one", 0o100_600, 4096, Body::File);
    memory.link(odd, "two", hardlink);
    memory.nodes[hardlink.0 as usize - 1].attr.nlink = 2;
    memory.nodes[hardlink.0 as usize - 1].attr.uid = 1234;
    let device = memory.add(odd, "device", 0o020_640, 0, Body::Device);
    memory.nodes[device.0 as usize - 1].attr.rdev = rustix::fs::makedev(259, 70_000);
    let expected = listing(&memory);
    let Some(mounted) = mount(memory) else { return };

    let format = r"%P\t%y\t%m\t%U\t%s\t%T@\t%n\t%i\t%l\n";
    let shown = mounted.stdout(&format!("find mnt -printf '{format}'"));
    let shown: BTreeSet<_> = shown.lines().map(str::to_owned).collect();
    assert_eq!(shown.len(), expected.len());
    assert_eq!(shown, expected);
    // READDIRPLUS brings the attributes: not a LOOKUP per file.
    assert!(
        mounted.requests("lookup") < 50,
        "{}",
        mounted.requests("lookup")
    );
    assert_eq!(mounted.requests("getxattr"), 0);
    assert_eq!(
        mounted.stdout("stat -c '%t %T' mnt/odd/device"),
        "103 11170\n"
    );

    // Everything stays with the kernel.
    let before =
        mounted.requests("readdirplus") + mounted.requests("lookup") + mounted.requests("getattr");
    mounted.stdout("find mnt -printf '%s\\n'");
    let after =
        mounted.requests("readdirplus") + mounted.requests("lookup") + mounted.requests("getattr");
    assert!(
        after - before < 10,
        "{} requests for a second walk",
        after - before
    );
}

/// What find's format in the test above prints for the model.
fn listing(memory: &Memory) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut directories = vec![(String::new(), Inode::ROOT)];
    while let Some((path, inode)) = directories.pop() {
        let node = memory.get(inode).unwrap();
        let attr = node.attr;
        let (kind, target) = match &node.body {
            Body::Directory(_) => ("d", ""),
            Body::Symlink(target) => ("l", std::str::from_utf8(target).unwrap()),
            Body::Device if attr.mode & 0o170_000 == 0o010_000 => ("p", ""),
            Body::Device => ("c", ""),
            _ => ("f", ""),
        };
        let mut line = String::new();
        write!(
            line,
            "{path}\t{kind}\t{:o}\t{}\t{}\t{}.{:09}0\t{}\t{}\t{target}",
            attr.mode & 0o7777,
            attr.uid,
            attr.size,
            attr.mtime,
            attr.mtime_nanos,
            attr.nlink,
            attr.ino.0,
        )
        .unwrap();
        lines.insert(line);
        if let Body::Directory(entries) = &node.body {
            for (name, child) in entries {
                let name = std::str::from_utf8(name).unwrap();
                let path = if path.is_empty() {
                    name.to_owned()
                } else {
                    format!("{path}/{name}")
                };
                directories.push((path, *child));
            }
        }
    }
    lines
}

#[test]
fn contents_are_read_whole_and_at_any_place() {
    const LEN: u64 = (3 << 20) + 17;
    let mut memory = Memory::new();
    let big = memory.file("big", LEN);
    memory.file("empty", 0);
    memory.file("page", 4096);
    let Some(mounted) = mount(memory) else { return };
    let expected = content(big, LEN);
    std::fs::write(mounted.path.parent().unwrap().join("expected"), &expected).unwrap();

    mounted.stdout("cmp mnt/big expected");
    assert!(mounted.metrics.read_bytes.get() >= LEN);
    assert!(
        mounted.requests("read") < 200,
        "{}",
        mounted.requests("read")
    );
    // Past the page cache, with requests of 1 MiB that cross its borders and the file's end.
    for (block, skip) in [
        (2 << 20, 0),
        (2 << 20, 1),
        (1 << 20, 3),
        (512, 2047),
        (4096, 767),
    ] {
        let script =
            format!("dd if=mnt/big bs={block} skip={skip} count=1 iflag=direct status=none");
        let output = mounted.sh(&script);
        let start = block * skip;
        let end = (start + block).min(expected.len());
        assert!(
            output.stdout == expected[start..end],
            "{script}: {}",
            output.stdout.len()
        );
    }
    assert_eq!(mounted.stdout("wc -c < mnt/empty").trim(), "0");
    // OPEN was asked once, answered "never", and is gone; a second reading needs nobody.
    let before = (mounted.requests("read"), mounted.requests("open"));
    mounted.stdout("cat mnt/page mnt/page mnt/big > /dev/null");
    assert!(mounted.requests("read") <= before.0 + 1);
    assert_eq!(mounted.requests("open"), before.1);
    assert_eq!(
        mounted.requests("release") + mounted.requests("statx"),
        mounted.requests("statx")
    );
}

#[test]
fn links_and_absent_names_are_asked_for_once() {
    let mut memory = Memory::new();
    let target = [b'x'; 300];
    memory.add(
        Inode::ROOT,
        "link",
        0o120_777,
        300,
        Body::Symlink(target.to_vec()),
    );
    let Some(mounted) = mount(memory) else { return };
    for _ in 0..3 {
        assert_eq!(
            mounted.stdout("readlink mnt/link").trim_end().as_bytes(),
            target
        );
        assert!(mounted.failure("stat mnt/absent").contains("No such file"));
    }
    assert_eq!(mounted.requests("readlink"), 1);
    assert_eq!(mounted.requests("lookup"), 2);
}

#[test]
fn unknown_nodes_are_stale_and_unreadable_ones_fail() {
    let mut memory = Memory::new();
    memory.link(Inode::ROOT, "nowhere", Inode(4711));
    memory.add(
        Inode::ROOT,
        "broken",
        0o100_644,
        10,
        Body::Broken(Errno::ENXIO),
    );
    let Some(mounted) = mount(memory) else { return };
    assert!(
        mounted
            .failure("cat mnt/nowhere")
            .contains("Stale file handle")
    );
    assert!(
        mounted
            .failure("cat mnt/broken")
            .contains("No such device or address")
    );
}

#[test]
fn a_panic_is_an_error_and_the_mount_lives_on() {
    let mut memory = Memory::new();
    memory.add(Inode::ROOT, "bomb", 0o100_644, 10, Body::Panicking);
    memory.file("fine", 10);
    let Some(mounted) = mount(memory) else { return };
    for _ in 0..20 {
        assert!(
            mounted
                .failure("cat mnt/bomb")
                .contains("Input/output error")
        );
    }
    assert!(mounted.metrics.panics.get() >= 20);
    assert_eq!(mounted.stdout("wc -c < mnt/fine").trim(), "10");
    assert!(mounted.session().is_alive());
}

#[test]
fn others_read_what_modes_allow_and_no_more() {
    let mut memory = Memory::new();
    memory.file("open", 4);
    memory.add(Inode::ROOT, "secret", 0o100_600, 4, Body::File);
    let closed = memory.add(
        Inode::ROOT,
        "closed",
        0o040_700,
        0,
        Body::Directory(Vec::new()),
    );
    memory.add(closed, "inside", 0o100_644, 4, Body::File);
    let Some(mounted) = mount(memory) else { return };
    let as_user = |script: &str| mounted.shell(script).uid(1000).gid(1000).output().unwrap();
    assert!(as_user("cat mnt/open").status.success());
    for script in ["cat mnt/secret", "cat mnt/closed/inside", "ls mnt/closed"] {
        let output = as_user(script);
        assert!(!output.status.success(), "{script}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("Permission denied"), "{stderr}");
    }
    assert!(
        mounted
            .sh("cat mnt/secret mnt/closed/inside")
            .status
            .success()
    );
    assert!(mounted.failure("echo x > mnt/open").contains("Read-only"));
    assert!(mounted.failure("touch mnt/new").contains("Read-only"));
}

/// Not a test: what [`xattrs`] runs as a child, because no tool that reads attributes is sure to be there.
#[test]
#[ignore = "helper process of another test"]
fn xattr_helper() {
    let path = std::env::var("XATTR_PATH").unwrap();
    let mut buffer = vec![0u8; 1 << 16];
    let list = rustix::fs::listxattr(&path, &mut buffer[..])
        .map(|len| buffer[..len].escape_ascii().to_string());
    println!("list {list:?}");
    for name in ["user.a", "user.empty", "user.absent"] {
        let value = rustix::fs::getxattr(&path, name, &mut buffer[..])
            .map(|len| (len, buffer[..len].to_vec()));
        println!(
            "{name} {:?}",
            value.map(|(len, value)| (len, value.first().copied()))
        );
        let short = rustix::fs::getxattr(&path, name, &mut buffer[..3]);
        println!("{name} short {short:?}");
    }
}

fn xattrs(path: &Path) -> String {
    let output = Command::new("timeout")
        .args(["-s", "KILL", "60"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "xattr_helper", "--ignored", "--nocapture"])
        .env("XATTR_PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn attributes_are_shown_with_their_length() {
    let mut memory = Memory::new();
    memory.xattrs = true;
    let file = memory.file("file", 1);
    let xattrs_of_file = &mut memory.nodes[file.0 as usize - 1].xattrs;
    xattrs_of_file.insert(b"user.a".to_vec(), vec![7; 60_000]);
    xattrs_of_file.insert(b"user.empty".to_vec(), vec![]);
    memory.file("bare", 1);
    let Some(mounted) = mount(memory) else { return };
    let shown = xattrs(&mounted.path.join("file"));
    for line in [
        r#"list Ok("user.a\\x00user.empty\\x00")"#,
        "user.a Ok((60000, Some(7)))",
        "user.a short Err(Os { code: 34",
        "user.empty Ok((0, None))",
        "user.absent Err(Os { code: 61",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    assert!(xattrs(&mounted.path.join("bare")).contains(r#"list Ok("")"#));
}

#[test]
fn without_attributes_the_kernel_asks_once() {
    let mut memory = Memory::new();
    memory.file("file", 1);
    let Some(mounted) = mount(memory) else { return };
    for _ in 0..2 {
        let shown = xattrs(&mounted.path.join("file"));
        assert!(shown.contains("user.a Err(Os { code: 95"), "{shown}");
    }
    assert_eq!(mounted.requests("getxattr"), 1);
    assert_eq!(mounted.requests("listxattr"), 1);
}

#[test]
fn a_detached_mount_is_served_until_its_last_file_is_closed() {
    let mut memory = Memory::new();
    let file = memory.file("file", 300_000);
    let expected = content(file, 300_000);
    let Some(mounted) = mount(memory) else { return };
    let mut child = mounted
        .shell("exec 3< mnt/file; echo ready; read line; cat <&3")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");

    mounted.session().detach().unwrap();
    assert_eq!(fuse::mounts_below(&mounted.path).unwrap(), []);
    assert!(!mounted.session().wait_timeout(Duration::from_millis(100)));
    assert!(mounted.session().is_alive());
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut shown = Vec::new();
    std::io::Read::read_to_end(&mut stdout, &mut shown).unwrap();
    assert!(shown == expected);
    child.wait().unwrap();

    assert!(mounted.session().wait_timeout(Duration::from_secs(30)));
    assert!(mounted.session().has_ended());
    assert!(!mounted.session().is_alive());
    mounted.session().detach().unwrap();
}

#[test]
fn an_overlay_above_reads_on_after_the_detach() {
    let mut memory = Memory::new();
    let directory = memory.directory("directory");
    let file = memory.add(directory, "file", 0o100_644, 100_000, Body::File);
    let Some(mounted) = mount(memory) else { return };
    std::fs::write(
        mounted.path.parent().unwrap().join("expected"),
        content(file, 100_000),
    )
    .unwrap();
    mounted.stdout("mkdir other over && mount -t overlay over -o lowerdir=mnt:other over");
    mounted.session().detach().unwrap();
    // Nothing was read before, so all of this is asked of a mount that has no path any more.
    mounted.stdout("ls -lR over && cmp over/directory/file expected");
    assert!(mounted.session().is_alive());
    mounted.stdout("umount over");
    assert!(mounted.session().wait_timeout(Duration::from_secs(30)));
}

#[test]
fn unmounting_from_outside_ends_the_session() {
    let Some(mounted) = mount(Memory::new()) else {
        return;
    };
    mounted.stdout("ls mnt; umount mnt");
    assert!(mounted.session().wait_timeout(Duration::from_secs(30)));
    assert!(mounted.session().has_ended());
    assert_eq!(mounted.metrics.workers.get(), 0);
}

#[test]
fn dropping_a_session_neither_unmounts_nor_stops_it() {
    let mut memory = Memory::new();
    memory.file("file", 10);
    let gate = Arc::clone(&memory.gate);
    let Some(mut mounted) = mount(memory) else {
        return;
    };
    drop(mounted.session.take());
    assert_eq!(
        mounted
            .stdout("wc -c < mnt/file; cat mnt/file > /dev/null")
            .trim(),
        "10"
    );
    assert_eq!(fuse::mounts_below(&mounted.path).unwrap().len(), 1);
    fuse::detach_path(&mounted.path).unwrap();
    // Test, mount guard, and no file system any more.
    eventually("the file system is dropped", || {
        Arc::strong_count(&gate) == 2
    });
}

#[test]
fn a_slow_read_holds_up_nobody_else() {
    let mut memory = Memory::new();
    for number in 0..8 {
        memory.add(
            Inode::ROOT,
            format!("slow{number}"),
            0o100_644,
            10,
            Body::Slow,
        );
    }
    memory.file("fast", 10);
    let gate = Arc::clone(&memory.gate);
    let Some(mounted) = mount(memory) else { return };
    let slow: Vec<_> = (0..8)
        .map(|number| {
            let script = format!("cat mnt/slow{number}");
            mounted
                .shell(&script)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    eventually("all slow reads have begun", || {
        mounted.requests("read") >= 8
    });
    for _ in 0..10 {
        mounted.stdout("wc -c < mnt/fast; ls -l mnt; stat mnt/absent || true");
    }
    assert!(mounted.metrics.workers.get() >= 9);
    gate.open();
    for child in slow {
        assert_eq!(child.wait_with_output().unwrap().stdout.len(), 10);
    }
}

#[test]
fn workers_are_no_more_than_configured() {
    let mut memory = Memory::new();
    for number in 0..6 {
        memory.add(
            Inode::ROOT,
            format!("slow{number}"),
            0o100_644,
            10,
            Body::Slow,
        );
    }
    let gate = Arc::clone(&memory.gate);
    let options = MountOptions {
        workers: 3,
        ..MountOptions::default()
    };
    let Some(mounted) = mount_with(memory, options) else {
        return;
    };
    let slow: Vec<_> = (0..6)
        .map(|number| {
            let script = format!("cat mnt/slow{number}");
            mounted
                .shell(&script)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    eventually("every worker reads", || mounted.requests("read") >= 3);
    assert_eq!(mounted.metrics.workers.get(), 3);
    gate.open();
    for child in slow {
        assert_eq!(child.wait_with_output().unwrap().stdout.len(), 10);
    }
}

#[test]
fn a_parked_mount_waits_for_somebody_else() {
    let mut memory = Memory::new();
    memory.file("file", 10);
    let Some(mounted) = mount(memory) else { return };
    mounted.stdout("ls mnt");
    mounted.session().park().unwrap();
    assert!(mounted.session().wait_timeout(Duration::from_secs(30)));
    assert!(!mounted.session().is_alive());
    assert!(!mounted.session().has_ended());
    let output = mounted.shell("timeout 1 cat mnt/file").output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{output:?}");
}

/// The file system of a successor: the same files, nothing slow.
fn successor(mounted: &Mounted, memory: Memory) -> Session {
    let session = mounted.session();
    let device = session.descriptor().try_clone_to_owned().unwrap();
    let info = session.mount_info().clone();
    Session::adopt(
        Arc::new(memory),
        device,
        info,
        session.negotiated(),
        MountOptions::default(),
    )
    .unwrap()
}

fn slow_and_fast() -> Memory {
    let mut memory = Memory::new();
    memory.add(Inode::ROOT, "slow", 0o100_644, 10, Body::Slow);
    memory.file("fast", 10);
    memory
}

#[test]
fn a_successor_answers_what_waited_meanwhile() {
    let Some(mounted) = mount(slow_and_fast()) else {
        return;
    };
    mounted.stdout("ls mnt");
    mounted.session().park().unwrap();
    assert!(mounted.session().wait_timeout(Duration::from_secs(30)));
    let waiting = mounted
        .shell("cat mnt/fast")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let successor = successor(&mounted, slow_and_fast());
    let output = waiting.wait_with_output().unwrap();
    assert!(output.stdout == content(Inode(3), 10), "{output:?}");
    assert_eq!(successor.negotiated(), mounted.session().negotiated());
    successor.detach().unwrap();
    assert!(successor.wait_timeout(Duration::from_secs(30)));
}

#[test]
fn a_successor_answers_what_was_read_and_left() {
    let memory = slow_and_fast();
    let gate = Arc::clone(&memory.gate);
    let Some(mounted) = mount(memory) else { return };
    let mut left = mounted
        .shell("cat mnt/slow")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the slow read has begun", || mounted.requests("read") == 1);
    // One worker is stuck with the request; the others stop, and it will when it is done.
    mounted.session().park().unwrap();
    eventually("only the stuck worker remains", || {
        mounted.metrics.workers.get() == 1
    });

    let prompt = slow_and_fast();
    prompt.gate.open();
    let successor = successor(&mounted, prompt);
    if !successor.negotiated().unwrap().has_resend {
        println!("skipped: this kernel cannot send requests again");
        gate.open();
        left.wait().unwrap();
        return;
    }
    assert_eq!(left.try_wait().unwrap(), None);
    successor.resend().unwrap();
    assert!(left.wait_with_output().unwrap().stdout == content(Inode(2), 10));
    // The late answer is refused by the kernel, and that is all.
    gate.open();
    assert!(mounted.session().wait_timeout(Duration::from_secs(30)));
    assert_eq!(mounted.stdout("wc -c < mnt/fast").trim(), "10");
    successor.detach().unwrap();
    assert!(successor.wait_timeout(Duration::from_secs(30)));
}

#[test]
fn the_mount_is_what_its_options_say() {
    let options = MountOptions {
        source: "my source".into(),
        subtype: "test-kind".into(),
        read_ahead_kib: 512,
        ..MountOptions::default()
    };
    let Some(mounted) = mount_with(Memory::new(), options) else {
        return;
    };
    let mounts = fuse::mounts_below(&mounted.path).unwrap();
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0].source, "my source");
    assert_eq!(mounts[0].file_system, "fuse.test-kind");
    assert_eq!(mounts[0].device, mounted.session().device());
    assert_eq!(mounts[0].mount_point, mounted.session().directory());
    for option in ["ro", "nosuid", "nodev"] {
        assert!(
            mounts[0].options.split(',').any(|o| o == option),
            "{option}"
        );
    }
    assert!(
        mounted
            .stdout("stat -f -c '%S %l' mnt")
            .starts_with("4096 255")
    );
    let negotiated = mounted.session().negotiated().unwrap();
    assert!(negotiated.minor >= 28);
    assert_eq!(negotiated.max_write, 4096);
    let (major, minor) = mounted.session().device();
    let read_ahead =
        std::fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
    match read_ahead {
        Ok(kib) => assert_eq!(kib.trim(), "512"),
        Err(error) => println!("read-ahead not checked: {error}"),
    }
}

#[test]
fn what_is_mounted_over_it_is_not_detached() {
    let mut memory = Memory::new();
    memory.file("file", 10);
    let Some(mounted) = mount(memory) else { return };
    mounted.stdout("mount -t tmpfs cover mnt");
    let refused = mounted.session().detach();
    mounted.stdout("umount mnt");
    assert!(
        matches!(refused, Err(MountError::NotOurs { .. })),
        "{refused:?}"
    );
    assert_eq!(mounted.stdout("ls mnt"), "file\n");
}

#[test]
fn a_missing_mount_point_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("absent");
    match Session::mount(Arc::new(Memory::new()), &path, MountOptions::default()) {
        Err(MountError::MountPoint { path: named, .. }) => assert!(named.ends_with("absent")),
        Err(error @ (MountError::DeviceMissing(_) | MountError::DeviceForbidden(_))) => {
            println!("skipped: {error}");
        }
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("mounted on nothing"),
    }
}
