//! What a check found, and how much it looked at.

use std::fmt::Display;

/// The result of one check. A check that looked at nothing proves nothing, so that fails as well.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    looked_at: usize,
    found: Vec<String>,
}

impl Findings {
    /// Counts one thing that was looked at.
    pub(crate) fn look(&mut self) {
        self.looked_at += 1;
    }

    /// Notes a violation.
    pub(crate) fn add(&mut self, place: impl Display, what: impl Display) {
        self.found.push(format!("{place}: {what}"));
    }

    /// Fails with every violation, and with what to do about them.
    #[track_caller]
    pub(crate) fn expect_none(&self, rule: &str, remedy: &str) {
        assert!(
            self.looked_at > 0,
            "the check for “{rule}” found nothing to look at: mend the check"
        );
        assert!(
            self.found.is_empty(),
            "{rule} ({} of {} looked at)\n  {}\nwhat to do: {remedy}\n",
            self.found.len(),
            self.looked_at,
            self.found.join("\n  ")
        );
    }

    /// The violations alone, for the checks of the checks.
    pub(crate) fn list(&self) -> &[String] {
        &self.found
    }

    /// How much was looked at, for the checks of the checks.
    pub(crate) fn looked_at(&self) -> usize {
        self.looked_at
    }
}

#[test]
#[should_panic(expected = "found nothing to look at")]
fn a_check_that_looked_at_nothing_fails() {
    Findings::default().expect_none("rule", "remedy");
}

#[test]
#[should_panic(expected = "a.rs:7: too long")]
fn a_violation_fails_with_its_place() {
    let mut findings = Findings::default();
    findings.look();
    findings.add("a.rs:7", "too long");
    findings.expect_none("rule", "remedy");
}
