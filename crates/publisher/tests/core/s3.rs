//! S3: against a server of another's making, and against one that fails.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use publisher::storage::{Locking, S3Credentials, S3Storage};
use publisher::{Error, InitOptions, Kind, Repository, Storage, StorageError, open_storage};
use tempfile::TempDir;
use testkit::{Fault, Stratum1, When};

use crate::support::{assert_clean, at, files, keys, objects, publish, store};

fn credentials() -> Option<S3Credentials> {
    Some(S3Credentials {
        key: "test-key".to_owned(),
        secret: "very-secret".to_owned(),
        token: None,
    })
}

/// moto, a widely used imitation of S3, with a bucket. Ends with this value.
struct Moto {
    server: Child,
    url: String,
    runtime: tokio::runtime::Runtime,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Installed once for all tests of this process; `None`, with the reason printed, where that does not work.
fn program() -> Option<&'static std::path::Path> {
    static PROGRAM: OnceLock<Option<TempDir>> = OnceLock::new();
    let folder = PROGRAM.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let run = |program: &std::path::Path, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            match output {
                Ok(output) if output.status.success() => true,
                Ok(output) => {
                    println!("skipped: {}", String::from_utf8_lossy(&output.stderr));
                    false
                }
                Err(error) => {
                    println!("skipped: {}: {error}", program.display());
                    false
                }
            }
        };
        let path = folder.path().to_str().unwrap();
        let pip = folder.path().join("bin/pip");
        let made = run(std::path::Path::new("python3"), &["-m", "venv", path])
            && run(
                &pip,
                &[
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--retries",
                    "1",
                    "--timeout",
                    "20",
                    "moto[server]>=5.1",
                ],
            );
        made.then_some(folder)
    });
    folder.as_ref().map(TempDir::path)
}

