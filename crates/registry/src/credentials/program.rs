//! Runs a helper program: text in, text out, within a deadline and a bound.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Error;

/// How helper programs are run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Directories in which `docker-credential-…` are looked for (the caller's `PATH`).
    pub search: Vec<PathBuf>,
    /// Their environment; nothing else is passed on.
    pub environment: Vec<(OsString, OsString)>,
    /// They are ended after this time.
    pub deadline: Duration,
    /// Longest answer in bytes.
    pub output_limit: usize,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            search: Vec::new(),
            environment: Vec::new(),
            deadline: Duration::from_secs(30),
            output_limit: 256 << 10,
        }
    }
}

/// What a program printed, and whether it said that it had succeeded.
pub(super) struct Printed {
    pub(super) text: Vec<u8>,
    pub(super) success: bool,
}

impl Programs {
    /// Errors never quote what the program printed.
    pub(super) fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        environment: &[(String, String)],
        input: &[u8],
    ) -> Result<Printed, Error> {
        let failed = |reason: String| Error::Config {
            path: program.to_owned(),
            reason,
        };
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(format!("cannot be run: {error}")))?;
        let result = self.converse(&mut child, input);
        if result.is_err() {
            end(&mut child);
        }
        // Ended or killed: this does not wait for long.
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        Ok(Printed {
            text: result.map_err(failed)?,
            success: status.success(),
        })
    }

    /// Until the program has closed its output and ended. The threads end with the pipes.
    fn converse(&self, child: &mut Child, input: &[u8]) -> Result<Vec<u8>, String> {
        let deadline = Instant::now() + self.deadline;
        let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let input = input.to_vec();
        // A program may answer without reading all of its input.
        thread::spawn(move || stdin.as_mut().map(|pipe| pipe.write_all(&input)));
        let (send, receive) = mpsc::channel();
        let limit = self.output_limit;
        thread::spawn(move || {
            let mut text = Vec::new();
            let result = stdout
                .map(|pipe| pipe.take(limit as u64 + 1).read_to_end(&mut text))
                .transpose();
            let _ = send.send(result.map(|_| text));
        });
        let text = receive
            .recv_timeout(self.deadline)
            .map_err(|_| format!("gave no answer within {:?}", self.deadline))?
            .map_err(|error| error.to_string())?;
        if text.len() > limit {
            return Err(format!("answered more than {limit} bytes"));
        }
        while child
            .try_wait()
            .map_err(|error| error.to_string())?
            .is_none()
        {
            if Instant::now() >= deadline {
                return Err(format!("did not end within {:?}", self.deadline));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(text)
    }
}

/// With all that it has started.
fn end(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // It may have ended by itself meanwhile.
    let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    let _ = child.kill();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, programs: &Programs, input: &[u8]) -> Result<Printed, Error> {
        programs.run(Path::new("/bin/sh"), &["-c", script], &[], input)
    }

    #[test]
    fn text_goes_in_and_out() {
        let programs = Programs {
            environment: vec![("ONLY".into(), "this".into())],
            ..Programs::default()
        };
        let printed = run("cat; echo $ONLY$HOME$CARGO", &programs, b"hello ").unwrap();
        assert_eq!(printed.text, b"hello this\n");
        assert!(printed.success);
        assert!(!run("exit 3", &programs, b"").unwrap().success);
        // Input that nobody reads does no harm.
        assert!(
            run("exit 0", &programs, &vec![b'x'; 1 << 20])
                .unwrap()
                .success
        );
    }

    #[test]
    fn whoever_hangs_or_floods_is_ended() {
        let programs = Programs {
            deadline: Duration::from_millis(200),
            output_limit: 1000,
            ..Programs::default()
        };
        for (script, complaint) in [
            ("sleep 1000", "no answer"),
            ("sleep 1000 & wait", "no answer"),
            ("exec >&-; sleep 1000", "did not end"),
            (
                "echo hunter2; while :; do echo hunter2; done",
                "more than 1000",
            ),
        ] {
            let error = run(script, &programs, b"").err().unwrap().to_string();
            assert!(error.contains(complaint), "{script}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let absent = programs.run(Path::new("/no/such"), &[], &[], b"");
        assert!(absent.err().unwrap().to_string().contains("cannot be run"));
    }
}
