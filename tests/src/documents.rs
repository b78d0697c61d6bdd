//! Programs in the documents are compiled, and run unless they say otherwise, as doc tests of this crate.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../docs/OPERATIONS.md")]
struct Operations;

#[cfg(doctest)]
#[doc = include_str!("../../docs/WRITING_A_SINK.md")]
struct WritingASink;
