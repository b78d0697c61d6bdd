//! Cells in PostgreSQL's binary format: as arrays for `UNNEST`, as rows for `COPY`.
//!
//! Values go from the user's result into the buffer that is sent; nothing is cloned on the way.

use rust_decimal::Decimal;
use serde_json::Value;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo, Postgres};
use sqlx::query::Query;
use tidegate_sql::{BadCell, Cell, Kind, RowWriter};

/// 2000-01-01, where PostgreSQL's times begin, in microseconds since 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The range of PostgreSQL's times, in microseconds since 2000: 4713 BC until 294277 AD.
const TIMES: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// The largest value that is sent. PostgreSQL takes 1 GiB in one message, and the rest of the row
/// and its neighbours travel in the same one.
const VALUE_BYTES_MAX: usize = 512 << 20;

/// From how many bytes on further rows travel in another statement.
const CHUNK_BYTES: usize = 256 << 20;

/// The numbers of a type and of the arrays of it.
fn oids(kind: Kind) -> (u32, u32) {
    match kind {
        Kind::Bool => (16, 1000),
        Kind::Int4 => (23, 1007),
        Kind::Int8 => (20, 1016),
        Kind::Float8 => (701, 1022),
        Kind::Numeric => (1700, 1231),
        Kind::Bytea => (17, 1001),
        Kind::Timestamptz => (1184, 1185),
        Kind::Uuid => (2950, 2951),
        Kind::Jsonb => (3802, 3807),
        // `UNNEST` would take arrays of arrays apart: they travel as text and are cast back.
        _ => (25, 1009),
    }
}

/// The type of the array that a column travels in.
pub(crate) fn array_type(kind: Kind) -> String {
    if kind.is_array() { "text[]".to_owned() } else { format!("{}[]", kind.sql()) }
}

/// One column of many rows: a one-dimensional array.
#[derive(Debug)]
pub(crate) struct Array {
    kind: Kind,
    count: i32,
    nulls: bool,
    bytes: Vec<u8>,
}

/// Dimensions, null flag, element type, length, lower bound.
const ARRAY_HEADER_BYTES: usize = 20;

impl Array {
    fn new(kind: Kind) -> Self {
        Self { kind, count: 0, nulls: false, bytes: vec![0; ARRAY_HEADER_BYTES] }
    }

    fn push(&mut self, cell: &Cell<'_>) -> Result<(), BadCell> {
        self.count += 1;
        self.nulls |= matches!(cell, Cell::Null);
        if self.kind.is_array() {
            sized(&mut self.bytes, |bytes| literal(bytes, cell))
        } else {
            field(&mut self.bytes, cell)
        }
    }

    /// Completes the header; an array without elements has no dimension.
    fn finish(&mut self) {
        let header: [i32; 5] =
            [1, i32::from(self.nulls), oids(self.kind).0.cast_signed(), self.count, 1];
        for (place, number) in self.bytes.chunks_mut(4).zip(header) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        if self.count == 0 {
            self.bytes[..4].fill(0);
            self.bytes.truncate(12);
        }
    }
}

impl sqlx::Type<Postgres> for Array {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1009))
    }
}

impl Encode<'_, Postgres> for Array {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(oids(self.kind).1)))
    }

    fn size_hint(&self) -> usize {
        self.bytes.len()
    }
}

/// Rows as one array per column.
#[derive(Debug)]
pub(crate) struct Arrays {
    columns: Vec<Array>,
}

impl Arrays {
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        let columns = kinds.iter().map(|&kind| Array::new(kind)).collect();
        Self { columns }
    }

    pub(crate) fn rows(&self) -> usize {
        let count = self.columns.first().map_or(0, |column| column.count);
        usize::try_from(count).expect("a count is not negative")
    }

    fn bytes(&self) -> usize {
        self.columns.iter().map(|column| column.bytes.len()).sum()
    }

    /// Adds a row.
    pub(crate) fn push<const N: usize>(&mut self, row: [Cell<'_>; N]) -> Result<(), BadCell> {
        let cells = self.columns.iter_mut().zip(row);
        cells.into_iter().try_for_each(|(column, cell)| column.push(&cell))
    }

    /// Hands the arrays over to a query.
    pub(crate) fn bind(
        self,
        query: Query<'static, Postgres, PgArguments>,
    ) -> Query<'static, Postgres, PgArguments> {
        self.columns.into_iter().fold(query, |query, mut column| {
            column.finish();
            query.bind(column)
        })
    }
}

/// Rows as arrays, in as many statements as their size needs: nearly always one.
#[derive(Debug)]
pub(crate) struct Chunks {
    kinds: Vec<Kind>,
    chunk_bytes: usize,
    chunks: Vec<Arrays>,
}

