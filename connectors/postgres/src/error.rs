//! The one table from PostgreSQL's error codes to fates.

use std::io::ErrorKind;

use sqlx::Error as SqlError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use tidegate::Cause;
use tidegate_sql::{Failure, Fate, Phase};

/// What the one-statement form raises when its compare does not hold. The compare's count makes it
/// an error of the server, so that the statement cannot commit.
pub(crate) const COMPARE_DIFFERS: &str = "tidegate compare differs: ";

/// What the server says when a prepared statement meets a changed table.
const STALE_PLAN: &str = "cached plan must not change result type";

/// The failure behind an error of the client.
pub(crate) fn failure(error: &SqlError, phase: Phase) -> Failure {
    Failure::new(fate(error, phase), cause(error))
}

/// A failure before anything was sent that could commit.
pub(crate) fn before(error: SqlError) -> Failure {
    failure(&error, Phase::BeforeCommit)
}

/// A connection that could not be made. A certificate that is not believed now will not be in a
/// second either, although the client calls it a failure of the network; and so with a file of a
/// certificate that is not there. (A socket that is not there may come.)
pub(crate) fn connecting(error: SqlError, by_socket: bool) -> Failure {
    let text = error.to_string();
    let remedy = match &error {
        SqlError::Io(io) if io.kind() == ErrorKind::NotFound && !by_socket => {
            "a file that the URL names by `sslrootcert`, `sslcert` or `sslkey` is missing"
        }
        SqlError::Io(io) if io.kind() == ErrorKind::InvalidData && text.contains("certificate") => {
            "the URL says by `sslrootcert` who must have signed the server's certificate, and its \
             host must be the one that is certified"
        }
        SqlError::Tls(_) => "look at what the URL says by `sslmode` and `sslrootcert`",
        _ => return before(error),
    };
    Failure::new(Fate::Operator, Cause::new(format_args!("TLS: {text}; {remedy}")))
}

/// What a failed step means. What is not recognised is in doubt.
fn fate(error: &SqlError, phase: Phase) -> Fate {
    let by_phase = |before| match phase {
        Phase::BeforeCommit => before,
        Phase::CommitSent => Fate::InDoubt,
    };
    match error {
        SqlError::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => {
                let ends_connection =
                    matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic);
                fate_of_code(error.code(), error.message(), ends_connection, phase)
            }
            None => Fate::InDoubt,
        },
        SqlError::Io(_) | SqlError::BeginFailed => by_phase(Fate::Reconnect),
        SqlError::Tls(_) | SqlError::Configuration(_) => by_phase(Fate::Operator),
        // The user's own statements: these come from the data they looked for …
        SqlError::RowNotFound | SqlError::Encode(_) => by_phase(Fate::Rejected),
        // … and these from the program.
        SqlError::ColumnNotFound(_)
        | SqlError::ColumnIndexOutOfBounds { .. }
        | SqlError::ColumnDecode { .. }
        | SqlError::Decode(_)
        | SqlError::TypeNotFound { .. } => by_phase(Fate::Operator),
        _ => Fate::InDoubt,
    }
}

/// The codes of <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
///
/// An error that leaves the connection open is a definite end of the transaction, also in answer
/// to `COMMIT`; one that ends the connection says nothing of a `COMMIT` that was sent.
fn fate_of_code(code: &str, message: &str, ends_connection: bool, phase: Phase) -> Fate {
    let by_phase = |before| match phase {
        Phase::BeforeCommit => before,
        Phase::CommitSent => Fate::InDoubt,
    };
    match code {
        // statement_completion_unknown
        "40003" => Fate::InDoubt,
        // Starting up, shutting down, too many connections.
        "57P03" => by_phase(Fate::Aborted),
        // admin_shutdown, crash_shutdown, database_dropped, idle time-outs
        "57P01" | "57P02" | "57P04" | "57P05" | "25P03" | "25P04" => by_phase(Fate::Reconnect),
        _ if code.starts_with("08") => by_phase(Fate::Reconnect),
        // Wrong password, unknown database, no right to connect: they end the connection too.
        _ if code.starts_with("28") || code.starts_with("3D") => by_phase(Fate::Operator),
        _ if code.starts_with("53") && ends_connection => by_phase(Fate::Aborted),
        _ if ends_connection => by_phase(Fate::Reconnect),
        // serialization_failure, deadlock_detected, lock_not_available, query_canceled
        "40001" | "40P01" | "55P03" | "57014" => Fate::Aborted,
        // insufficient_resources
        _ if code.starts_with("53") => Fate::Aborted,
        // read_only_sql_transaction: the primary moved
        "25006" => Fate::Reconnect,
        "0A000" if message.contains(STALE_PLAN) => Fate::Reconnect,
        // in_failed_sql_transaction: the user's SQL went on after an error
        "25P02" => Fate::Operator,
        "22P02" if message.contains(COMPARE_DIFFERS) => Fate::Fenced,
        // cardinality_violation: keys that the database holds equal and the client does not
        "21000" | "0A000" | "26000" => Fate::Operator,
        // An index row too large, a violated check of a view.
        "54000" | "44000" => Fate::Rejected,
        _ => match code.get(..2) {
            // Data exceptions, integrity constraints, what a user's trigger raises.
            Some("22" | "23" | "P0") => Fate::Rejected,
            // A wrong name, type or right; an unknown schema.
            Some("42" | "3F") => Fate::Operator,
            _ => Fate::InDoubt,
        },
    }
}

