//! What the steps of `cargo xtask test` found, and reading it out of other tools' summaries.

use std::fmt::Write;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
}

impl Counts {
    pub fn check(ok: bool) -> Self {
        Self { passed: u64::from(ok), failed: u64::from(!ok) }
    }

    /// A tool that failed without counting a failed test (it did not compile, it crashed) is one failure.
    pub fn with_exit(mut self, ok: bool) -> Self {
        if !ok && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

pub struct Step {
    pub name: String,
    pub time: Duration,
    pub counts: Counts,
}

#[derive(Default)]
pub struct Report {
    pub steps: Vec<Step>,
}

impl Report {
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        for step in &self.steps {
            total.passed += step.counts.passed;
            total.failed += step.counts.failed;
        }
        total
    }

    /// The table of steps, and the sum as its last line.
    pub fn table(&self) -> String {
        let width = self.steps.iter().map(|s| s.name.len()).max().unwrap_or(0).max(5);
        let mut text = format!("{:width$} {:>9} {:>7} {:>7}\n", "step", "time", "passed", "failed");
        let mut time = Duration::ZERO;
        for step in &self.steps {
            time += step.time;
            let Counts { passed, failed } = step.counts;
            let seconds = step.time.as_secs_f64();
            let _ = writeln!(text, "{:width$} {seconds:>7.1} s {passed:>7} {failed:>7}", step.name);
        }
        let Counts { passed, failed } = self.total();
        let seconds = time.as_secs_f64();
        let _ = writeln!(text, "{:width$} {seconds:>7.1} s {passed:>7} {failed:>7}", "total");
        let _ = writeln!(text, "{passed} passed, {failed} failed");
        text
    }
}

/// Adds the numbers that stand right before each of `words` in lines that contain `mark`.
fn numbers(text: &str, mark: &str, words: &[&str]) -> u64 {
    let mut sum = 0;
    for line in text.lines().filter(|l| l.contains(mark)) {
        let tokens: Vec<&str> = line
            .split(|c: char| c.is_whitespace() || ",;()=".contains(c))
            .filter(|t| !t.is_empty())
            .collect();
        for pair in tokens.windows(2) {
            if let [number, word] = pair
                && words.contains(word)
            {
                sum += number.parse::<u64>().unwrap_or(0);
            }
        }
    }
    sum
}

/// `Summary [   1.2s] 9 tests run: 8 passed (1 slow), 1 failed, 0 skipped`
pub fn nextest(text: &str) -> Counts {
    let mark = "Summary [";
    Counts {
        passed: numbers(text, mark, &["passed"]),
        failed: numbers(text, mark, &["failed", "timed", "exec"]),
    }
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`, once per binary
pub fn cargo_test(text: &str) -> Counts {
    let mark = "test result:";
    Counts { passed: numbers(text, mark, &["passed"]), failed: numbers(text, mark, &["failed"]) }
}

/// `=== 2 failed, 10 passed, 1 error in 0.31s ===`
pub fn pytest(text: &str) -> Counts {
    let last = text.lines().rev().find(|l| l.contains(" in ") && l.contains('s')).unwrap_or("");
    Counts {
        passed: numbers(last, "", &["passed"]),
        failed: numbers(last, "", &["failed", "error", "errors"]),
    }
}

/// `# pass 3` and `# fail 0` of `node --test --test-reporter=tap`
pub fn node_tap(text: &str) -> Counts {
    let count = |key: &str| {
        let found = text.lines().rev().find_map(|l| l.strip_prefix(key));
        found.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    };
    Counts { passed: count("# pass "), failed: count("# fail ") + count("# cancelled ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_other_tools_are_read() {
        let text =
            "     Summary [   0.012s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 0 skipped\n";
        assert_eq!(nextest(text), Counts { passed: 7, failed: 2 });
        let text = "test result: ok. 3 passed; 0 failed; 1 ignored\ntest result: FAILED. 1 passed; 2 failed; 0 ignored";
        assert_eq!(cargo_test(text), Counts { passed: 4, failed: 2 });
        let text = "x in 3 s\n==== 2 failed, 10 passed, 1 error in 0.31s ====\n";
        assert_eq!(pytest(text), Counts { passed: 10, failed: 3 });
        assert_eq!(node_tap("# pass 3\n# fail 1\n# cancelled 0\n"), Counts { passed: 3, failed: 1 });
    }

    #[test]
    fn a_crash_without_a_summary_is_a_failure() {
        assert_eq!(nextest("error: could not compile").with_exit(false), Counts { passed: 0, failed: 1 });
        assert_eq!(nextest("").with_exit(true), Counts::default());
    }

    #[test]
    fn the_last_line_is_the_sum() {
        let step = |counts| Step { name: "x".to_owned(), time: Duration::ZERO, counts };
        let report = Report {
            steps: vec![step(Counts { passed: 2, failed: 0 }), step(Counts { passed: 1, failed: 1 })],
        };
        assert_eq!(report.table().lines().last(), Some("3 passed, 1 failed"));
    }
}
