//! The house rules that a machine can hold: who may know whom, how long things may get, which words stay away, what
//! the documents must name. Each rule is a table beside its check; each check says where, what, and what to do, and
//! fails if it found nothing to look at. Planted violations at the end of each module prove that it can fail.

// One folder for the checks, so that cargo takes none of them for a test of its own.
mod tidy {
    pub(crate) mod builders;
    pub(crate) mod changelog;
    pub(crate) mod directions;
    pub(crate) mod documents;
    pub(crate) mod findings;
    pub(crate) mod manifests;
    pub(crate) mod mutants;
    pub(crate) mod repository;
    pub(crate) mod rust;
    pub(crate) mod sizes;
    pub(crate) mod words;
}

use tidy::repository::{document, files, rust_files};
use tidy::{
    builders, changelog, directions, documents, manifests as crates, mutants, sizes, words,
};

#[test]
fn modules_of_the_framework_know_only_what_their_direction_allows() {
    directions::check(rust_files()).expect_none(
        "a module uses one it must not know",
        "move the item to a lower module, or pass a value in; the table is tests/tests/tidy/directions.rs",
    );
}

#[test]
fn the_pure_modules_have_no_clock_no_threads_no_io_and_no_logging() {
    directions::check_purity(rust_files()).expect_none(
        "a pure module does something itself",
        "take the value as an argument, or return an action for the engine's loop",
    );
}

#[test]
fn crates_depend_only_on_crates_below_them() {
    crates::check_directions(files()).expect_none(
        "a crate depends on one it must not know",
        "connectors know the framework and never each other; the framework knows nobody here",
    );
    crates::check_uses(rust_files()).expect_none(
        "a crate names one it must not know",
        "connectors know the framework and never each other; the framework knows nobody here",
    );
}

#[test]
fn a_client_library_is_named_only_in_its_connector() {
    crates::check_clients(files()).expect_none(
        "a client library is a dependency outside its connector",
        "go through the connector",
    );
    words::check_clients(rust_files())
        .expect_none("a client library is named outside its connector", "go through the connector");
}

#[test]
fn unsafe_code_stands_only_in_the_ffi_module_of_the_kafka_connector() {
    words::check_unsafe(rust_files()).expect_none(
        "unsafe code outside connectors/kafka/src/ffi",
        "write it safely; every crate but tidegate-kafka opens with #![forbid(unsafe_code)]",
    );
}

#[test]
fn no_library_holds_words_of_unfinished_work() {
    words::check_banned(rust_files()).expect_none(
        "a banned word",
        "finish it, return an error, use tracing, or give the #[ignore] its reason",
    );
}

#[test]
fn no_file_holds_the_marks_of_a_merge() {
    words::check_merge_marks(files())
        .expect_none("a mark of an unfinished merge", "finish the merge");
}

#[test]
fn seeded_bugs_are_built_by_their_script_only() {
    mutants::check_feature(files()).expect_none(
        "the feature `mutants` is turned on outside scripts/mutants",
        "leave it out: it is for bugs on purpose",
    );
}

#[test]
fn every_seeded_bug_has_a_check_that_exists() {
    mutants::check_table(files(), rust_files()).expect_none(
        "the code and scripts/mutants.tsv disagree about a seeded bug",
        "give it a row with the test that must fail, or take it out",
    );
}

#[test]
fn files_stay_short() {
    sizes::check_files(rust_files()).expect_none(
        "a file above 400 lines without tests",
        "split it by idea; a file is named by the idea it holds",
    );
}

#[test]
fn functions_fit_on_a_screen() {
    sizes::check_functions(rust_files()).expect_none(
        "a function above 70 lines",
        "let it hold the branching and give the leaves plain values",
    );
}

#[test]
fn every_metric_is_explained_in_the_operations_page() {
    documents::check_metrics(rust_files(), document("docs/OPERATIONS.md")).expect_none(
        "code and docs/OPERATIONS.md disagree about a metric",
        "name it in the section Metrics with kind, unit and meaning, or remove the line",
    );
}

#[test]
fn every_setting_is_explained_in_the_operations_page() {
    builders::check(rust_files(), document("docs/OPERATIONS.md")).expect_none(
        "a setting is missing in docs/OPERATIONS.md",
        "name it there in backticks with unit, default and reason",
    );
}

#[test]
fn every_test_that_the_documents_name_exists() {
    documents::check_named_tests(rust_files(), files()).expect_none(
        "a document names a test that nobody wrote",
        "write the test, or say that there is none yet and why",
    );
}

#[test]
fn links_between_documents_lead_somewhere() {
    documents::check_links(files()).expect_none(
        "a link to a file that does not exist",
        "mend the path, which is relative to the page",
    );
}

#[test]
fn files_that_the_documents_name_exist() {
    documents::check_named_files(files()).expect_none(
        "a document names a file that does not exist",
        "mend the path, which begins at the root of the repository",
    );
}

#[test]
fn the_documents_of_the_plan_exist() {
    documents::check_presence(files()).expect_none(
        "a document is missing or empty",
        "write it; the list is tests/tests/tidy/documents.rs",
    );
}

#[test]
fn the_changelog_has_the_form_people_and_tools_read() {
    changelog::check(document("CHANGELOG.md"))
        .expect_none("CHANGELOG.md is out of form", "see CONTRIBUTING.md, section Changelog");
}
