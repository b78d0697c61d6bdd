//! A Rust file as the checks see it: words, paths, literals, functions, and which lines are tests.
//!
//! Words and paths come from the tokens, so that comments say what they like and macros are seen too; functions come
//! from the syntax tree.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use syn::visit::Visit;

use super::builders;
use super::repository::File;

/// A parsed file.
pub(crate) struct Rust {
    /// Relative to the root of the repository.
    pub(crate) path: String,
    /// Identifiers and keywords.
    pub(crate) words: Vec<Word>,
    /// `a::b::c`, groups of `use` resolved into one path each.
    pub(crate) names: Vec<Name>,
    /// String literals without their quotes, documentation left out.
    pub(crate) literals: Vec<Word>,
    pub(crate) functions: Vec<Function>,
    /// Names of called macros.
    pub(crate) macros: Vec<Word>,
    /// `#[ignore]` without a reason.
    pub(crate) ignored: Vec<Word>,
    /// Settings of builders, with the builder's name.
    pub(crate) settings: BTreeSet<(String, String)>,
    /// Lines, with tests left out.
    pub(crate) lines: usize,
    test_lines: Vec<RangeInclusive<usize>>,
    /// Modules in files of their own that are compiled for tests only.
    test_modules: Vec<String>,
    is_test_module: bool,
}

/// A word and where it stands.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Word {
    fn of(ident: &proc_macro2::Ident) -> Self {
        Self { text: ident.to_string(), line: ident.span().start().line }
    }
}

/// A path as it is written, and the inline modules around it.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    pub(crate) inside: Vec<String>,
}

/// A function with a body.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// From `fn` to the closing brace.
    pub(crate) lines: usize,
}

impl Rust {
    /// Parses files that belong together: a module declared behind `#[cfg(test)]` is a test wherever its file lies.
    pub(crate) fn parse_all<'a>(files: impl Iterator<Item = &'a File>) -> Vec<Self> {
        let mut parsed: Vec<Self> = files.map(Self::parse).collect();
        let tests: Vec<String> = parsed.iter().flat_map(Self::files_of_test_modules).collect();
        for file in &mut parsed {
            file.is_test_module = tests.contains(&file.path);
        }
        parsed
    }

    fn files_of_test_modules(&self) -> impl Iterator<Item = String> {
        let stem = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let is_folder = |name: &&str| ["/mod", "/lib", "/main"].contains(name);
        let last = stem.rfind('/').map_or("", |slash| &stem[slash..]);
        let folder = if is_folder(&last) { &stem[..stem.len() - last.len()] } else { stem };
        let paths =
            |name: &String| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")];
        self.test_modules.iter().flat_map(paths).collect::<Vec<_>>().into_iter()
    }

    /// Parses a file, which must be Rust.
    pub(crate) fn parse(file: &File) -> Self {
        let path = &file.path;
        let tokens: TokenStream =
            file.text.parse().unwrap_or_else(|problem| panic!("{path} is not Rust: {problem}"));
        let syntax: syn::File = syn::parse2(tokens.clone())
            .unwrap_or_else(|problem| panic!("{path} is not Rust: {problem}"));
        let mut facts = Facts::default();
        facts.visit_file(&syntax);
        let mut rust = Self {
            path: path.clone(),
            words: Vec::new(),
            names: Vec::new(),
            literals: Vec::new(),
            functions: facts.functions,
            macros: facts.macros,
            ignored: facts.ignored,
            settings: builders::settings_of(&syntax),
            lines: 0,
            test_lines: Vec::new(),
            test_modules: Vec::new(),
            is_test_module: false,
        };
        Reader { rust: &mut rust, inside: Vec::new() }.read(tokens);
        let total = file.text.lines().count();
        rust.lines = (1..=total).filter(|line| !rust.is_test(*line)).count();
        rust
    }

    /// Whether this line belongs to a test or to a module of tests.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// Whether the whole file is compiled for tests only.
    pub(crate) fn is_test_file(&self) -> bool {
        let name = self.path.rsplit('/').next().expect("split yields at least one part");
        self.is_test_module
            || self.path.contains("/tests/")
            || name == "tests.rs"
            || name.ends_with("_tests.rs")
    }
}

/// Reads tokens into words, paths, literals and lines of tests.
struct Reader<'a> {
    rust: &'a mut Rust,
    inside: Vec<String>,
}

