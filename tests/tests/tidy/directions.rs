//! Who may know whom inside the framework: docs/ARCHITECTURE.md, “Directions”, as a table.

use std::collections::BTreeMap;

use super::findings::Findings;
use super::rust::{Name, Rust};

/// A module, and what it may use besides itself and [`EVERYWHERE`]. `module::Item` allows one item: a plain value that
/// stands in a module which is otherwise out of reach.
type Row = (&'static str, &'static [&'static str]);

/// Errors and settings are the floor: everything may use them. A seeded bug may stand anywhere.
const EVERYWHERE: &[&str] = &["error", "settings", "mutant"];

/// Read from top to bottom: a module knows only modules above it.
const DIRECTIONS: &[Row] = &[
    ("error", &[]),
    ("settings", &[]),
    ("mutant", &[]),
    // The vocabulary.
    ("record", &[]),
    ("batch", &["record"]),
    // What connectors implement and users write.
    ("sink", &["record", "batch"]),
    ("source", &["record", "batch", "sink::TopicId"]),
    ("source_erased", &["source"]),
    ("process", &["record", "batch"]),
    ("decode", &["record", "batch"]),
    // Pure decisions. The core tells fates apart, so it uses the words for them, not the trait behind them.
    ("tracker", &["record", "batch"]),
    ("lanes", &["record", "batch"]),
    ("policy", &["record", "batch"]),
    ("engine/observe", &["record", "batch"]),
    ("engine/work", &["record", "batch", "process"]),
    (
        "engine/core",
        &[
            "record",
            "batch",
            "sink",
            "source",
            "process",
            "tracker",
            "lanes",
            "policy",
            "engine/observe",
            "engine/work",
            "delivery::Fate",
            "delivery::Guarantee",
            "delivery::Progress",
        ],
    ),
    // What acts.
    ("metrics", &["record", "batch", "delivery::Guarantee"]),
    ("delivery", &["record", "batch", "sink", "source", "process", "decode", "metrics"]),
    ("pool", &["record", "batch", "process", "engine/work", "engine/core", "metrics"]),
    (
        "engine",
        &[
            "record",
            "batch",
            "sink",
            "source",
            "source_erased",
            "process",
            "decode",
            "tracker",
            "lanes",
            "policy",
            "engine/observe",
            "engine/work",
            "engine/core",
            "metrics",
            "delivery",
            "pool",
        ],
    ),
    (
        "pipeline",
        &[
            "record",
            "batch",
            "sink",
            "source",
            "source_erased",
            "process",
            "decode",
            "policy",
            "engine/observe",
            "engine/work",
            "engine/core",
            "metrics",
            "delivery",
            "pool",
            "engine",
        ],
    ),
    (
        "testing",
        &[
            "record",
            "batch",
            "sink",
            "source",
            "source_erased",
            "process",
            "decode",
            "tracker",
            "lanes",
            "policy",
            "engine/observe",
            "engine/work",
            "engine/core",
            "metrics",
            "delivery",
            "pool",
            "engine",
            "pipeline",
        ],
    ),
];

/// Modules that take values and give values.
const PURE: &[&str] = &["tracker", "lanes", "policy", "engine/core"];

/// What does something, or knows the time, and therefore stays out of the pure modules.
const DOES_SOMETHING: &[&str] = &[
    "tokio",
    "futures",
    "tracing",
    "metrics",
    "rand",
    "crate::metrics",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::io",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "Instant",
    "SystemTime",
];

/// Keywords that have no place in a pure module.
const WAITS: &[&str] = &["async", "await"];

/// Every path of `framework/src` leads where the table allows.
pub(crate) fn check(files: &[Rust]) -> Findings {
    let mut findings = Findings::default();
    let exports = exports_of_the_root(files);
    for file in sources(files) {
        let Some(home) = home_of(file) else { continue };
        if !home.is_empty() && row_of(&home).is_none() {
            findings
                .add(&file.path, "this module is not in the table of directions: give it a row");
            continue;
        }
        for name in &file.names {
            let Some(target) = resolved(&home, name) else { continue };
            findings.look();
            if file.is_test(name.line) || target.is_empty() || home.is_empty() {
                continue;
            }
            // What the root exports is told by the module it comes from.
            let target = exports.get(&target[0]).unwrap_or(&target);
            if let Some(problem) = problem_with(&home, target) {
                findings.add(format_args!("{}:{}", file.path, name.line), problem);
            }
        }
    }
    findings
}

/// Nothing that acts is named in a pure module.
pub(crate) fn check_purity(files: &[Rust]) -> Findings {
    let mut findings = Findings::default();
    for file in sources(files) {
        let Some(home) = home_of(file) else { continue };
        if !row_of(&home).is_some_and(|(module, _)| PURE.contains(module)) {
            continue;
        }
        for name in file.names.iter().filter(|name| !file.is_test(name.line)) {
            findings.look();
            if let Some(word) = DOES_SOMETHING.iter().find(|word| leads_to(name, word)) {
                findings.add(
                    format_args!("{}:{}", file.path, name.line),
                    format_args!("`{word}` in a pure module"),
                );
            }
        }
        for word in file.words.iter().filter(|word| !file.is_test(word.line)) {
            if WAITS.contains(&word.text.as_str()) {
                findings.add(
                    format_args!("{}:{}", file.path, word.line),
                    format_args!("`{}` in a pure module", word.text),
                );
            }
        }
    }
    findings
}

/// The framework's own code, without its tests.
fn sources(files: &[Rust]) -> impl Iterator<Item = &Rust> {
    files.iter().filter(|file| file.path.starts_with("framework/src/") && !file.is_test_file())
}

/// The module a file is, from the root of the crate.
fn home_of(file: &Rust) -> Option<Vec<String>> {
    let path = file.path.strip_prefix("framework/src/")?.strip_suffix(".rs")?;
    let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
    if matches!(segments.last()?.as_str(), "mod" | "lib") {
        segments.pop();
    }
    Some(segments)
}

/// Items that `lib.rs` hands on, with the paths they come from.
fn exports_of_the_root(files: &[Rust]) -> BTreeMap<String, Vec<String>> {
    let root = files.iter().filter(|file| file.path == "framework/src/lib.rs");
    let names = root.flat_map(|file| &file.names).map(|name| {
        let path = name.segments.iter().skip_while(|segment| *segment == "crate");
        path.cloned().collect::<Vec<String>>()
    });
    let exported = names.filter(|path| path.len() > 1 && row_of(path).is_some());
    exported
        .chain(files.iter().flat_map(macros_of))
        .map(|path| (path[path.len() - 1].clone(), path))
        .collect()
}

/// An exported macro stands at the root, wherever it was written.
fn macros_of(file: &Rust) -> Vec<Vec<String>> {
    let Some(home) = home_of(file) else { return Vec::new() };
    let rules = file.words.windows(2).filter(|pair| pair[0].text == "macro_rules");
    rules.map(|pair| [home.clone(), vec![pair[1].text.clone()]].concat()).collect()
}

/// Where a path leads, from the root of the crate; `None` if it leaves the crate.
fn resolved(home: &[String], name: &Name) -> Option<Vec<String>> {
    let mut segments = name.segments.iter().peekable();
    let mut place: Vec<String> = match segments.peek()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" if name.segments.len() > 1 => {
            home.iter().chain(&name.inside).cloned().collect()
        }
        _ => return None,
    };
    while let Some(segment) =
        segments.next_if(|segment| matches!(segment.as_str(), "crate" | "self" | "super"))
    {
        if segment == "super" {
            place.pop();
        }
    }
    place.extend(segments.cloned());
    Some(place)
}

