//! The form of the changelog: Keep a Changelog, entries scoped by module.

use super::findings::Findings;
use super::repository::File;

/// Sections of a version, in the order they must have: what breaks comes first.
const SECTIONS: &[&str] = &["Changed", "Removed", "Deprecated", "Added", "Fixed", "Security"];

/// The whole file has the form.
pub(crate) fn check(file: &File) -> Findings {
    let mut findings = Findings::default();
    if file.text.lines().next() != Some("# Changelog") {
        findings.add(&file.path, "does not begin with `# Changelog`");
    }
    let mut versions = 0;
    let mut section = None;
    for (at, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.path, at + 1);
        if let Some(version) = line.strip_prefix("## ") {
            findings.look();
            versions += 1;
            section = None;
            if let Err(problem) = check_version(version, versions) {
                findings.add(place, problem);
            }
        } else if let Some(name) = line.strip_prefix("### ") {
            let order = SECTIONS.iter().position(|known| *known == name);
            match order {
                None => findings.add(place, format_args!("`{name}` is none of {SECTIONS:?}")),
                Some(_) if order <= section => {
                    findings.add(place, format_args!("`{name}` stands too low"))
                }
                Some(_) => section = order,
            }
        } else if line.starts_with("- ") {
            findings.look();
            if section.is_none() {
                findings.add(&place, "an entry outside a section");
            }
            if let Err(problem) = check_entry(line) {
                findings.add(place, problem);
            }
        }
    }
    findings
}

/// `[Unreleased]` first, then `[1.2.3] - 2026-01-31`.
fn check_version(version: &str, place: usize) -> Result<(), String> {
    if place == 1 {
        return (version == "[Unreleased]")
            .then_some(())
            .ok_or_else(|| "the first version must be `## [Unreleased]`".to_owned());
    }
    let digits =
        |text: &str, count: usize| text.len() == count && text.chars().all(|c| c.is_ascii_digit());
    let is_version = |number: &str| {
        let parts: Vec<_> = number.split('.').collect();
        parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && digits(part, part.len()))
    };
    let is_date = |date: &str| {
        let parts: Vec<_> = date.split('-').collect();
        parts.len() == 3 && digits(parts[0], 4) && digits(parts[1], 2) && digits(parts[2], 2)
    };
    let good = version
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] - "))
        .is_some_and(|(number, date)| is_version(number) && is_date(date));
    good.then_some(()).ok_or_else(|| format!("`## {version}` is not `## [1.2.3] - 2026-01-31`"))
}

/// `- **scope**: what a user sees.`
fn check_entry(line: &str) -> Result<(), String> {
    let scoped = line.strip_prefix("- **").and_then(|rest| rest.split_once("**: "));
    match scoped {
        Some((scope, text)) if !scope.is_empty() && !text.trim().is_empty() => Ok(()),
        _ => Err("an entry reads `- **scope**: what a user sees`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        check(&File::planted("CHANGELOG.md", text)).list().len()
    }

    #[test]
    fn a_good_changelog_passes() {
        let text = "# Changelog\n\nWords.\n\n## [Unreleased]\n\n### Changed\n\n- **kafka**: x.\n  More.\n### Added\n\
                    - **sql**: y.\n\n## [0.1.0] - 2026-01-31\n### Fixed\n- **core**: z.\n";
        assert_eq!(found(text), 0);
    }

    #[test]
    fn every_way_out_of_form_is_found() {
        for text in [
            "## [Unreleased]\n",
            "# Changelog\n## [0.1.0] - 2026-01-31\n",
            "# Changelog\n## [Unreleased]\n## 0.1.0\n",
            "# Changelog\n## [Unreleased]\n## [0.1] - 2026-01-31\n",
            "# Changelog\n## [Unreleased]\n### News\n",
            "# Changelog\n## [Unreleased]\n### Added\n### Changed\n",
            "# Changelog\n## [Unreleased]\n- **a**: outside\n",
            "# Changelog\n## [Unreleased]\n### Added\n- no scope\n",
        ] {
            assert_eq!(found(text), 1, "{text}");
        }
    }
}
