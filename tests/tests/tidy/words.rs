//! Words that stay in one place, and words that stay away.

use super::findings::Findings;
use super::repository::File;
use super::rust::{Rust, Word};

/// Crates whose code may name every client library: they put connectors to work on real servers.
pub(crate) const TOOLS: &[&str] = &["cli/", "tests/", "examples/", "benches/"];

/// A client library, and the connectors that wrap it.
pub(crate) const CLIENTS: &[(&str, &[&str])] = &[
    ("rdkafka", &["connectors/kafka/"]),
    ("rdkafka_sys", &["connectors/kafka/"]),
    ("sqlx", &["connectors/postgres/", "connectors/sqlite/"]),
];

/// Libraries: what they have to say goes through `tracing` or is returned.
fn is_library(file: &Rust, line: usize) -> bool {
    let is_below_src =
        is_below(&file.path, &["framework/", "connectors/"]) && file.path.contains("/src/");
    is_below_src && !file.is_test_file() && !file.is_test(line)
}

/// Macros of unfinished work.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

/// Macros that talk past the program's own log.
const PRINTS: &[&str] = &["println", "print", "eprintln", "eprint"];

/// Where unsafe code may stand.
fn may_be_unsafe(path: &str) -> bool {
    path == "connectors/kafka/src/ffi.rs" || path.starts_with("connectors/kafka/src/ffi/")
}

/// Client libraries are named only in their connectors.
pub(crate) fn check_clients(files: &[Rust]) -> Findings {
    let mut findings = Findings::default();
    for file in files {
        for word in &file.words {
            findings.look();
            let client = CLIENTS.iter().find(|(client, _)| word.text == *client);
            if client.is_some_and(|(_, homes)| {
                !is_below(&file.path, homes) && !is_below(&file.path, TOOLS)
            }) {
                findings.add(
                    place(file, word),
                    format_args!("`{}` belongs to its connector", word.text),
                );
            }
        }
    }
    findings
}

/// `unsafe` stands only in the one module for it, and every other crate forbids it at its root.
pub(crate) fn check_unsafe(files: &[Rust]) -> Findings {
    let mut findings = Findings::default();
    for file in files {
        findings.look();
        if !may_be_unsafe(&file.path) {
            for word in file.words.iter().filter(|word| word.text == "unsafe") {
                findings.add(place(file, word), "unsafe code");
            }
        }
        let is_root = file.path.ends_with("src/lib.rs") || file.path.ends_with("src/main.rs");
        if is_root && !file.path.starts_with("connectors/kafka/") && !forbids_unsafe(file) {
            findings.add(&file.path, "the crate does not open with #![forbid(unsafe_code)]");
        }
    }
    findings
}

fn forbids_unsafe(file: &Rust) -> bool {
    file.words.windows(2).any(|pair| pair[0].text == "forbid" && pair[1].text == "unsafe_code")
}

/// No macro of unfinished work anywhere, no printing in libraries, no test ignored without a reason.
pub(crate) fn check_banned(files: &[Rust]) -> Findings {
    let mut findings = Findings::default();
    for file in files {
        findings.look();
        for word in &file.macros {
            let prints = PRINTS.contains(&word.text.as_str());
            let in_library = is_library(file, word.line);
            if UNFINISHED.contains(&word.text.as_str()) || (prints && in_library) {
                findings.add(place(file, word), format_args!("`{}!`", word.text));
            }
        }
        for word in &file.ignored {
            findings
                .add(place(file, word), "`#[ignore]` without a reason: write #[ignore = \"why\"]");
        }
    }
    findings
}

/// No conflict marks in any file.
pub(crate) fn check_merge_marks(files: &[File]) -> Findings {
    let mut findings = Findings::default();
    for file in files {
        findings.look();
        for (at, line) in file.text.lines().enumerate() {
            if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
                findings.add(format_args!("{}:{}", file.path, at + 1), line);
            }
        }
    }
    findings
}

pub(crate) fn is_below(path: &str, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

fn place(file: &Rust, word: &Word) -> String {
    format!("{}:{}", file.path, word.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(path: &str, text: &str) -> Vec<Rust> {
        vec![Rust::parse(&File::planted(path, text))]
    }

    #[test]
    fn a_client_library_outside_its_connector_is_found() {
        let text = "use sqlx::PgConnection;";
        assert_eq!(check_clients(&planted("connectors/sql/src/table.rs", text)).list().len(), 1);
        assert_eq!(
            check_clients(&planted("connectors/postgres/src/sink.rs", text)).list().len(),
            0
        );
        assert_eq!(check_clients(&planted("tests/src/lib.rs", text)).list().len(), 0);
        let text = "fn f() { x!(rdkafka_sys::rd_kafka_poll) }";
        assert_eq!(check_clients(&planted("framework/src/source.rs", text)).list().len(), 1);
    }

    #[test]
    fn unsafe_code_outside_its_module_is_found() {
        let text = "fn f() { unsafe { g() } }";
        assert_eq!(check_unsafe(&planted("connectors/kafka/src/thread.rs", text)).list().len(), 1);
        assert_eq!(
            check_unsafe(&planted("connectors/kafka/src/ffi/queue.rs", text)).list().len(),
            0
        );
    }

    #[test]
    fn a_crate_that_does_not_forbid_unsafe_code_is_found() {
        assert_eq!(check_unsafe(&planted("framework/src/lib.rs", "mod a;")).list().len(), 1);
        let text = "//! Doc.\n#![forbid(unsafe_code)]\nmod a;";
        assert_eq!(check_unsafe(&planted("framework/src/lib.rs", text)).list().len(), 0);
    }

    #[test]
    fn banned_words_are_found_where_they_are_banned() {
        let found = |path, text| check_banned(&planted(path, text)).list().len();
        assert_eq!(found("tests/src/lib.rs", "fn f() { todo!() }"), 1);
        assert_eq!(found("framework/src/a.rs", "fn f() { let x = std::dbg!(1); }"), 1);
        assert_eq!(found("framework/src/a.rs", "fn f() { println!(\"x\"); }"), 1);
        assert_eq!(found("framework/src/a.rs", "#[test]\nfn f() { println!(\"x\"); }"), 0);
        assert_eq!(found("connectors/sql/benches/a.rs", "fn f() { println!(\"x\"); }"), 0);
        assert_eq!(found("cli/src/main.rs", "fn f() { println!(\"x\"); }"), 0);
        assert_eq!(found("tests/tests/a.rs", "#[test]\n#[ignore]\nfn f() {}"), 1);
        assert_eq!(
            found("tests/tests/a.rs", "#[test]\n#[ignore = \"takes an hour\"]\nfn f() {}"),
            0
        );
    }

    #[test]
    fn marks_of_a_merge_are_found() {
        let text = format!("a\n{} HEAD\nb\n", "<".repeat(7));
        let found = check_merge_marks(&[File::planted("a.md", &text)]);
        assert_eq!(found.list().len(), 1);
        assert!(found.list()[0].starts_with("a.md:2:"), "{:?}", found.list());
    }
}