impl Reader<'_> {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        // The line of an attribute that makes the next item a test.
        let mut test_from = None;
        while at < tokens.len() {
            if let Some((attribute, after)) = attribute(&tokens, at) {
                if is_test(&attribute) {
                    test_from.get_or_insert(line(&tokens[at]));
                }
                if first_word(&attribute).as_deref() != Some("doc") {
                    self.read(attribute.stream());
                }
                at = after;
                continue;
            }
            let after = self.take(&tokens, at);
            let end = tokens[at..after].iter().find_map(end_of_item);
            if let (Some(from), Some(to)) = (test_from, end) {
                self.rust.test_lines.push(from..=to);
                self.rust.test_modules.extend(declared_module(&tokens[..after]));
                test_from = None;
            }
            at = after;
        }
    }

    /// Takes one token, or a path of several; answers where the next one is.
    fn take(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        match &tokens[at] {
            TokenTree::Ident(word) if word == "mod" => self.module(tokens, at),
            TokenTree::Ident(_) => self.path(tokens, at, &[]),
            TokenTree::Group(group) => {
                self.read(group.stream());
                at + 1
            }
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                if let Some(text) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
                    let (text, line) = (text.to_owned(), line(&tokens[at]));
                    self.rust.literals.push(Word { text, line });
                }
                at + 1
            }
            TokenTree::Punct(_) => at + 1,
        }
    }

    fn module(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        self.word(&tokens[at]);
        let Some(TokenTree::Group(body)) = tokens.get(at + 2) else {
            return at + 1;
        };
        self.inside.push(tokens[at + 1].to_string());
        if let Some(end) = inner_test(body) {
            self.rust.test_lines.push(line(&tokens[at])..=end);
        }
        self.read(body.stream());
        self.inside.pop();
        at + 2 + 1
    }

    /// A path from here on, behind `before`; `a::{b, c::d}` becomes two.
    fn path(&mut self, tokens: &[TokenTree], mut at: usize, before: &[String]) -> usize {
        let mut segments = before.to_vec();
        let first = line(&tokens[at]);
        while let Some(TokenTree::Ident(_)) = tokens.get(at) {
            self.word(&tokens[at]);
            segments.push(tokens[at].to_string());
            at += 1;
            if !is_path_separator(tokens, at) {
                break;
            }
            if let Some(TokenTree::Group(group)) = tokens.get(at + 2)
                && group.delimiter() == Delimiter::Brace
            {
                self.branches(group, &segments);
                return at + 2 + 1;
            }
            at += 2;
        }
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        self.rust.names.push(Name { segments, line: first, inside: self.inside.clone() });
        at
    }

    fn branches(&mut self, group: &Group, before: &[String]) {
        let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
        for branch in
            tokens.split(|token| matches!(token, TokenTree::Punct(p) if p.as_char() == ','))
        {
            match branch.first() {
                Some(TokenTree::Ident(_)) => {
                    self.path(branch, 0, before);
                }
                // `a::*` names whatever is in `a`.
                Some(star) => {
                    let (segments, inside) = (before.to_vec(), self.inside.clone());
                    self.rust.names.push(Name { segments, line: line(star), inside });
                }
                None => {}
            }
        }
    }

    fn word(&mut self, token: &TokenTree) {
        let (text, line) = (token.to_string(), line(token));
        self.rust.words.push(Word { text, line });
    }
}

fn line(token: &TokenTree) -> usize {
    token.span().start().line
}

/// `::` at this place.
fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(at) && colon(at + 1)
}

/// The brackets of an attribute of the next item, and where the tokens behind it begin.
fn attribute(tokens: &[TokenTree], at: usize) -> Option<(Group, usize)> {
    let punct = |at, c| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == c);
    if !punct(at, '#') {
        return None;
    }
    let brackets = if punct(at + 1, '!') { at + 2 } else { at + 1 };
    match tokens.get(brackets) {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            Some((group.clone(), brackets + 1))
        }
        _ => None,
    }
}

fn first_word(group: &Group) -> Option<String> {
    group.stream().into_iter().next().map(|token| token.to_string())
}

