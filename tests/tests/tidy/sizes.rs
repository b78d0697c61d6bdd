//! How long files and functions may get.

use super::findings::Findings;
use super::rust::Rust;

/// Lines of a file, its tests left out.
const FILE_LINES_MAX: usize = 400;
/// Lines of a function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Files that are not tests are short.
pub(crate) fn check_files(files: &[Rust]) -> Findings {
    let mut findings = Findings::default();
    for file in files.iter().filter(|file| !file.is_test_file()) {
        findings.look();
        if file.lines > FILE_LINES_MAX {
            findings.add(&file.path, format_args!("{} lines", file.lines));
        }
    }
    findings
}

/// Functions are short; tests may be longer, because they tell a story from top to bottom.
pub(crate) fn check_functions(files: &[Rust]) -> Findings {
    let mut findings = Findings::default();
    for file in files.iter().filter(|file| !file.is_test_file()) {
        for function in file.functions.iter().filter(|function| !file.is_test(function.line)) {
            findings.look();
            if function.lines > FUNCTION_LINES_MAX {
                let place = format_args!("{}:{}", file.path, function.line).to_string();
                findings
                    .add(place, format_args!("`{}` has {} lines", function.name, function.lines));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::repository::File;

    fn planted(path: &str, text: &str) -> Vec<Rust> {
        vec![Rust::parse(&File::planted(path, text))]
    }

    #[test]
    fn a_long_file_is_found_and_tests_do_not_count() {
        let long = "fn a() {}\n".repeat(401);
        assert_eq!(
            check_files(&planted("cli/src/a.rs", &long)).list(),
            ["cli/src/a.rs: 401 lines"]
        );
        let tested = format!(
            "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
            "fn a() {}\n".repeat(400),
            "\n".repeat(90)
        );
        assert_eq!(check_files(&planted("cli/src/a.rs", &tested)).list(), [""; 0]);
        assert_eq!(check_files(&planted("tests/tests/a.rs", &long)).looked_at(), 0);
    }

    #[test]
    fn a_long_function_is_found_wherever_it_stands() {
        let body = "    a();\n".repeat(69);
        for text in [
            format!("fn f() {{\n{body}}}\n"),
            format!("impl A {{\nfn f() {{\n{body}}}\n}}\n"),
            format!("trait A {{\nfn f() {{\n{body}}}\n}}\n"),
            format!("fn outer() {{ g(); }}\nmod a {{\nfn f() {{\n{body}}}\n}}\n"),
        ] {
            let found = check_functions(&planted("cli/src/a.rs", &text));
            assert_eq!(found.list().len(), 1, "{:?}", found.list());
            assert!(found.list()[0].contains("`f` has 71 lines"), "{:?}", found.list());
        }
        let short = format!("fn f() {{\n{}}}\n", "    a();\n".repeat(68));
        assert_eq!(check_functions(&planted("cli/src/a.rs", &short)).list(), [""; 0]);
        let test = format!("#[test]\nfn f() {{\n{body}}}\nfn g() {{}}\n");
        assert_eq!(check_functions(&planted("cli/src/a.rs", &test)).list(), [""; 0]);
    }
}
