//! What the documents must say, and that their links lead somewhere.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::findings::Findings;
use super::repository::File;
use super::rust::Rust;

/// Documents that must exist.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "docs/ARCHITECTURE.md",
    "docs/GUARANTEES.md",
    "docs/WRITING_A_SINK.md",
    "docs/OPERATIONS.md",
    "docs/STYLE.md",
    "docs/DECISIONS.md",
    "docs/PERFORMANCE.md",
    "docs/PROOF.md",
];

/// The heading of the section with one row per metric.
const METRICS: &str = "## Metrics";

/// Where metrics are named, each once.
fn names_metrics(file: &Rust) -> bool {
    file.path == "framework/src/metrics.rs"
        || (file.path.starts_with("connectors/") && file.path.ends_with("/src/metrics.rs"))
}

/// Every metric of the code has a row in the section on metrics, and every row has its metric.
pub(crate) fn check_metrics(files: &[Rust], document: &File) -> Findings {
    let mut findings = Findings::default();
    let rows = metric_rows(&document.text);
    let mut known = BTreeSet::new();
    for file in files.iter().filter(|file| names_metrics(file)) {
        for literal in file.literals.iter().filter(|literal| is_metric(&literal.text)) {
            if file.is_test(literal.line) || !known.insert(literal.text.clone()) {
                continue;
            }
            findings.look();
            if !rows.iter().any(|(_, row)| *row == literal.text) {
                findings.add(
                    format_args!("{}:{}", file.path, literal.line),
                    format_args!("`{}` has no row", literal.text),
                );
            }
        }
    }
    for (line, row) in rows {
        if !known.contains(row) {
            findings.add(
                format_args!("{}:{line}", document.path),
                format_args!("`{row}` is not in the code"),
            );
        }
    }
    findings
}

fn is_metric(text: &str) -> bool {
    text.strip_prefix("tidegate_")
        .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

/// The first cells of the tables of the section on metrics, with their lines.
fn metric_rows<'t>(text: &'t str) -> Vec<(usize, &'t str)> {
    let cell = |(line, text): (usize, &'t str)| {
        let cell = text.strip_prefix("| `")?;
        let end = cell.find(|c: char| !c.is_ascii_lowercase() && c != '_')?;
        is_metric(&cell[..end]).then_some((line, &cell[..end]))
    };
    section(text, METRICS).filter_map(cell).collect()
}

/// Sections that name tests, each behind its document.
const NAME_TESTS: &[(&str, &str)] = &[
    ("docs/DECISIONS.md", "## Rules and their tests"),
    ("docs/GUARANTEES.md", "## How each is shown"),
    ("docs/PROOF.md", "## Seeded bugs"),
];

/// Every test that a document names is a function of this repository.
pub(crate) fn check_named_tests(files: &[Rust], documents: &[File]) -> Findings {
    let mut findings = Findings::default();
    let words: BTreeSet<&str> =
        files.iter().flat_map(|file| &file.words).map(|word| word.text.as_str()).collect();
    for (path, heading) in NAME_TESTS {
        let document = documents.iter().find(|document| document.path == *path);
        let Some(document) = document else { continue };
        for (line, text) in section(&document.text, heading) {
            for name in text.split('`').skip(1).step_by(2).filter(|name| is_name_of_test(name)) {
                findings.look();
                if !words.contains(name) {
                    findings.add(
                        format_args!("{path}:{line}"),
                        format_args!("`{name}` is no function"),
                    );
                }
            }
        }
    }
    findings
}

/// The lines below a heading, up to the next of the same depth, with their numbers.
fn section<'t>(text: &'t str, heading: &str) -> impl Iterator<Item = (usize, &'t str)> {
    let lines = text.lines().enumerate().skip_while(move |(_, line)| *line != heading).skip(1);
    lines.take_while(|(_, line)| !line.starts_with("## ")).map(|(at, line)| (at + 1, line))
}

/// Tests are named by sentences: settings and metrics are shorter or begin otherwise.
fn is_name_of_test(text: &str) -> bool {
    let letters = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    letters && text.matches('_').count() >= 3 && !is_metric(text)
}

/// Links from one file of the repository to another.
pub(crate) fn check_links(files: &[File]) -> Findings {
    let mut findings = Findings::default();
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, link) in links(&file.text) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            findings.look();
            let target = beside(&file.path, target);
            let folder = format!("{target}/");
            if !paths.contains(target.as_str())
                && !paths.iter().any(|path| path.starts_with(&folder))
            {
                findings.add(
                    format_args!("{}:{line}", file.path),
                    format_args!("{link} leads nowhere"),
                );
            }
        }
    }
    findings
}

/// Folders at the root: what begins with one of them in backticks is a path of the repository.
const FOLDERS: &[&str] =
    &["framework/", "connectors/", "cli/", "examples/", "tests/", "benches/", "docs/", "scripts/"];

