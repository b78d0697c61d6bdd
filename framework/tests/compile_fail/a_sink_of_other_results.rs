use tidegate::prelude::*;
use tidegate::source::Source;

include!("common.inc");

fn job(source: impl Source, sink: Plain) -> Job<String> {
    Pipeline::new("texts")
        .from(source)
        .decode(Utf8)
        .map(|record| record.value.clone())
        .at_least_once(sink)
}

fn main() {}