impl Chunks {
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        Self { kinds: kinds.to_vec(), chunk_bytes: CHUNK_BYTES, chunks: vec![Arrays::new(kinds)] }
    }

    /// The arrays of each statement.
    pub(crate) fn into_statements(self) -> Vec<Arrays> {
        self.chunks
    }

    /// Whether they all go into one statement.
    pub(crate) fn is_one(&self) -> bool {
        self.chunks.len() == 1
    }

    /// Bytes of all statements.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.iter().map(Arrays::bytes).sum()
    }

    /// Whether there is any row.
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks[0].rows() == 0
    }

    /// Adds a row.
    pub(crate) fn push<const N: usize>(&mut self, row: [Cell<'_>; N]) -> Result<(), BadCell> {
        for (column, cell) in row.into_iter().enumerate() {
            self.cell(column, cell)?;
        }
        self.end_row();
        Ok(())
    }
}

impl RowWriter for Chunks {
    fn cell(&mut self, column: usize, cell: Cell<'_>) -> Result<(), BadCell> {
        let chunk = self.chunks.last_mut().expect("there is always a last chunk");
        if column == 0 && chunk.bytes() >= self.chunk_bytes {
            self.chunks.push(Arrays::new(&self.kinds));
            return self.cell(column, cell);
        }
        chunk.columns[column].push(&cell)
    }

    fn end_row(&mut self) {}
}

/// Rows as `COPY … (FORMAT binary)` reads them.
#[derive(Debug)]
pub(crate) struct CopyRows {
    columns: i16,
    bytes: Vec<u8>,
}

impl CopyRows {
    pub(crate) fn new(columns: usize) -> Self {
        let mut bytes = b"PGCOPY\n\xff\r\n\0".to_vec();
        // No flags, no extension.
        bytes.extend([0; 8]);
        Self { columns: i16::try_from(columns).expect("a table has at most 1,600 columns"), bytes }
    }

    /// What was not sent yet.
    pub(crate) fn part(&self) -> &[u8] {
        &self.bytes
    }

    /// It was sent.
    pub(crate) fn sent(&mut self) {
        self.bytes.clear();
    }

    /// The end of the last part.
    pub(crate) fn end(&mut self) {
        self.bytes.extend((-1_i16).to_be_bytes());
    }
}

impl RowWriter for CopyRows {
    fn cell(&mut self, column: usize, cell: Cell<'_>) -> Result<(), BadCell> {
        if column == 0 {
            self.bytes.extend(self.columns.to_be_bytes());
        }
        field(&mut self.bytes, &cell)
    }

    fn end_row(&mut self) {}
}

/// Appends a length and what `write` appends; NULL if it appends nothing at all on purpose.
fn sized(
    bytes: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<IsNull, BadCell>,
) -> Result<(), BadCell> {
    let start = bytes.len();
    bytes.extend([0; 4]);
    let length = match write(bytes)? {
        IsNull::Yes => -1,
        IsNull::No => {
            let length = bytes.len() - start - 4;
            let fits = i32::try_from(length).ok().filter(|_| length <= VALUE_BYTES_MAX);
            fits.ok_or_else(|| BadCell::new("a value larger than 512 MiB"))?
        }
    };
    bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// One value with its length.
fn field(bytes: &mut Vec<u8>, cell: &Cell<'_>) -> Result<(), BadCell> {
    sized(bytes, |bytes| {
        match cell {
            Cell::Null => return Ok(IsNull::Yes),
            Cell::Bool(value) => bytes.push(u8::from(*value)),
            Cell::Int4(value) => bytes.extend(value.to_be_bytes()),
            Cell::Int8(value) => bytes.extend(value.to_be_bytes()),
            Cell::Float8(value) => bytes.extend(value.to_be_bytes()),
            Cell::Numeric(value) => numeric(bytes, value)?,
            Cell::Text(value) => bytes.extend(value.as_bytes()),
            Cell::Bytea(value) => bytes.extend(*value),
            Cell::Timestamptz(value) => bytes.extend(time(value)?.to_be_bytes()),
            Cell::Uuid(value) => bytes.extend(value.as_bytes()),
            Cell::Jsonb(value) => jsonb(bytes, value)?,
            Cell::BoolArray(values) => {
                elements(bytes, Kind::Bool, values, |v| Cell::Bool(*v))?;
            }
            Cell::Int4Array(values) => {
                elements(bytes, Kind::Int4, values, |v| Cell::Int4(*v))?;
            }
            Cell::Int8Array(values) => {
                elements(bytes, Kind::Int8, values, |v| Cell::Int8(*v))?;
            }
            Cell::Float8Array(values) => {
                elements(bytes, Kind::Float8, values, |v| Cell::Float8(*v))?;
            }
            Cell::TextArray(values) => {
                elements(bytes, Kind::Text, values, |v| Cell::Text(v))?;
            }
            _ => return Err(BadCell::new("a type that PostgreSQL cannot store")),
        }
        Ok(IsNull::No)
    })
}

/// The binary form of an array value.
fn elements<T>(
    bytes: &mut Vec<u8>,
    kind: Kind,
    values: &[T],
    cell: impl Fn(&T) -> Cell<'_>,
) -> Result<(), BadCell> {
    let mut array = Array::new(kind);
    for value in values {
        array.push(&cell(value))?;
    }
    array.finish();
    bytes.extend(array.bytes);
    Ok(())
}

/// The text form of an array value, cast back on the server.
fn literal(bytes: &mut Vec<u8>, cell: &Cell<'_>) -> Result<IsNull, BadCell> {
    let mut texts: Vec<String> = Vec::new();
    match cell {
        Cell::Null => return Ok(IsNull::Yes),
        Cell::BoolArray(values) => texts.extend(values.iter().map(bool::to_string)),
        Cell::Int4Array(values) => texts.extend(values.iter().map(i32::to_string)),
        Cell::Int8Array(values) => texts.extend(values.iter().map(i64::to_string)),
        Cell::Float8Array(values) => texts.extend(values.iter().map(|v| match v {
            v if v.is_nan() => "NaN".to_owned(),
            v if v.is_infinite() => format!("{}Infinity", if *v < 0.0 { "-" } else { "" }),
            v => v.to_string(),
        })),
        Cell::TextArray(values) => texts.extend(
            values
                .iter()
                .map(|value| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))),
        ),
        _ => return Err(BadCell::new("a type that PostgreSQL cannot store")),
    }
    bytes.extend(format!("{{{}}}", texts.join(",")).as_bytes());
    Ok(IsNull::No)
}

