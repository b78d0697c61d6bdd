//! The one table from SQLite's result codes to fates.

use sqlx::Error as SqlError;
use tidegate::Cause;
use tidegate_sql::{Failure, Fate, Phase};

/// The failure behind an error of the client.
pub(crate) fn failure(error: &SqlError, phase: Phase) -> Failure {
    Failure::new(fate(error, phase), cause(error))
}

/// A failure before `COMMIT` was sent.
pub(crate) fn before(error: SqlError) -> Failure {
    failure(&error, Phase::BeforeCommit)
}

/// `SQLITE_BUSY`.
const BUSY: i32 = 5;

/// Whether somebody else has the file locked.
pub(crate) fn is_busy(error: &SqlError) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse().ok());
    code.is_some_and(|extended| primary(extended) == BUSY)
}

fn primary(extended: i32) -> i32 {
    extended & 0xff
}

/// What a failed step means. What is not recognised is in doubt.
fn fate(error: &SqlError, phase: Phase) -> Fate {
    match error {
        SqlError::Database(error) => {
            let code = error.code().and_then(|code| code.parse().ok());
            code.map_or(Fate::InDoubt, |code| fate_of_code(code, error.message(), phase))
        }
        // The user's own statements: these come from the data they looked for.
        SqlError::RowNotFound | SqlError::Encode(_) if phase == Phase::BeforeCommit => {
            Fate::Rejected
        }
        SqlError::ColumnNotFound(_)
        | SqlError::ColumnIndexOutOfBounds { .. }
        | SqlError::ColumnDecode { .. }
        | SqlError::Decode(_)
        | SqlError::TypeNotFound { .. }
            if phase == Phase::BeforeCommit =>
        {
            Fate::Operator
        }
        SqlError::Io(_) | SqlError::WorkerCrashed | SqlError::BeginFailed
            if phase == Phase::BeforeCommit =>
        {
            Fate::Reconnect
        }
        _ => Fate::InDoubt,
    }
}

/// The result codes of <https://www.sqlite.org/rescode.html>, by their primary code.
fn fate_of_code(extended: i32, message: &str, phase: Phase) -> Fate {
    const ERROR: i32 = 1;
    const PERM: i32 = 3;
    const ABORT: i32 = 4;
    const LOCKED: i32 = 6;
    const NOMEM: i32 = 7;
    const READONLY: i32 = 8;
    const INTERRUPT: i32 = 9;
    const IOERR: i32 = 10;
    const CORRUPT: i32 = 11;
    const FULL: i32 = 13;
    const CANTOPEN: i32 = 14;
    const PROTOCOL: i32 = 15;
    const SCHEMA: i32 = 17;
    const TOOBIG: i32 = 18;
    const CONSTRAINT: i32 = 19;
    const MISMATCH: i32 = 20;
    const AUTH: i32 = 23;
    const RANGE: i32 = 25;
    const NOTADB: i32 = 26;
    match (primary(extended), phase) {
        // A deferred foreign key is found at COMMIT; the transaction is still open then.
        (CONSTRAINT | MISMATCH | TOOBIG, _) => Fate::Rejected,
        // The sum of a total, and what `RAISE` in a user's function says.
        (ERROR, Phase::BeforeCommit) if message == "integer overflow" => Fate::Rejected,
        (BUSY | LOCKED, _) => Fate::Aborted,
        (ABORT | INTERRUPT | SCHEMA, Phase::BeforeCommit) => Fate::Aborted,
        // SQLite may have rolled back by itself: go on with a fresh connection.
        (NOMEM | IOERR | FULL | PROTOCOL, Phase::BeforeCommit) => Fate::Reconnect,
        (
            ERROR | PERM | READONLY | CORRUPT | CANTOPEN | AUTH | RANGE | NOTADB,
            Phase::BeforeCommit,
        ) => Fate::Operator,
        _ => Fate::InDoubt,
    }
}

