use tidegate::prelude::*;
use tidegate::source::Source;

include!("common.inc");

fn job(source: impl Source, sink: Plain) -> Job<usize> {
    Pipeline::new("lengths")
        .from(source)
        .decode(Utf8)
        .map(|record| record.value.len())
        .exactly_once(sink)
}

fn main() {}
