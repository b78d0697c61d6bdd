use tidegate::prelude::*;

fn main() {
    let _ = Pipeline::new("texts").from("localhost:9092");
}
