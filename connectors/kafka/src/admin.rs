//! What an operator asks of a cluster: offsets of groups, ends of logs, and setting offsets.
