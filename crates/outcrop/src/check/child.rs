//! Child processes with a deadline: foreign programs, and reads that may never return.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Output beyond this is cut: a configuration dump has some 20 KiB.
const MOST_OUTPUT: u64 = 4 << 20;

/// How often the child is looked at.
const TICK: Duration = Duration::from_millis(10);

/// Runs to the end and returns what the child printed.
///
/// # Errors
/// It cannot be started, fails, or takes longer than `deadline`; it is killed then, and not waited for if it sits in the
/// kernel.
pub fn output(command: &mut Command, deadline: Duration) -> io::Result<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Both pipes are emptied beside the wait: a child that fills one would never end.
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let status = wait(&mut child, deadline)?;
    let bytes = stdout.map(finish).unwrap_or_default();
    if status.success() {
        return Ok(bytes);
    }
    let said = stderr.map(finish).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    Err(io::Error::other(format!(
        "{status}: {}",
        said.trim().lines().last().unwrap_or_default()
    )))
}

fn wait(child: &mut Child, deadline: Duration) -> io::Result<std::process::ExitStatus> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= end {
            child.kill()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {} s", deadline.as_secs()),
            ));
        }
        std::thread::sleep(TICK);
    }
}

fn drain(pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut pipe = pipe;
        // What was read before an error is still the best that there is.
        let _ = pipe.by_ref().take(MOST_OUTPUT).read_to_end(&mut bytes);
        let _ = io::copy(&mut pipe, &mut io::sink());
        bytes
    })
}

fn finish(reader: std::thread::JoinHandle<Vec<u8>>) -> Vec<u8> {
    reader.join().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_s_output_comes_back() {
        let bytes = output(
            Command::new("/bin/sh").args(["-c", "echo one; echo two"]),
            Duration::from_secs(10),
        )
        .unwrap();
        assert_eq!(bytes, b"one\ntwo\n");
    }

    #[test]
    fn a_failing_child_is_quoted() {
        let error = output(
            Command::new("/bin/sh").args(["-c", "echo no such thing >&2; exit 3"]),
            Duration::from_secs(10),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "exit status: 3: no such thing");
    }

    #[test]
    fn a_child_that_hangs_is_left_behind() {
        let error = output(
            Command::new("/bin/sleep").arg("600"),
            Duration::from_millis(50),
        )
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn much_output_neither_blocks_nor_fills_memory() {
        let bytes = output(
            Command::new("/bin/sh").args(["-c", "head -c 6000000 /dev/zero"]),
            Duration::from_secs(60),
        )
        .unwrap();
        assert_eq!(bytes.len() as u64, MOST_OUTPUT);
    }
}