/// Files that documents name in backticks.
pub(crate) fn check_named_files(files: &[File]) -> Findings {
    let mut findings = Findings::default();
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (at, line) in file.text.lines().enumerate() {
            let named = line.split('`').skip(1).step_by(2);
            for name in named.filter(|name| FOLDERS.iter().any(|folder| name.starts_with(folder))) {
                findings.look();
                let path = name.split(' ').next().unwrap_or_default().trim_end_matches('/');
                // From the root, or from the page's own folder.
                let places = [path.to_owned(), beside(&file.path, path)];
                let is_there = |place: &String| {
                    let folder = format!("{place}/");
                    paths.contains(place.as_str())
                        || paths.iter().any(|known| known.starts_with(&folder))
                };
                if !places.iter().any(is_there) {
                    findings.add(
                        format_args!("{}:{}", file.path, at + 1),
                        format_args!("`{name}` does not exist"),
                    );
                }
            }
        }
    }
    findings
}

/// `](target)` outside code blocks.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for part in line.split("](").skip(1) {
            found.extend(part.find(')').map(|end| (at + 1, &part[..end])));
        }
    }
    found
}

/// The path of `target`, seen from the page `page`.
fn beside(page: &str, target: &str) -> String {
    let mut place: PathBuf = Path::new(page).parent().map(Path::to_owned).unwrap_or_default();
    for component in Path::new(target).components() {
        match component {
            Component::ParentDir => {
                place.pop();
            }
            Component::Normal(name) => place.push(name),
            _ => {}
        }
    }
    place.to_string_lossy().replace('\\', "/")
}

/// Every document of the list is there and says something.
pub(crate) fn check_presence(files: &[File]) -> Findings {
    let mut findings = Findings::default();
    for path in DOCUMENTS {
        findings.look();
        if !files.iter().any(|file| file.path == *path && !file.text.trim().is_empty()) {
            findings.add(path, "missing or empty");
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "table! { A = \"tidegate_a_total\", Counter; B = \"tidegate_b\", Gauge; }\n\
                        #[cfg(test)]\nmod tests { const C: &str = \"tidegate_c\"; }";

    #[test]
    fn a_metric_without_a_row_and_a_row_without_a_metric_are_found() {
        let code = [Rust::parse(&File::planted("framework/src/metrics.rs", CODE))];
        let page = "## Other\n| `tidegate_b` | x |\n## Metrics\n| `tidegate_a_total{dir}` | x |\n| `tidegate_d` | x |\n";
        let found = check_metrics(&code, &File::planted("docs/OPERATIONS.md", page));
        assert_eq!(found.looked_at(), 2);
        assert_eq!(
            found.list(),
            [
                "framework/src/metrics.rs:1: `tidegate_b` has no row",
                "docs/OPERATIONS.md:5: `tidegate_d` is not in the code"
            ]
        );
    }

    #[test]
    fn a_test_that_a_document_names_and_nobody_wrote_is_found() {
        let code = [Rust::parse(&File::planted("a/tests/b.rs", "fn a_record_is_stored_once() {}"))];
        let page = "`a_word_before_the_section`\n## Rules and their tests\n| x | `a_record_is_stored_once`, \
                    `a_record_is_never_lost`, `drain_max`, `tidegate_a_b_total` |\n";
        let found = check_named_tests(&code, &[File::planted("docs/DECISIONS.md", page)]);
        assert_eq!(found.looked_at(), 2);
        assert_eq!(found.list(), ["docs/DECISIONS.md:3: `a_record_is_never_lost` is no function"]);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let page = "[a](../README.md#x) [b](GONE.md) [c](https://x.org) [d](#here) [e](../docs)\n```\n[f](no.md)\n```\n";
        let files = [File::planted("docs/A.md", page), File::planted("README.md", "")];
        let found = check_links(&files);
        assert_eq!(found.looked_at(), 3);
        assert_eq!(found.list(), ["docs/A.md:1: GONE.md leads nowhere"]);
    }

    #[test]
    fn a_named_file_that_does_not_exist_is_found() {
        let page =
            "`framework/src/` and `scripts/test --all` and `cli/gone.rs`, but `in/one` is none\n";
        let files = [
            File::planted("docs/A.md", page),
            File::planted("framework/src/lib.rs", ""),
            File::planted("scripts/test", ""),
        ];
        let found = check_named_files(&files);
        assert_eq!(found.looked_at(), 3);
        assert_eq!(found.list(), ["docs/A.md:1: `cli/gone.rs` does not exist"]);
    }

    #[test]
    fn a_missing_document_is_found() {
        let found = check_presence(&[
            File::planted("README.md", "x"),
            File::planted("CHANGELOG.md", " \n"),
        ]);
        assert_eq!(found.list().len(), DOCUMENTS.len() - 1);
    }
}
