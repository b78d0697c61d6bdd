//! The files of the repository, as paths relative to its root with `/`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::rust::Rust;

/// One text file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    /// A file that exists only in a check of a check.
    pub(crate) fn planted(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}

/// All text files of the workspace this test belongs to, read once for all checks.
static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let root = root();
    let paths = listed_by_git(&root).unwrap_or_else(|| walked(&root));
    let read = |path: String| {
        // What is not text, or was deleted and not committed yet, is of no interest.
        let text = std::fs::read_to_string(root.join(&path)).ok()?;
        Some(File { path, text })
    };
    paths.into_iter().filter_map(read).collect()
});

/// Every Rust file, parsed once for all checks.
static RUST: LazyLock<Vec<Rust>> =
    LazyLock::new(|| Rust::parse_all(files().iter().filter(|file| file.path.ends_with(".rs"))));

/// All text files of the workspace.
pub(crate) fn files() -> &'static [File] {
    &FILES
}

/// Every Rust file.
pub(crate) fn rust_files() -> &'static [Rust] {
    &RUST
}

/// One document, which must exist.
pub(crate) fn document(path: &str) -> &'static File {
    let found = files().iter().find(|file| file.path == path);
    found.unwrap_or_else(|| panic!("{path} is missing: write it"))
}

/// The folder above the one of this package.
fn root() -> PathBuf {
    // At run time if cargo says so, so that the same program can look at another checkout.
    let own = std::env::var("CARGO_MANIFEST_DIR");
    let own = PathBuf::from(own.unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned()));
    let root = own.parent().expect("the package lies in the workspace");
    assert!(root.join("Cargo.lock").exists(), "{} is no workspace", root.display());
    root.to_owned()
}

/// What git knows or would know after `git add`; `None` where there is no git.
fn listed_by_git(root: &Path) -> Option<BTreeSet<String>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()?;
    let text = String::from_utf8(listed.stdout).ok()?;
    let paths: BTreeSet<_> = text.split_terminator('\0').map(str::to_owned).collect();
    (listed.status.success() && !paths.is_empty()).then_some(paths)
}

/// Everything but build output and hidden files.
fn walked(root: &Path) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder was listed a moment ago") {
            let entry = entry.expect("a listed entry can be read");
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if let Ok(relative) = path.strip_prefix(root) {
                paths.insert(relative.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    paths
}

#[test]
fn a_walk_finds_what_git_lists() {
    let root = root();
    let walked = walked(&root);
    assert!(walked.contains("tests/tests/tidy.rs"), "{} files", walked.len());
    if let Some(listed) = listed_by_git(&root) {
        assert!(listed.contains("tests/tests/tidy.rs"), "{} files", listed.len());
    }
}
