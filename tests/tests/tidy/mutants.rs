//! Seeded bugs: each has its place and its check, and no build but that of `scripts/mutants` holds them.

use std::collections::{BTreeMap, BTreeSet};

use super::findings::Findings;
use super::repository::File;
use super::rust::Rust;

/// The bugs and their checks, and the script that reads it.
const TABLE: &str = "scripts/mutants.tsv";
const SCRIPT: &str = "scripts/mutants";

/// The feature that builds the bugs in.
const FEATURE: &str = "mutants";

/// How many bugs the list has: M01 and so on, without a gap.
const LAST: usize = 46;

/// The feature stands in no default, no dependency and no other feature, and nothing but the script turns it on.
pub(crate) fn check_feature(files: &[File]) -> Findings {
    let mut findings = Findings::default();
    for file in files {
        let is_manifest = file.path.ends_with("Cargo.toml");
        let is_code = file.path.ends_with(".rs") || file.path.ends_with(".md");
        if is_code || file.path == SCRIPT || file.path == TABLE {
            continue;
        }
        for (at, line) in file.text.lines().enumerate() {
            let own = is_manifest && line.starts_with("mutants = [");
            let named = line.contains("features") && line.contains(FEATURE);
            let enables = match is_manifest {
                true => {
                    named
                        || ["/", "\""]
                            .iter()
                            .any(|mark| line.contains(&format!("{mark}{FEATURE}\"")))
                }
                false => named || line.contains("--all-features"),
            };
            if own {
                findings.look();
            } else if enables && !line.trim_start().starts_with('#') {
                let place = format_args!("{}:{}", file.path, at + 1).to_string();
                findings.add(place, format_args!("turns on `{FEATURE}`: {}", line.trim()));
            }
        }
    }
    findings
}

/// Each bug of the list has a row; each row that applies has a place in the code and names a test that exists; each
/// place has a row.
pub(crate) fn check_table(files: &[File], rust: &[Rust]) -> Findings {
    let mut findings = Findings::default();
    let Some(table) = files.iter().find(|file| file.path == TABLE) else {
        return findings;
    };
    let words: BTreeSet<&str> =
        rust.iter().flat_map(|file| &file.words).map(|word| word.text.as_str()).collect();
    let places = places(files);
    let mut listed = BTreeSet::new();
    for (at, line) in table.text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        findings.look();
        let place = format_args!("{TABLE}:{}", at + 1).to_string();
        let columns: Vec<&str> = line.split('\t').collect();
        let id = columns[0];
        listed.insert(id.to_owned());
        match columns[1..] {
            [_, "-", reason] if !reason.is_empty() => {
                if places.contains_key(id) {
                    findings.add(place, format_args!("{id} does not apply and is seeded"));
                }
            }
            [_, _, _, test, needs, how] => {
                let name = test.rsplit("::").next().unwrap_or_default();
                if !words.contains(name) {
                    findings.add(&place, format_args!("`{name}` is no function"));
                }
                if !places.contains_key(id) {
                    findings.add(&place, format_args!("{id} is seeded nowhere"));
                }
                if !["none", "kafka", "postgres"].contains(&needs)
                    || !["assert", "time"].contains(&how)
                {
                    findings.add(&place, format_args!("{needs} or {how} is not known"));
                }
            }
            _ => findings.add(place, format_args!("{} columns", columns.len())),
        }
    }
    for (id, place) in places.iter().filter(|(id, _)| !listed.contains(*id)) {
        findings.add(place, format_args!("{id} has no check"));
    }
    let all = (1..=LAST).map(|number| format!("M{number:02}"));
    for id in all.filter(|id| !listed.contains(id)) {
        findings.add(TABLE, format_args!("{id} is missing"));
    }
    findings
}

/// Where each bug is seeded.
fn places(files: &[File]) -> BTreeMap<String, String> {
    let mut places = BTreeMap::new();
    let code = |file: &&File| file.path.ends_with(".rs") && file.path.contains("/src/");
    for file in files.iter().filter(code).filter(|file| !file.path.starts_with("tests/")) {
        for (at, line) in file.text.lines().enumerate() {
            for rest in line.split("mutant::is(\"").skip(1) {
                let id = rest.split('"').next().unwrap_or_default();
                places.insert(id.to_owned(), format!("{}:{}", file.path, at + 1));
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_or_a_script_that_turns_the_bugs_on_is_found() {
        let found = |path, text| check_feature(&[File::planted(path, text)]).list().len();
        assert_eq!(found("a/Cargo.toml", "[features]\nmutants = [\"tidegate/mutants\"]\n"), 0);
        assert_eq!(found("a/Cargo.toml", "default = [\"mutants\"]\n"), 1);
        assert_eq!(found("a/Cargo.toml", "tidegate = { features = [\"mutants\"] }\n"), 1);
        assert_eq!(found("a/Cargo.toml", "all = [\"tidegate/mutants\"]\n"), 1);
        assert_eq!(found("scripts/test", "cargo test --features tidegate/mutants\n"), 1);
        assert_eq!(found("scripts/test", "cargo test --all-features\n"), 1);
        assert_eq!(found("scripts/mutants", "cargo test --features tidegate/mutants\n"), 0);
    }

    #[test]
    fn a_row_without_a_place_or_a_test_and_a_place_without_a_row_are_found() {
        let code = "fn f() { if mutant::is(\"M01\") || mutant::is(\"M03\") {} }\nfn a_test() {}\n";
        let table = "M01\tb\tframework\tlib\tt::a_test\tnone\tassert\n\
                     M02\tb\tframework\tlib\tt::no_test\tnone\tassert\n";
        let files = [File::planted("framework/src/a.rs", code), File::planted(TABLE, table)];
        let found = check_table(&files, &[Rust::parse(&files[0])]);
        let found = found.list();
        assert!(found.contains(&format!("{TABLE}:2: `no_test` is no function")), "{found:?}");
        assert!(found.contains(&format!("{TABLE}:2: M02 is seeded nowhere")), "{found:?}");
        assert!(found.contains(&"framework/src/a.rs:1: M03 has no check".to_owned()), "{found:?}");
        assert!(found.contains(&format!("{TABLE}: M46 is missing")), "{found:?}");
        assert!(!found.iter().any(|line| line.contains(&format!("{TABLE}:1"))), "{found:?}");
    }
}