/// `cfg(test)`, `test` or `runtime::test` with or without arguments.
fn is_test(attribute: &Group) -> bool {
    let text: String = attribute.stream().into_iter().map(|token| token.to_string()).collect();
    let name = text.split('(').next().unwrap_or_default();
    text == "cfg(test)" || name == "test" || name.ends_with("::test")
}

/// The last line of a module that opens with `#![cfg(test)]`.
fn inner_test(body: &Group) -> Option<usize> {
    let tokens: Vec<TokenTree> = body.stream().into_iter().collect();
    let (attribute, _) = attribute(&tokens, 0)?;
    is_test(&attribute).then(|| body.span_close().end().line)
}

/// An item ends with its braces or with a semicolon.
fn end_of_item(token: &TokenTree) -> Option<usize> {
    match token {
        TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => {
            Some(body.span_close().end().line)
        }
        TokenTree::Punct(end) if end.as_char() == ';' => Some(end.span().end().line),
        _ => None,
    }
}

/// The name in `mod name;` at the end of these tokens.
fn declared_module(tokens: &[TokenTree]) -> Option<String> {
    match tokens {
        [.., TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Punct(_)]
            if word == "mod" =>
        {
            Some(name.to_string())
        }
        _ => None,
    }
}

/// What only the syntax tree shows. The tree itself is not kept: it cannot go to another thread.
#[derive(Default)]
struct Facts {
    functions: Vec<Function>,
    macros: Vec<Word>,
    ignored: Vec<Word>,
}

impl Facts {
    fn add(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let from = signature.fn_token.span.start().line;
        let to = body.brace_token.span.close().end().line;
        let name = signature.ident.to_string();
        self.functions.push(Function { name, line: from, lines: to - from + 1 });
    }
}

impl Visit<'_> for Facts {
    fn visit_item_fn(&mut self, function: &syn::ItemFn) {
        self.add(&function.sig, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.add(&function.sig, body);
        }
        syn::visit::visit_trait_item_fn(self, function);
    }

    fn visit_macro(&mut self, called: &syn::Macro) {
        self.macros.extend(called.path.segments.last().map(|last| Word::of(&last.ident)));
    }

    fn visit_attribute(&mut self, attribute: &syn::Attribute) {
        if let syn::Meta::Path(path) = &attribute.meta {
            self.ignored.extend(path.get_ident().filter(|name| *name == "ignore").map(Word::of));
        }
    }
}

#[test]
fn paths_are_found_in_uses_in_code_and_in_macros() {
    let text = "use a::{b::{self, c as d}, e::*};\nfn f() { x!(g::h::<i::J>(k.l)); }";
    let rust = Rust::parse(&File::planted("x.rs", text));
    let names: Vec<_> = rust.names.iter().map(|name| name.segments.join("::")).collect();
    for name in ["a::b", "a::b::c", "a::e", "g::h", "i::J"] {
        assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
    }
}

#[test]
fn lines_of_tests_are_told_from_the_others() {
    let text =
        "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\n#[test]\nfn c() {\n}\nfn d() {}\n";
    let rust = Rust::parse(&File::planted("x.rs", text));
    let tests: Vec<_> = (1..=9).filter(|line| rust.is_test(*line)).collect();
    assert_eq!(tests, [2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(rust.lines, 2);
}

#[test]
fn the_file_of_a_module_for_tests_is_a_test() {
    let files = [
        File::planted("a/src/pool/mod.rs", "mod bell;\n#[cfg(test)]\nmod measure;"),
        File::planted("a/src/pool/measure.rs", "fn f() {}"),
        File::planted("a/src/pool/bell.rs", "#[cfg(test)]\nmod rings;"),
        File::planted("a/src/pool/bell/rings/mod.rs", "fn f() {}"),
    ];
    let parsed = Rust::parse_all(files.iter());
    let tests: Vec<_> =
        parsed.iter().filter(|file| file.is_test_file()).map(|file| file.path.as_str()).collect();
    assert_eq!(tests, ["a/src/pool/measure.rs", "a/src/pool/bell/rings/mod.rs"]);
}

#[test]
fn comments_are_no_words() {
    let rust = Rust::parse(&File::planted("x.rs", "//! sqlx\n/// rdkafka\nfn f() { /* todo */ }"));
    let words: Vec<_> = rust.words.iter().map(|word| word.text.as_str()).collect();
    assert_eq!(words, ["fn", "f"]);
    assert!(rust.literals.is_empty());
}
