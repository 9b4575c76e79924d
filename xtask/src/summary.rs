//! Counting tests, whoever ran them.

use anyhow::{Result, ensure};

/// Outcomes added up over several runners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Counts {
    /// One more check that passed or failed.
    pub(crate) fn add_check(&mut self, outcome: &Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(_) => self.failed += 1,
        }
    }

    /// Adds what another runner counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// From a line of cargo's test runner, such as
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
    pub(crate) fn of_cargo(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("test result: ")?;
        let number = |what: &str| -> Option<usize> {
            rest.split_once(what)?
                .0
                .trim_end()
                .rsplit([' ', '.'])
                .next()?
                .parse()
                .ok()
        };
        Some(Self {
            passed: number(" passed;")?,
            failed: number(" failed;")?,
            skipped: number(" ignored;")?,
        })
    }

    /// From a line of `go test -v`, such as `    --- PASS: TestX/Basic (0.01s)`. A test that has subtests says PASS once more for
    /// them all, so only subtests count as passed; each test of ours has some.
    pub(crate) fn of_go(line: &str) -> Option<Self> {
        let outcome = line.trim_start().strip_prefix("--- ")?;
        let one = |prefix: &str| usize::from(outcome.starts_with(prefix));
        Some(Self {
            passed: usize::from(outcome.starts_with("PASS:") && outcome.contains('/')),
            failed: one("FAIL:"),
            skipped: one("SKIP:"),
        })
    }

    /// An error if something failed or nothing ran.
    pub(crate) fn into_result(self) -> Result<()> {
        ensure!(self.failed == 0, "{} failed", self.failed);
        ensure!(self.passed > 0, "no test ran");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_both_runners() {
        let cargo = "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        let go = [
            "=== RUN   TestX",
            "    --- PASS: TestX/Basic (0.01s)",
            "--- FAIL: TestX (0.02s)",
            "--- PASS: TestY (0.02s)",
            "PASS",
        ];
        assert_eq!(
            Counts::of_cargo(cargo),
            Some(Counts {
                passed: 12,
                failed: 1,
                skipped: 2
            })
        );
        assert_eq!(Counts::of_cargo("running 3 tests"), None);
        let go: Vec<_> = go.into_iter().map(Counts::of_go).collect();
        let passed = Counts {
            passed: 1,
            ..Counts::default()
        };
        let failed = Counts {
            failed: 1,
            ..Counts::default()
        };
        assert_eq!(
            go,
            [
                None,
                Some(passed),
                Some(failed),
                Some(Counts::default()),
                None
            ]
        );
    }
}
