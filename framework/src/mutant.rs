//! Bugs seeded on purpose, one at a time, to show that the tests find them: `scripts/mutants`.

/// Whether this seeded bug is the one that `TIDEGATE_MUTANT` names.
#[cfg(feature = "mutants")]
pub fn is(id: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("TIDEGATE_MUTANT").ok()).as_deref() == Some(id)
}

/// Without the feature `mutants` no bug is seeded, and what asks compiles to nothing.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: &str) -> bool {
    false
}
