//! What must not compile, and that the messages say what to do.
//!
//! After a change of compiler or of wording: `TRYBUILD=overwrite cargo test -p tidegate --test
//! compile_fail`, and read what changed.

use std::process::Command;

/// The compiler whose messages are kept beside the cases. Every compiler words what surrounds our
/// sentences a little differently; that the cases do not compile is a doc test of
/// `Pipeline::exactly_once` on every compiler.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn a_broken_promise_does_not_compile_and_the_message_says_what_to_do() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc).arg("--version").output().expect("rustc built this test");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if !version.starts_with(COMPILER) && std::env::var_os("TRYBUILD").is_none() {
        println!("messages are compared with {COMPILER}x only, this is {version}");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