/// The row of the longest module that holds this path.
fn row_of(path: &[String]) -> Option<&'static Row> {
    let held_by = |row: &&Row| {
        let depth = row.0.split('/').count();
        path.len() >= depth && path[..depth].join("/") == row.0
    };
    DIRECTIONS.iter().filter(held_by).max_by_key(|(module, _)| module.len())
}

fn problem_with(home: &[String], target: &[String]) -> Option<String> {
    let (own, allowed) = row_of(home)?;
    let Some((module, _)) = row_of(target) else {
        return Some(format!("names `{}`, which is in no module of the table", target.join("::")));
    };
    let item = target.get(module.split('/').count());
    let allowed_item = item.map(|item| format!("{module}::{item}"));
    let is_allowed = module == own
        || EVERYWHERE.contains(module)
        || allowed.contains(module)
        || allowed_item.is_some_and(|item| allowed.contains(&item.as_str()));
    (!is_allowed).then(|| format!("`{own}` must not use `{}`", target.join("::")))
}

/// Whether a path goes through `word`: `std::thread` at its beginning; a single word anywhere in a longer path.
fn leads_to(name: &Name, word: &str) -> bool {
    let path = name.segments.join("::");
    if word.contains("::") {
        return path == word || path.starts_with(&format!("{word}::"));
    }
    let is_type = word.starts_with(char::is_uppercase);
    match is_type {
        true => name.segments.iter().any(|segment| segment == word),
        false => name.segments.len() > 1 && name.segments[0] == word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::repository::File;

    fn planted(path: &str, text: &str) -> Vec<Rust> {
        vec![Rust::parse(&File::planted(path, text))]
    }

    #[test]
    fn a_module_that_uses_one_above_it_is_found_however_it_is_written() {
        for text in [
            "use crate::pipeline::Job;",
            "use crate::{record::Offset, engine::{Engine, core::Core}};",
            "use super::engine;\nfn f() { super::engine::run() }",
            "fn f() -> crate::pool::Pool { todo() }",
            "fn f() { say!(crate::delivery::Delivery) }",
        ] {
            let found = check(&planted("framework/src/tracker.rs", text));
            assert!(!found.list().is_empty(), "not found: {text}");
            assert!(found.list()[0].starts_with("framework/src/tracker.rs:"), "{:?}", found.list());
        }
    }

    #[test]
    fn what_the_table_allows_passes() {
        let text = "use crate::record::Offset;\nuse crate::batch::{Outcome, Span};\nuse crate::error::Error;\n\
                    #[cfg(test)]\nmod tests { use super::*; use crate::testing::Broker; }";
        let found = check(&planted("framework/src/tracker.rs", text));
        assert_eq!(found.list(), [""; 0]);
        assert!(found.looked_at() >= 4);
    }

    #[test]
    fn one_item_can_be_allowed_without_its_module() {
        let core = "framework/src/engine/core/fate.rs";
        assert_eq!(check(&planted(core, "use crate::delivery::Fate;")).list(), [""; 0]);
        assert_eq!(check(&planted(core, "use crate::delivery::Delivery;")).list().len(), 1);
        assert_eq!(check(&planted(core, "use crate::delivery::*;")).list().len(), 1);
    }

    #[test]
    fn a_module_without_a_row_is_found() {
        assert_eq!(check(&planted("framework/src/helpers.rs", "use std::fmt;")).list().len(), 1);
        assert_eq!(
            check(&planted("framework/src/pool/mod.rs", "use crate::Nowhere;")).list().len(),
            1
        );
    }

    #[test]
    fn the_root_of_the_crate_is_no_way_around_the_table() {
        let root = "mod error;\nmod pipeline;\npub use error::Error;\npub use crate::pipeline::{Job, Pipeline};";
        let found = |text| {
            let mut files = planted("framework/src/lib.rs", root);
            files.extend(planted("framework/src/pool/mod.rs", text));
            check(&files).list().to_vec()
        };
        assert_eq!(found("use crate::Error;"), [""; 0]);
        assert_eq!(
            found("use crate::{Error, Job};"),
            ["framework/src/pool/mod.rs:1: `pool` must not use `pipeline::Job`"]
        );
    }

    #[test]
    fn a_macro_at_the_root_belongs_to_the_module_it_is_written_in() {
        let rules = "#[macro_export]\nmacro_rules! promise { () => { $crate::other!() } }\n\
                     macro_rules! other { () => {} }";
        let mut files = planted("framework/src/testing/kit.rs", rules);
        assert_eq!(check(&files).list(), [""; 0]);
        files.extend(planted("framework/src/sink.rs", "fn f() { crate::promise!() }"));
        let found = "framework/src/sink.rs:1: `sink` must not use `testing::kit::promise`";
        assert_eq!(check(&files).list(), [found]);
    }

    #[test]
    fn what_acts_in_a_pure_module_is_found() {
        for text in [
            "use std::time::{Duration, Instant};",
            "fn f() { std::thread::sleep(w) }",
            "fn f() { tracing::info!(\"x\") }",
            "async fn f() {}",
            "use tokio::sync::mpsc;",
            "use crate::metrics::Meter;",
        ] {
            let found = check_purity(&planted("framework/src/engine/core/mod.rs", text));
            assert_eq!(found.list().len(), 1, "{text}: {:?}", found.list());
        }
        let fine = "use std::time::Duration;\nfn f(metrics: u32, thread: u32) -> u32 { metrics.add(thread) }";
        assert_eq!(check_purity(&planted("framework/src/lanes.rs", fine)).list(), [""; 0]);
    }

    #[test]
    fn the_table_itself_has_one_direction() {
        for (at, (module, allowed)) in DIRECTIONS.iter().enumerate() {
            for used in *allowed {
                let Some(place) = DIRECTIONS.iter().position(|(other, _)| other == used) else {
                    assert!(used.contains("::"), "{module} may use {used}, which has no row");
                    continue;
                };
                assert!(place < at, "{module} may use {used}, which stands below it");
            }
        }
    }
}
