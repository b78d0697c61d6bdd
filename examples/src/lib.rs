//! Seed.
#![forbid(unsafe_code)]
