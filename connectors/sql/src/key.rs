//! Bytes by which two rows of an upsert are the same row.
//!
//! Equal values give equal bytes, also where a type writes one value in two ways. Rows are sorted
//! by them, so that two writers lock the rows they share in the same order.

use rust_decimal::Decimal;

use crate::cell::Cell;

/// Appends one value of a key.
pub(crate) fn push(key: &mut Vec<u8>, cell: &Cell<'_>) {
    match cell {
        Cell::Bool(value) => key.push(u8::from(*value)),
        Cell::Int4(value) => key.extend(value.to_be_bytes()),
        Cell::Int8(value) => key.extend(value.to_be_bytes()),
        Cell::Float8(value) => key.extend(canonical(*value).to_be_bytes()),
        Cell::Numeric(value) => {
            let value: Decimal = value.normalize();
            key.extend(value.serialize());
        }
        Cell::Text(value) => push_bytes(key, value.as_bytes()),
        Cell::Bytea(value) => push_bytes(key, value),
        // Databases keep microseconds; nanoseconds beyond them are the same row.
        Cell::Timestamptz(value) => key.extend(value.timestamp_micros().to_be_bytes()),
        Cell::Uuid(value) => key.extend(value.as_bytes()),
        other => unreachable!("{other:?} was refused as a key when the table was checked"),
    }
}

/// The length first, so that no two keys of several parts run into each other.
fn push_bytes(key: &mut Vec<u8>, bytes: &[u8]) {
    key.extend((bytes.len() as u64).to_be_bytes());
    key.extend(bytes);
}

/// The two zeros are equal, and so are all NaNs in an index.
fn canonical(value: f64) -> u64 {
    if value == 0.0 {
        0
    } else if value.is_nan() {
        f64::NAN.to_bits()
    } else {
        value.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(cells: &[Cell<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        cells.iter().for_each(|cell| push(&mut bytes, cell));
        bytes
    }

    #[test]
    fn equal_values_written_differently_are_one_key() {
        let decimal = |text: &str| Cell::Numeric(text.parse().unwrap());
        assert_eq!(key(&[decimal("1.10")]), key(&[decimal("1.1")]));
        assert_eq!(key(&[decimal("-0.0")]), key(&[decimal("0")]));
        assert_eq!(key(&[Cell::Float8(-0.0)]), key(&[Cell::Float8(0.0)]));
        assert_eq!(key(&[Cell::Float8(-f64::NAN)]), key(&[Cell::Float8(f64::NAN)]));
    }

    #[test]
    fn parts_of_a_key_do_not_run_into_each_other() {
        let ab_c = key(&[Cell::Text("ab"), Cell::Text("c")]);
        let a_bc = key(&[Cell::Text("a"), Cell::Text("bc")]);
        assert_ne!(ab_c, a_bc);
    }
}
