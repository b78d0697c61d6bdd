//! Which crate may depend on which.

use super::findings::Findings;
use super::repository::File;
use super::rust::Rust;
use super::words::{CLIENTS, TOOLS, is_below};

/// A crate's folder, and the crates of this workspace it may know, itself included. Crates not listed may know all.
const CRATES: &[(&str, &[&str])] = &[
    ("framework/", &["tidegate"]),
    ("connectors/kafka/", &["tidegate", "tidegate-kafka"]),
    ("connectors/sql/", &["tidegate", "tidegate-sql"]),
    ("connectors/postgres/", &["tidegate", "tidegate-sql", "tidegate-postgres"]),
    ("connectors/sqlite/", &["tidegate", "tidegate-sql", "tidegate-sqlite"]),
    (
        "cli/",
        // The servers of the tests are a dev-dependency: the program itself does not know them.
        &[
            "tidegate",
            "tidegate-kafka",
            "tidegate-sql",
            "tidegate-postgres",
            "tidegate-sqlite",
            "tidegate-tests",
        ],
    ),
];

/// The crates of this workspace, as they are named in a manifest.
const MEMBERS: &[&str] = &[
    "tidegate",
    "tidegate-kafka",
    "tidegate-sql",
    "tidegate-postgres",
    "tidegate-sqlite",
    "tidegate-cli",
    "tidegate-examples",
    "tidegate-tests",
    "tidegate-benches",
];

/// The manifests among the files.
fn manifests(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with("Cargo.toml"))
}

/// Manifests depend only on the crates the table allows.
pub(crate) fn check_directions(files: &[File]) -> Findings {
    let mut findings = Findings::default();
    for manifest in manifests(files) {
        let Some(allowed) = allowed_for(&manifest.path) else { continue };
        for (line, name) in dependencies(&manifest.text) {
            findings.look();
            if MEMBERS.contains(&name) && !allowed.contains(&name) {
                findings.add(
                    format_args!("{}:{line}", manifest.path),
                    format_args!("depends on `{name}`"),
                );
            }
        }
    }
    findings
}

/// Code names only the crates the table allows.
pub(crate) fn check_uses(files: &[Rust]) -> Findings {
    let mut findings = Findings::default();
    for file in files {
        let Some(allowed) = allowed_for(&file.path) else { continue };
        for word in &file.words {
            findings.look();
            let name = word.text.replace('_', "-");
            if name.contains('-')
                && MEMBERS.contains(&name.as_str())
                && !allowed.contains(&name.as_str())
            {
                findings.add(
                    format_args!("{}:{}", file.path, word.line),
                    format_args!("names `{}`", word.text),
                );
            }
        }
    }
    findings
}

/// Client libraries are dependencies of their connectors and of the tools only.
pub(crate) fn check_clients(files: &[File]) -> Findings {
    let mut findings = Findings::default();
    for manifest in manifests(files) {
        for (line, name) in dependencies(&manifest.text) {
            findings.look();
            let name = name.replace('-', "_");
            let client = CLIENTS.iter().find(|(client, _)| *client == name);
            if client.is_some_and(|(_, homes)| {
                !is_below(&manifest.path, homes) && !is_below(&manifest.path, TOOLS)
            }) {
                findings.add(
                    format_args!("{}:{line}", manifest.path),
                    format_args!("depends on `{name}`"),
                );
            }
        }
    }
    findings
}

fn allowed_for(path: &str) -> Option<&'static [&'static str]> {
    CRATES.iter().find(|(folder, _)| path.starts_with(folder)).map(|(_, allowed)| *allowed)
}

/// The names in the tables of dependencies of a crate, with their lines. What the workspace lists for its members to
/// choose from is no dependency.
fn dependencies(manifest: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut inside = false;
    for (at, line) in manifest.lines().enumerate() {
        if let Some(table) = line.trim().strip_prefix('[') {
            let table = table.trim_end_matches(']').trim_end();
            inside = !table.starts_with("workspace") && table.ends_with("dependencies");
            // `[dependencies.name]` is a dependency written as a table.
            if let Some((_, name)) = table.split_once("dependencies.") {
                found.push((at + 1, name));
            }
        } else if inside && !line.trim_start().starts_with('#') {
            let end = line.find(['.', '=', ' ']);
            found.extend(end.map(|end| (at + 1, line[..end].trim_matches('"'))));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[package]\nname = \"x\"\n[dependencies]\nbytes.workspace = true\n# sqlx.workspace = true\n\
                            tidegate-sqlite = { path = \"../sqlite\" }\n[dev-dependencies]\nsqlx = \"1\"\n\
                            [features]\ntls = []\n[target.x.dependencies.tidegate-kafka]\n";

    #[test]
    fn dependencies_are_read_from_every_table_of_them() {
        let names: Vec<_> = dependencies(MANIFEST).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["bytes", "tidegate-sqlite", "sqlx", "tidegate-kafka"]);
        assert_eq!(dependencies("[workspace.dependencies]\nsqlx = \"1\"\n"), []);
    }

    #[test]
    fn a_connector_that_depends_on_another_is_found() {
        let manifest = [File::planted("connectors/postgres/Cargo.toml", MANIFEST)];
        let found = check_directions(&manifest);
        assert_eq!(
            found.list(),
            [
                "connectors/postgres/Cargo.toml:6: depends on `tidegate-sqlite`",
                "connectors/postgres/Cargo.toml:11: depends on `tidegate-kafka`"
            ]
        );
        let rust = |path, text| [Rust::parse(&File::planted(path, text))];
        let text = "use tidegate_kafka::Kafka;";
        assert_eq!(check_uses(&rust("connectors/sqlite/src/sink.rs", text)).list().len(), 1);
        assert_eq!(check_uses(&rust("framework/src/pipeline/mod.rs", text)).list().len(), 1);
        assert_eq!(check_uses(&rust("cli/src/main.rs", text)).list().len(), 0);
    }

    #[test]
    fn a_client_library_as_a_dependency_outside_its_connector_is_found() {
        let found = check_clients(&[File::planted("connectors/sql/Cargo.toml", MANIFEST)]);
        assert_eq!(found.list(), ["connectors/sql/Cargo.toml:8: depends on `sqlx`"]);
    }
}