fn numeric(bytes: &mut Vec<u8>, value: &Decimal) -> Result<(), BadCell> {
    let mut buffer = PgArgumentBuffer::default();
    let encoded = <Decimal as Encode<'_, Postgres>>::encode_by_ref(value, &mut buffer);
    if encoded.is_err() {
        return Err(BadCell::new("a number out of range for numeric"));
    }
    bytes.extend_from_slice(&buffer);
    Ok(())
}

fn time(value: &chrono::DateTime<chrono::Utc>) -> Result<i64, BadCell> {
    let micros = value.timestamp_micros().checked_sub(EPOCH_MICROS);
    micros
        .filter(|micros| TIMES.contains(micros))
        .ok_or_else(|| BadCell::new("a time outside 4713 BC to 294276 AD"))
}

fn jsonb(bytes: &mut Vec<u8>, value: &Value) -> Result<(), BadCell> {
    if has_nul(value) {
        return Err(BadCell::new("\\u0000 in JSON"));
    }
    // The version of the format.
    bytes.push(1);
    serde_json::to_writer(bytes, value).map_err(|_| BadCell::new("JSON that cannot be written"))
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_beyond_the_size_of_a_statement_travel_in_the_next() {
        let mut chunks = Chunks::new(&[Kind::Int8, Kind::Text]);
        chunks.chunk_bytes = 200;
        for number in 0..20 {
            chunks.push([Cell::Int8(number), Cell::Text("0123456789")]).unwrap();
        }
        assert!(!chunks.is_one() && !chunks.is_empty());
        let rows: Vec<usize> = chunks.into_statements().iter().map(Arrays::rows).collect();
        assert_eq!(rows.iter().sum::<usize>(), 20);
        assert!(rows.iter().all(|rows| *rows > 0), "{rows:?}");
    }

    #[test]
    fn an_array_without_elements_has_no_dimension() {
        let mut array = Array::new(Kind::Int8);
        array.finish();
        assert_eq!(array.bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20]);
    }

    #[test]
    fn times_outside_of_what_the_database_holds_are_refused() {
        let at = |micros| chrono::DateTime::from_timestamp_micros(micros).unwrap();
        let first = TIMES.start + EPOCH_MICROS;
        assert!(time(&at(first)).is_ok());
        assert!(time(&at(first - 1)).is_err());
        assert_eq!(time(&at(EPOCH_MICROS)), Ok(0));
        let far = chrono::DateTime::<chrono::Utc>::MAX_UTC;
        assert_eq!(time(&far).is_ok(), far.timestamp_micros() - EPOCH_MICROS < TIMES.end);
    }

    #[test]
    fn a_nul_anywhere_in_json_is_found() {
        let json: Value = serde_json::json!({"a": [1, {"b\0": null}]});
        assert!(has_nul(&json));
        assert!(has_nul(&serde_json::json!(["x\0"])));
        assert!(!has_nul(&serde_json::json!({"a": ["x", 1.5, null]})));
    }
}
