//! Writing: atomic with the offsets, fenced, refused, in doubt.