/// What is said of an error. Values are left out: they may be payload.
pub(crate) fn cause(error: &SqlError) -> Cause {
    let SqlError::Database(database) = error else {
        return Cause::new(error);
    };
    let Some(error) = database.try_downcast_ref::<PgDatabaseError>() else {
        return Cause::new("the database failed");
    };
    let code = error.code();
    let mut text = match code.get(..2) {
        // Data exceptions quote the value.
        Some("22") => without_quotations(error.message()),
        _ => error.message().to_owned(),
    };
    for (what, name) in [("table", error.table()), ("column", error.column())] {
        if let Some(name) = name.filter(|name| !text.contains(*name)) {
            text.push_str(&format!(", {what} {name:?}"));
        }
    }
    Cause::new(format_args!("{text} (SQLSTATE {code})"))
}

fn without_quotations(message: &str) -> String {
    let outside = message.split('"').step_by(2);
    outside.collect::<Vec<&str>>().join("\"…\"")
}

#[cfg(test)]
mod tests {
    use Fate::{Aborted, Fenced, InDoubt, Operator, Reconnect, Rejected};

    use super::*;

    #[test]
    fn every_row_of_the_table_of_codes_means_what_it_says() {
        #[rustfmt::skip]
        let rows = [
            // code, ends the connection, before COMMIT, after COMMIT was sent
            ("08006", true,  Reconnect, InDoubt),  // connection_failure
            ("08P01", false, Reconnect, InDoubt),  // protocol_violation, said by poolers
            ("57P01", true,  Reconnect, InDoubt),  // admin_shutdown
            ("57P02", true,  Reconnect, InDoubt),  // crash_shutdown
            ("57P03", true,  Aborted,   InDoubt),  // cannot_connect_now
            ("57P04", true,  Reconnect, InDoubt),  // database_dropped
            ("57P05", true,  Reconnect, InDoubt),  // idle_session_timeout
            ("25P03", true,  Reconnect, InDoubt),  // idle_in_transaction_session_timeout
            ("25P04", true,  Reconnect, InDoubt),  // transaction_timeout
            ("53300", true,  Aborted,   InDoubt),  // too_many_connections
            ("53100", false, Aborted,   Aborted),  // disk_full
            ("53200", false, Aborted,   Aborted),  // out_of_memory
            ("40001", false, Aborted,   Aborted),  // serialization_failure
            ("40P01", false, Aborted,   Aborted),  // deadlock_detected
            ("55P03", false, Aborted,   Aborted),  // lock_not_available
            ("57014", false, Aborted,   Aborted),  // query_canceled
            ("40003", false, InDoubt,   InDoubt),  // statement_completion_unknown
            ("25006", false, Reconnect, Reconnect),// read_only_sql_transaction
            ("25P02", false, Operator,  Operator), // in_failed_sql_transaction
            ("22001", false, Rejected,  Rejected), // string_data_right_truncation
            ("22003", false, Rejected,  Rejected), // numeric_value_out_of_range
            ("22021", false, Rejected,  Rejected), // character_not_in_repertoire
            ("22P02", false, Rejected,  Rejected), // invalid_text_representation
            ("22P05", false, Rejected,  Rejected), // untranslatable_character
            ("23502", false, Rejected,  Rejected), // not_null_violation
            ("23503", false, Rejected,  Rejected), // foreign_key_violation
            ("23505", false, Rejected,  Rejected), // unique_violation
            ("23514", false, Rejected,  Rejected), // check_violation
            ("23P01", false, Rejected,  Rejected), // exclusion_violation
            ("44000", false, Rejected,  Rejected), // with_check_option_violation
            ("54000", false, Rejected,  Rejected), // program_limit_exceeded
            ("P0001", false, Rejected,  Rejected), // raise_exception
            ("21000", false, Operator,  Operator), // cardinality_violation
            ("0A000", false, Operator,  Operator), // feature_not_supported
            ("26000", false, Operator,  Operator), // invalid_sql_statement_name
            ("28P01", true,  Operator,  InDoubt),  // invalid_password
            ("3D000", true,  Operator,  InDoubt),  // invalid_catalog_name
            ("3F000", false, Operator,  Operator), // invalid_schema_name
            ("42501", false, Operator,  Operator), // insufficient_privilege
            ("42703", false, Operator,  Operator), // undefined_column
            ("42804", false, Operator,  Operator), // datatype_mismatch
            ("42P01", false, Operator,  Operator), // undefined_table
            ("XX000", false, InDoubt,   InDoubt),  // internal_error
            ("XX000", true,  Reconnect, InDoubt),
            ("ZZZZZ", false, InDoubt,   InDoubt),  // nobody knows
            ("",      false, InDoubt,   InDoubt),
        ];
        for (code, ends, before, after) in rows {
            let fate = |phase| fate_of_code(code, "", ends, phase);
            assert_eq!(fate(Phase::BeforeCommit), before, "{code}");
            assert_eq!(fate(Phase::CommitSent), after, "{code}");
        }
    }

