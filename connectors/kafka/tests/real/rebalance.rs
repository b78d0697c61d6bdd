//! Two members of one group: hand-over, loss, positions across it.
