//! The promises, one function each: it returns if the sink keeps it and panics with what it found
//! if not.

mod data;
mod fences;
mod interruptions;
mod progress;

pub use data::{
    a_probe_leaves_nothing_behind, a_reader_never_sees_half,
    a_rejected_record_can_be_found_and_its_neighbours_commit, dead_letters_commit_with_the_batch,
};
pub use fences::{
    a_gap_is_refused, a_new_owner_fences_the_old, a_refused_commit_leaves_nothing,
    a_replay_is_refused, disjoint_owners_do_not_disturb_each_other,
};
pub use interruptions::{
    a_commit_cancelled_at_any_poll_is_all_or_nothing,
    a_commit_frozen_at_any_poll_stores_nothing_behind_its_heirs_back,
    a_severed_commit_is_told_truly_by_the_next_claim,
    an_open_transaction_is_settled_by_the_next_claim,
};
pub use progress::{
    a_seek_moves_progress_under_the_compare, a_start_is_stored_once,
    an_empty_batch_still_moves_progress, an_empty_store_claims_nothing,
    results_and_progress_appear_together,
};
