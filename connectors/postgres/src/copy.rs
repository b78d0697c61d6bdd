//! Many appended rows by `COPY`.

use sqlx::postgres::PgConnection;
use tidegate::batch::Batch;
use tidegate_sql::{Failure, Limit, Table, append};

use crate::encode::CopyRows;
use crate::error::before;

/// Rows of one table from which on `COPY` is used over a Unix socket. Measured by `benches/forms.rs`:
/// even at 1,000 to 2,000 rows, 1.3 to 1.6 times the rate from 5,000 on.
const COPY_ROWS_MIN_SOCKET: usize = 5_000;

/// The same over TCP, where the client of this release leaves Nagle's algorithm on: the end of a
/// `COPY` can wait 40 ms for an acknowledgement, nearly always below 1,000 rows, now and then above.
const COPY_ROWS_MIN_TCP: usize = 10_000;

/// How much of a `COPY` is encoded before it is sent, in bytes, looked at after so many records.
const COPY_PART_BYTES: usize = 128 << 10;
const COPY_PART_RECORDS: usize = 256;

/// Rows of one table from which on they are copied.
pub(crate) fn copy_rows_min(is_socket: bool) -> usize {
    if is_socket { COPY_ROWS_MIN_SOCKET } else { COPY_ROWS_MIN_TCP }
}

/// Copies the rows of a batch, each part while the server takes in the one before it.
///
/// # Errors
/// What the server says, or the row that it could not store. Its transaction is to be rolled back.
pub(crate) async fn copy<O>(
    conn: &mut PgConnection,
    text: &str,
    table: &Table<O>,
    limits: &[Limit],
    batch: &Batch<O>,
) -> Result<(), Failure> {
    let mut copy = conn.copy_in_raw(text).await.map_err(before)?;
    let mut rows = CopyRows::new(table.columns().len());
    for part in batch.finished().chunks(COPY_PART_RECORDS) {
        if let Err(rejection) = append(table, limits, part, &mut rows) {
            let ended = copy.abort("a row cannot be stored").await;
            return Err(
                ended.map_or_else(|error| before(error).not_rolled_back(), |()| rejection.into())
            );
        }
        if rows.part().len() >= COPY_PART_BYTES {
            copy.send(rows.part()).await.map_err(before)?;
            rows.sent();
        }
    }
    rows.end();
    copy.send(rows.part()).await.map_err(before)?;
    copy.finish().await.map_err(before)?;
    Ok(())
}