fn moto() -> Option<Moto> {
    let program = program()?.join("bin/moto_server");
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = Command::new(program)
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let moto = Moto {
        server,
        url: format!("127.0.0.1:{port}"),
        runtime: tokio::runtime::Runtime::new().unwrap(),
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "moto does not answer");
        if make_bucket(&moto.url).is_ok_and(|answer| answer.contains(" 200 ")) {
            return Some(moto);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// moto asks for no signature.
fn make_bucket(address: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "PUT /bucket HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Moto {
    fn location(&self) -> String {
        format!("s3+http://{}/bucket/some/prefix", self.url)
    }

    fn open(&self) -> S3Storage {
        S3Storage::open(&self.location(), self.runtime.handle(), credentials()).unwrap()
    }
}

#[test]
fn a_repository_in_a_bucket() {
    let Some(moto) = moto() else { return };
    let storage = open_storage(&moto.location(), moto.runtime.handle(), credentials()).unwrap();
    let repository =
        Repository::init(storage.clone(), keys(), &InitOptions::default(), at(0)).unwrap();
    publish(&repository, Some("one"), &files("one"), 10);
    publish(&repository, None, &files("two"), 20);
    assert_clean(&repository);
    let opened = Repository::open(storage.clone(), Some(keys()), at(0)).unwrap();
    assert_eq!(opened.head().revision, 3);
    // A publisher that dies, and the next one.
    let before = objects(&*storage);
    let lock = opened.lock(Duration::ZERO, at(0)).unwrap();
    // The server's times have whole seconds.
    std::thread::sleep(Duration::from_millis(1100));
    store(&opened, &files("never published"), 30);
    drop(lock);
    assert!(objects(&*storage).len() > before.len());
    let lock = repository.lock(Duration::ZERO, at(0)).unwrap();
    assert_eq!(objects(&*storage), before);
    let options = publisher::GcOptions {
        grace: Duration::ZERO,
        ..publisher::GcOptions::default()
    };
    let later = jiff::Timestamp::from_second(at(0).as_second() + 86_400 * 3650).unwrap();
    let report = repository.gc(Some(&lock), options, later).unwrap();
    assert_eq!(report.removed_revisions, 1);
    assert_clean(&repository);
}

#[test]
fn files_in_a_bucket_arrive_whole() {
    let Some(moto) = moto() else { return };
    let storage = moto.open();
    assert_eq!(storage.read("data/aa/bb", 10).unwrap(), None);
    assert_eq!(storage.size("data/aa/bb").unwrap(), None);
    assert!(storage.reader("data/aa/bb").unwrap().is_none());
    storage.put("data/aa/bb", b"0123456789").unwrap();
    assert!(matches!(
        storage.read("data/aa/bb", 9),
        Err(StorageError::TooLarge { .. })
    ));
    // More than two parts.
    let path = moto_file(40 << 20);
    let mut file = File::open(path.path().join("large")).unwrap();
    storage.put_file("data/cc/dd", &mut file, 40 << 20).unwrap();
    assert_eq!(storage.size("data/cc/dd").unwrap(), Some(40 << 20));
    let mut read = Vec::new();
    storage
        .reader("data/cc/dd")
        .unwrap()
        .unwrap()
        .read_to_end(&mut read)
        .unwrap();
    assert_eq!(read, std::fs::read(path.path().join("large")).unwrap());
    let many: Vec<String> = (0..1005)
        .map(|number| format!("data/ee/{number:04}"))
        .collect();
    for path in &many {
        storage.put(path, b"x").unwrap();
    }
    let mut listed = 0;
    let mut each = |file: &publisher::storage::Listed<'_>| {
        listed += 1;
        assert_eq!((file.size, file.path.len()), (1, 12));
        Ok(())
    };
    storage.list("data/ee/", &mut each).unwrap();
    assert_eq!(listed, 1005);
    storage.delete(&many).unwrap();
    assert_eq!(objects(&storage).len(), 2);
}

fn moto_file(length: usize) -> TempDir {
    let folder = TempDir::new().unwrap();
    let content: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
    std::fs::write(folder.path().join("large"), content).unwrap();
    folder
}

#[test]
fn one_publisher_in_a_bucket_and_a_lease_that_ends() {
    let Some(moto) = moto() else { return };
    let (first, second) = (moto.open(), moto.open());
    let Locking::Held(held) = first.try_lock("first").unwrap() else {
        panic!("nobody has it");
    };
    held.check().unwrap();
    let Locking::Busy(holder) = second.try_lock("second").unwrap() else {
        panic!("the first has it");
    };
    assert_eq!(holder, "first");
    drop(held);
    let Locking::Held(held) = second.try_lock("second").unwrap() else {
        panic!("it was given back");
    };
    // One that never renews: its lease ends, the next takes over, and it is told.
    let hasty = moto.open().with_lease(Duration::ZERO);
    std::thread::sleep(Duration::from_millis(2100));
    let Locking::Held(taken) = hasty.try_lock("third").unwrap() else {
        panic!("the lease has ended");
    };
    let lost = held.check().unwrap_err();
    assert!(
        matches!(&lost, StorageError::LockLost { holder, .. } if holder == "third"),
        "{lost}"
    );
    drop(held);
    taken.check().unwrap();
}

#[test]
fn a_server_that_dies_midway_leaves_the_old_revision() {
    let Some(mut moto) = moto() else { return };
    let storage: Arc<dyn Storage> = Arc::new(moto.open());
    let repository = Repository::init(storage, keys(), &InitOptions::default(), at(0)).unwrap();
    let lock = repository.lock(Duration::ZERO, at(0)).unwrap();
    let commit = store(&repository, &files("one"), 10);
    moto.server.kill().unwrap();
    moto.server.wait().unwrap();
    let error = repository.commit(&lock, commit).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
    assert!(error.hint().unwrap().contains("intact"));
    assert!(!format!("{error:?}").contains("very-secret"));
    assert_eq!(repository.head().revision, 1);
}

/// A server of the test kit, which answers GET as S3 does and fails as told.
fn failing(when: When, fault: Fault) -> (Result<Option<Vec<u8>>, StorageError>, usize) {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir_all(folder.path().join("data/aa")).unwrap();
    std::fs::write(folder.path().join("data/aa/bb"), "content").unwrap();
    let server = Stratum1::serving(folder.path())
        .fault(when, fault)
        .start()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let location = format!("s3+{}/cvmfs/prefix", server.url().trim_end_matches('/'));
    let storage = S3Storage::open(&location, runtime.handle(), credentials()).unwrap();
    let read = storage.read("data/aa/bb", 100);
    (read, server.requests().len())
}

#[test]
fn passing_failures_are_tried_again_and_lasting_ones_are_told() {
    for fault in [
        Fault::StatusCode(503),
        Fault::Close,
        Fault::CloseMidHeader,
        Fault::Truncate(3),
        Fault::StatusCode(429),
    ] {
        let (read, requests) = failing(When::always().first(2), fault.clone());
        assert_eq!(read.unwrap().unwrap(), b"content", "{fault:?}");
        assert_eq!(requests, 3, "{fault:?}");
    }
    let (read, requests) = failing(When::always(), Fault::StatusCode(500));
    assert!(
        matches!(read, Err(StorageError::Unavailable { .. })),
        "{read:?}"
    );
    assert_eq!(requests, 5);
    let (read, requests) = failing(When::always(), Fault::StatusCode(403));
    let error = read.unwrap_err();
    assert!(matches!(error, StorageError::Denied { .. }), "{error}");
    assert_eq!((requests, Error::from(error).kind()), (1, Kind::Config));
    let (read, _) = failing(When::always(), Fault::StatusCode(507));
    assert!(matches!(read, Err(StorageError::Full { .. })), "{read:?}");
    let (read, _) = failing(When::always(), Fault::StatusCode(404));
    assert!(matches!(read, Ok(None)), "{read:?}");
}
