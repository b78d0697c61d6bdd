//! Programs in the documents are compiled, and run unless they say otherwise, as doc tests of this crate.
//! Those of docs/WRITING_A_SINK.md belong together; `framework/tests/journal.rs` is where they are tested.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../docs/OPERATIONS.md")]
struct Operations;
