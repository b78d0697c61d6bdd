//! Settings: the public methods of builders, each of which the operations page must explain.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{FnArg, ImplItem, ReturnType, Type, Visibility};

use super::findings::Findings;
use super::repository::File;
use super::rust::Rust;

/// Where builders stand.
const FOLDERS: &[&str] =
    &["framework/src/pipeline/settings.rs", "framework/src/policy.rs", "connectors/"];

/// Types with methods of the same shape that set nothing: values and results.
const NO_BUILDERS: &[&str] = &[
    "Message", // a message to write: its parts
    "Failure", // how a step ended
];

/// Every setting is named in the document in backticks, with or without its arguments.
pub(crate) fn check(files: &[Rust], document: &File) -> Findings {
    let mut findings = Findings::default();
    for file in files.iter().filter(|file| is_place_of_builders(file)) {
        for (builder, setting) in &file.settings {
            findings.look();
            let named = [format!("`{setting}`"), format!("`{setting}("), format!("`.{setting}(")];
            if !named.iter().any(|name| document.text.contains(name)) {
                let place = format!("{} `{builder}::{setting}`", file.path);
                findings.add(place, format_args!("not in {}", document.path));
            }
        }
    }
    findings
}

fn is_place_of_builders(file: &Rust) -> bool {
    !file.is_test_file() && FOLDERS.iter().any(|folder| file.path.starts_with(folder))
}

/// `pub fn name(self, …) -> Self` in the file, with the type it belongs to, or with `macro` if a macro writes it.
pub(crate) fn settings_of(syntax: &syn::File) -> BTreeSet<(String, String)> {
    struct Found(BTreeSet<(String, String)>);
    impl syn::visit::Visit<'_> for Found {
        fn visit_macro(&mut self, written: &syn::Macro) {
            let mut names = BTreeSet::new();
            settings_in_macro(written.tokens.clone(), &mut names);
            self.0.extend(names.into_iter().map(|name| ("macro".to_owned(), name)));
        }

        fn visit_item_impl(&mut self, block: &syn::ItemImpl) {
            let Some(builder) =
                name_of(&block.self_ty).filter(|name| !NO_BUILDERS.contains(&name.as_str()))
            else {
                return;
            };
            if block.trait_.is_some() {
                return;
            }
            for item in &block.items {
                if let ImplItem::Fn(method) = item
                    && matches!(method.vis, Visibility::Public(_))
                    && takes_itself(&method.sig)
                    && gives_itself_back(&method.sig, &builder)
                {
                    self.0.insert((builder.clone(), method.sig.ident.to_string()));
                }
            }
        }
    }
    let mut found = Found(BTreeSet::new());
    syn::visit::Visit::visit_file(&mut found, syntax);
    found.0
}

/// The same in the text of a macro, where nothing but tokens is known.
fn settings_in_macro(tokens: TokenStream, names: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.to_string() == text);
    for (at, token) in tokens.iter().enumerate() {
        if let TokenTree::Group(group) = token {
            settings_in_macro(group.stream(), names);
        }
        let (true, true, Some(TokenTree::Ident(name))) =
            (is(at, "pub"), is(at + 1, "fn"), tokens.get(at + 2))
        else {
            continue;
        };
        let is_arguments = |token: &TokenTree| matches!(token, TokenTree::Group(g) if g.delimiter() == Delimiter::Parenthesis);
        let Some(arguments) = tokens[at..].iter().position(is_arguments).map(|behind| at + behind)
        else {
            continue;
        };
        let TokenTree::Group(group) = &tokens[arguments] else { continue };
        let first: Vec<String> =
            group.stream().into_iter().take(2).map(|token| token.to_string()).collect();
        let takes_itself = matches!(first.first().map(String::as_str), Some("self"))
            || (first.len() == 2 && first[0] == "mut" && first[1] == "self");
        if takes_itself && is(arguments + 1, "-") && is(arguments + 3, "Self") {
            names.insert(name.to_string());
        }
    }
}

fn takes_itself(signature: &syn::Signature) -> bool {
    matches!(signature.inputs.first(), Some(FnArg::Receiver(receiver)) if receiver.reference.is_none())
}

fn gives_itself_back(signature: &syn::Signature, builder: &str) -> bool {
    match &signature.output {
        ReturnType::Type(_, given) => {
            name_of(given).is_some_and(|name| name == "Self" || name == builder)
        }
        ReturnType::Default => false,
    }
}

/// The last segment of a type's path.
fn name_of(given: &Type) -> Option<String> {
    match given {
        Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILDER: &str = "impl<S> Pipeline<S> {\n\
        pub fn drain_max(mut self, longest: Duration) -> Self { self }\n\
        pub fn threads(mut self, threads: usize) -> Pipeline<S> { self }\n\
        pub(crate) fn inner(self) -> Self { self }\n\
        pub fn name(&self) -> &str { \"\" }\n\
        pub fn run(self) -> Handle { x }\n}\n\
        impl Message { pub fn key(self) -> Self { self } }\n";

    #[test]
    fn settings_that_the_document_does_not_name_are_found() {
        let files = [Rust::parse(&File::planted("framework/src/pipeline/settings.rs", BUILDER))];
        let document = File::planted("docs/OPERATIONS.md", "| `drain_max(time)` | how long |");
        let found = check(&files, &document);
        assert_eq!(found.looked_at(), 2);
        assert_eq!(
            found.list(),
            ["framework/src/pipeline/settings.rs `Pipeline::threads`: not in docs/OPERATIONS.md"]
        );
    }

    #[test]
    fn settings_that_a_macro_writes_are_found() {
        let text = "macro_rules! sink { ($sink:ident) => { impl<O> $sink<O> {\n\
                    pub fn into(mut self, table: Table<O>) -> Self { self }\n\
                    pub fn write_with<F>(mut self, write: F) -> Self where F: Fn(u8) -> u8 { self }\n\
                    pub fn $name(self) -> Self { self }\n\
                    pub fn name(&self) -> &str { \"\" }\n} } }";
        let files = [Rust::parse(&File::planted("connectors/sql/src/sink.rs", text))];
        let found = check(&files, &File::planted("docs/OPERATIONS.md", "`into(table)`"));
        assert_eq!(found.looked_at(), 2);
        assert_eq!(
            found.list(),
            ["connectors/sql/src/sink.rs `macro::write_with`: not in docs/OPERATIONS.md"]
        );
    }

    #[test]
    fn a_word_in_passing_does_not_count_as_an_explanation() {
        let files = [Rust::parse(&File::planted("connectors/kafka/src/a.rs", BUILDER))];
        let document = File::planted("docs/OPERATIONS.md", "threads and drain_max");
        assert_eq!(check(&files, &document).list().len(), 2);
    }
}