    /// The classes of PostgreSQL's documentation, and one that nobody knows.
    const CLASSES: &str = "00 01 02 03 08 09 0A 0B 0F 0L 0P 0Z 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 38 39 3B 3D \
         3F 40 42 44 53 54 55 57 58 72 F0 HV P0 XX ZZ";

    /// The rules once more, as plainly as possible, for an error that leaves the connection open.
    fn naive(code: &str) -> Fate {
        match (&code[..2], &code[2..]) {
            ("40", "001" | "P01") | ("55", "P03") | ("57", "014" | "P03") | ("53", _) => Aborted,
            ("08", _) | ("57", "P01" | "P02" | "P04" | "P05") => Reconnect,
            ("25", "006" | "P03" | "P04") => Reconnect,
            ("22" | "23" | "P0", _) | ("54" | "44", "000") => Rejected,
            ("28" | "3D" | "3F" | "42", _) | ("25", "P02") => Operator,
            ("21" | "0A" | "26", "000") => Operator,
            _ => InDoubt,
        }
    }

    #[test]
    fn every_code_of_every_class_means_what_the_rules_say() {
        let signs = || ('0'..='9').chain('A'..='Z');
        let mut compared = 0;
        for class in CLASSES.split_whitespace() {
            for (a, b, c) in
                signs().flat_map(|a| signs().flat_map(move |b| signs().map(move |c| (a, b, c))))
            {
                let code = format!("{class}{a}{b}{c}");
                let before = |ends| fate_of_code(&code, "", ends, Phase::BeforeCommit);
                let after = |ends| fate_of_code(&code, "", ends, Phase::CommitSent);
                assert_eq!(before(false), naive(&code), "{code}");
                // What leaves the connection open is the definite end of the transaction, in answer
                // to `COMMIT` too; what says that the connection is gone, or going, is not.
                let is_connections = ["08", "57", "28", "3D"].contains(&class)
                    || ["25P03", "25P04"].contains(&&*code);
                if is_connections && code != "57014" {
                    assert_eq!(after(false), InDoubt, "{code}");
                } else {
                    assert_eq!(after(false), naive(&code), "{code}");
                }
                assert_eq!(after(true), InDoubt, "{code} ended the connection");
                assert!(!matches!(before(true), Rejected | Fenced), "{code} blames no record");
                compared += 1;
            }
        }
        assert_eq!(compared, 44 * 36 * 36 * 36);
    }

    #[test]
    fn what_waiting_does_not_mend_about_tls_is_for_the_operator() {
        let io = |kind, text: &str| SqlError::Io(std::io::Error::new(kind, text.to_owned()));
        let unknown = "invalid peer certificate: UnknownIssuer";
        for (error, by_socket, fate, says) in [
            (io(ErrorKind::InvalidData, unknown), false, Operator, "sslrootcert"),
            (io(ErrorKind::NotFound, "no such file"), false, Operator, "is missing"),
            (io(ErrorKind::NotFound, "no such file"), true, Reconnect, ""),
            (io(ErrorKind::ConnectionRefused, "refused"), false, Reconnect, ""),
            (io(ErrorKind::InvalidData, "corrupt message"), false, Reconnect, ""),
            (SqlError::Tls("server does not support TLS".into()), false, Operator, "sslmode"),
        ] {
            let failure = connecting(error, by_socket);
            assert_eq!(failure.fate, fate, "{}", failure.cause);
            assert!(failure.cause.to_string().contains(says), "{}", failure.cause);
        }
    }

    #[test]
    fn two_codes_are_told_apart_by_their_message() {
        let fate = |code, message| fate_of_code(code, message, false, Phase::CommitSent);
        assert_eq!(fate("0A000", STALE_PLAN), Reconnect);
        let raised = format!("invalid input syntax for type bigint: \"{COMPARE_DIFFERS}1\"");
        assert_eq!(fate("22P02", &raised), Fenced);
    }

    #[test]
    fn an_error_of_the_client_is_in_doubt_once_commit_was_sent() {
        let io = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let rows: [(SqlError, Fate); 7] = [
            (SqlError::Io(io()), Reconnect),
            (SqlError::Tls("x".into()), Operator),
            (SqlError::RowNotFound, Rejected),
            (SqlError::Encode("x".into()), Rejected),
            (SqlError::ColumnNotFound("x".into()), Operator),
            (SqlError::Decode("x".into()), Operator),
            (SqlError::Protocol("x".into()), InDoubt),
        ];
        for (error, before) in rows {
            assert_eq!(fate(&error, Phase::BeforeCommit), before, "{error:?}");
            assert_eq!(fate(&error, Phase::CommitSent), InDoubt, "{error:?}");
        }
    }

    #[test]
    fn quoted_values_are_left_out() {
        let message = "invalid input value for enum mood: \"secret\"";
        let text = without_quotations(message);
        assert_eq!(text, "invalid input value for enum mood: \"…\"");
    }
}