/// What is said of an error: SQLite's messages name tables, columns and constraints, not values.
pub(crate) fn cause(error: &SqlError) -> Cause {
    match error {
        SqlError::Database(error) => Cause::new(format_args!(
            "SQLite: {} (code {})",
            error.message(),
            error.code().unwrap_or_default()
        )),
        other => Cause::new(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_of_codes_means_what_it_says() {
        use Fate::{Aborted, InDoubt, Operator, Reconnect, Rejected};
        #[rustfmt::skip]
        let rows = [
            // code, before COMMIT, after COMMIT was sent
            (1, Operator, InDoubt),      // SQLITE_ERROR: no such table
            (3, Operator, InDoubt),      // SQLITE_PERM
            (4, Aborted, InDoubt),       // SQLITE_ABORT
            (5, Aborted, Aborted),       // SQLITE_BUSY
            (517, Aborted, Aborted),     // SQLITE_BUSY_SNAPSHOT
            (6, Aborted, Aborted),       // SQLITE_LOCKED
            (7, Reconnect, InDoubt),     // SQLITE_NOMEM
            (8, Operator, InDoubt),      // SQLITE_READONLY
            (9, Aborted, InDoubt),       // SQLITE_INTERRUPT
            (10, Reconnect, InDoubt),    // SQLITE_IOERR
            (1034, Reconnect, InDoubt),  // SQLITE_IOERR_FSYNC
            (11, Operator, InDoubt),     // SQLITE_CORRUPT
            (13, Reconnect, InDoubt),    // SQLITE_FULL
            (14, Operator, InDoubt),     // SQLITE_CANTOPEN
            (15, Reconnect, InDoubt),    // SQLITE_PROTOCOL
            (17, Aborted, InDoubt),      // SQLITE_SCHEMA
            (18, Rejected, Rejected),    // SQLITE_TOOBIG
            (19, Rejected, Rejected),    // SQLITE_CONSTRAINT
            (275, Rejected, Rejected),   // SQLITE_CONSTRAINT_CHECK
            (787, Rejected, Rejected),   // SQLITE_CONSTRAINT_FOREIGNKEY
            (1299, Rejected, Rejected),  // SQLITE_CONSTRAINT_NOTNULL
            (1555, Rejected, Rejected),  // SQLITE_CONSTRAINT_PRIMARYKEY
            (1811, Rejected, Rejected),  // SQLITE_CONSTRAINT_TRIGGER
            (2067, Rejected, Rejected),  // SQLITE_CONSTRAINT_UNIQUE
            (3091, Rejected, Rejected),  // SQLITE_CONSTRAINT_DATATYPE
            (20, Rejected, Rejected),    // SQLITE_MISMATCH
            (23, Operator, InDoubt),     // SQLITE_AUTH
            (25, Operator, InDoubt),     // SQLITE_RANGE
            (26, Operator, InDoubt),     // SQLITE_NOTADB
            (99, InDoubt, InDoubt),      // nobody knows
        ];
        for (code, before, after) in rows {
            assert_eq!(fate_of_code(code, "", Phase::BeforeCommit), before, "{code}");
            assert_eq!(fate_of_code(code, "", Phase::CommitSent), after, "{code}");
        }
        let overflow = fate_of_code(1, "integer overflow", Phase::BeforeCommit);
        assert_eq!(overflow, Rejected);
    }

    /// The rules once more, by the names of the primary codes.
    fn naive(primary: i32, phase: Phase) -> Fate {
        let name = match primary {
            5 | 6 => "busy",
            18..=20 => "data",
            _ if phase == Phase::CommitSent => "unknown",
            4 | 9 | 17 => "interrupted",
            7 | 10 | 13 | 15 => "broken",
            1 | 3 | 8 | 11 | 14 | 23 | 25 | 26 => "mend it",
            _ => "unknown",
        };
        match name {
            "busy" | "interrupted" => Fate::Aborted,
            "data" => Fate::Rejected,
            "broken" => Fate::Reconnect,
            "mend it" => Fate::Operator,
            _ => Fate::InDoubt,
        }
    }

    #[test]
    fn every_code_with_every_extension_means_what_the_rules_say() {
        for phase in [Phase::BeforeCommit, Phase::CommitSent] {
            for code in 0..=0xffff {
                let fate = fate_of_code(code, "", phase);
                assert_eq!(fate, naive(code & 0xff, phase), "{code}");
                let fate = fate_of_code(code, "integer overflow", phase);
                let is_sum = code & 0xff == 1 && phase == Phase::BeforeCommit;
                let wanted = if is_sum { Fate::Rejected } else { naive(code & 0xff, phase) };
                assert_eq!(fate, wanted, "{code}");
            }
        }
    }

    #[test]
    fn an_error_of_the_client_is_in_doubt_once_commit_was_sent() {
        let rows: [(SqlError, Fate); 5] = [
            (SqlError::WorkerCrashed, Fate::Reconnect),
            (SqlError::RowNotFound, Fate::Rejected),
            (SqlError::Encode("x".into()), Fate::Rejected),
            (SqlError::ColumnNotFound("x".into()), Fate::Operator),
            (SqlError::Protocol("x".into()), Fate::InDoubt),
        ];
        for (error, before) in rows {
            assert_eq!(fate(&error, Phase::BeforeCommit), before, "{error:?}");
            assert_eq!(fate(&error, Phase::CommitSent), Fate::InDoubt, "{error:?}");
        }
    }
}
