//! Every type of column arrives as it was, by `UNNEST` and by `COPY`; what cannot arrive is named.

#[path = "../../sql/tests/common/mod.rs"]
#[allow(dead_code, unused_macros, reason = "this file uses a part of it")]
mod common;
#[allow(dead_code, reason = "this file uses a part of it")]
mod lab;

use chrono::{DateTime, Utc};
use common::cut::cut;
use common::{Lab, claim_from_zero, culprit, open};
use lab::Database;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use tidegate::sink::{CommitError, TransactionalSink};
use tidegate_postgres::Table;
use uuid::Uuid;

#[derive(Clone, Default)]
struct Row {
    bool: bool,
    int4: i32,
    int8: i64,
    float8: f64,
    numeric: Decimal,
    text: String,
    bytea: Vec<u8>,
    timestamptz: DateTime<Utc>,
    uuid: Uuid,
    jsonb: Value,
    bools: Vec<bool>,
    int4s: Vec<i32>,
    int8s: Vec<i64>,
    float8s: Vec<f64>,
    texts: Vec<String>,
}

const COLUMNS: &str = "bool boolean, int4 integer, int8 bigint, float8 double precision, \
     numeric numeric, text text, bytea bytea, timestamptz timestamptz, uuid uuid, jsonb jsonb, \
     bools boolean[], int4s integer[], int8s bigint[], float8s double precision[], texts text[]";

fn table() -> Table<Row> {
    Table::new("types")
        .bool("bool", |r: &Row| r.bool)
        .int4("int4", |r| r.int4)
        .int8("int8", |r| r.int8)
        .float8("float8", |r| r.float8)
        .numeric("numeric", |r| r.numeric)
        .text("text", |r| &r.text)
        .bytea("bytea", |r| &r.bytea)
        .timestamptz("timestamptz", |r| r.timestamptz)
        .uuid("uuid", |r| r.uuid)
        .jsonb("jsonb", |r| &r.jsonb)
        .bool_array("bools", |r| &r.bools)
        .int4_array("int4s", |r| &r.int4s)
        .int8_array("int8s", |r| &r.int8s)
        .float8_array("float8s", |r| &r.float8s)
        .text_array("texts", |r| &r.texts)
}

/// The same columns, all NULL.
fn nulls() -> Table<Row> {
    Table::new("types")
        .bool_opt("bool", |_: &Row| None)
        .int4_opt("int4", |_| None)
        .int8_opt("int8", |_| None)
        .float8_opt("float8", |_| None)
        .numeric_opt("numeric", |_| None)
        .text_opt("text", |_| None)
        .bytea_opt("bytea", |_| None)
        .timestamptz_opt("timestamptz", |_| None)
        .uuid_opt("uuid", |_| None)
        .jsonb_opt("jsonb", |_| None)
        .bool_array_opt("bools", |_| None)
        .int4_array_opt("int4s", |_| None)
        .int8_array_opt("int8s", |_| None)
        .float8_array_opt("float8s", |_| None)
        .text_array_opt("texts", |_| None)
}

fn extremes() -> Vec<Row> {
    let micros = |micros| DateTime::from_timestamp_micros(micros).expect("a time");
    vec![
        Row::default(),
        Row {
            bool: true,
            int4: i32::MIN,
            int8: i64::MIN,
            float8: f64::NAN,
            numeric: Decimal::MIN,
            text: "ä\u{1F30A}\\\"'\n".to_owned(),
            bytea: vec![0, 255, 1],
            timestamptz: micros(-210_866_803_200_000_000),
            uuid: Uuid::max(),
            jsonb: json!({"a": [1, 2.5, null, "x\"\\"], "b": {}}),
            bools: vec![true, false],
            int4s: vec![i32::MAX, i32::MIN],
            int8s: vec![i64::MAX, i64::MIN],
            float8s: vec![f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -0.0, 1e-300],
            texts: ["", "NULL", "a,b", "{}", "\"quoted\"", "back\\slash", " "]
                .map(str::to_owned)
                .to_vec(),
        },
        Row {
            float8: f64::MIN_POSITIVE,
            numeric: "0.0000000000000000000000000001".parse().expect("a decimal"),
            timestamptz: micros(1),
            jsonb: json!("text"),
            ..Row::default()
        },
    ]
}

#[tokio::test]
async fn every_type_arrives_as_it_was_by_unnest_and_by_copy() {
    let lab = Database::new().await;
    let mut stored = Vec::new();
    for copy_rows_min in [usize::MAX, 1] {
        lab.run(&format!("CREATE TABLE types ({COLUMNS})")).await;
        let sink = lab.sink(vec![table(), nulls()]).copy_rows_min(copy_rows_min);
        let mut sink = open(sink).await;
        claim_from_zero(&mut sink, 1).await;
        let next = common::at(&common::claim_one(&mut sink, 0).await);
        let batch = cut(0, next..next + 1).emit(next, extremes()).batch();
        sink.commit(&batch).await.expect("committed");
        stored.push(lab.rows("SELECT * FROM types ORDER BY int8, types::text").await);
        lab.run("DROP TABLE types").await;
    }
    assert_eq!(stored[0], stored[1]);
    let expected = [
        r#"t|-2147483648|-9223372036854775808|NaN|-79228162514264337593543950335|ä🌊\"'
|\x00ff01|4714-11-24 00:00:00+00 BC|ffffffff-ffff-ffff-ffff-ffffffffffff|{"a": [1, 2.5, null, "x\"\\"], "b": {}}|{t,f}|{2147483647,-2147483648}|{9223372036854775807,-9223372036854775808}|{Infinity,-Infinity,NaN,-0,1e-300}|{"","NULL","a,b","{}","\"quoted\"","back\\slash"," "}"#,
        r#"f|0|0|0|0||\x|1970-01-01 00:00:00+00|00000000-0000-0000-0000-000000000000|null|{}|{}|{}|{}|{}"#,
    ];
    assert_eq!(stored[0][0], expected[0]);
    assert!(stored[0].iter().any(|row| row == expected[1]), "{:#?}", stored[0]);
    let tiny = "f|0|0|2.2250738585072014e-308|0.0000000000000000000000000001||\\x|1970-01-01 00:00:00.000001+00";
    assert!(stored[0].iter().any(|row| row.starts_with(tiny)), "{:#?}", stored[0]);
    let null_row = vec!["-"; 15].join("|");
    assert_eq!(stored[0].iter().filter(|row| **row == null_row).count(), 3);
}

#[derive(Clone)]
struct Bad {
    text: String,
    number: Decimal,
    time: DateTime<Utc>,
    json: Value,
    mood: String,
}

fn good() -> Bad {
    Bad {
        text: "ok".into(),
        number: Decimal::ONE,
        time: DateTime::UNIX_EPOCH,
        json: json!({}),
        mood: "happy".into(),
    }
}

#[tokio::test]
async fn a_value_the_column_cannot_hold_is_traced_to_its_record() {
    let lab = Database::new().await;
    lab.run(
        "CREATE TYPE mood AS ENUM ('happy', 'sad'); CREATE DOMAIN short AS varchar(3) NOT NULL; \
         CREATE TABLE bad (text short, number numeric(4, 2), time timestamptz, json jsonb, \
         mood mood)",
    )
    .await;
    let table = || {
        Table::new("bad")
            .text("text", |b: &Bad| &b.text)
            .numeric("number", |b| b.number)
            .timestamptz("time", |b| b.time)
            .jsonb_owned("json", |b| b.json.clone())
            .text("mood", |b| &b.mood)
    };
    let far = DateTime::<Utc>::MIN_UTC;
    let cases: [(&str, bool, Bad); 6] = [
        ("NUL character", true, Bad { text: "\0".into(), ..good() }),
        ("longer than 3 characters", true, Bad { text: "four".into(), ..good() }),
        ("out of range for numeric(4,2)", true, Bad { number: Decimal::ONE_HUNDRED, ..good() }),
        ("outside 4713 BC", true, Bad { time: far, ..good() }),
        ("\\u0000 in JSON", true, Bad { json: json!(["\0"]), ..good() }),
        ("enum mood", false, Bad { mood: "secret".into(), ..good() }),
    ];
    for copy_rows_min in [usize::MAX, 1] {
        let mut sink = open(lab.sink(vec![table()]).copy_rows_min(copy_rows_min)).await;
        claim_from_zero(&mut sink, 1).await;
        for (says, known, bad) in &cases {
            let batch = cut(0, 0..9)
                .emit(1, [good(), good()])
                .emit(4, [good(), bad.clone()])
                .emit(7, [good()])
                .batch();
            match sink.commit(&batch).await {
                Err(CommitError::Rejected(rejection)) => {
                    let text = rejection.cause.to_string();
                    assert!(text.contains(says) && !text.contains("secret"), "{text}");
                    let record = rejection.record.map(|record| record.offset.get());
                    assert_eq!(record, known.then_some(4), "{says}");
                }
                other => panic!("{says} is rejected, got {other:?}"),
            }
            assert_eq!(culprit(&mut sink, &batch).await, 4, "{says}");
        }
        assert_eq!(lab.number("SELECT count(*) FROM bad").await, 0);
    }
}

#[tokio::test]
async fn an_exact_total_is_added_up_exactly() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE ledger (account text PRIMARY KEY, balance numeric NOT NULL)").await;
    let table = Table::new("ledger")
        .text("account", |_: &Decimal| "a")
        .numeric_add("balance", |amount| *amount)
        .upsert_on(["account"]);
    let mut sink = open(lab.sink(vec![table])).await;
    claim_from_zero(&mut sink, 1).await;
    let amount = |text: &str| text.parse::<Decimal>().expect("a decimal");
    for (next, amounts) in [(0, ["0.1", "0.2"]), (1, ["-0.05", "1000000000000.001"])] {
        let batch = cut(0, next..next + 1).emit(next, amounts.map(amount)).batch();
        sink.commit(&batch).await.expect("committed");
    }
    assert_eq!(lab.rows("SELECT balance FROM ledger").await, ["1000000000000.251"]);
}

#[tokio::test]
async fn keys_that_the_column_makes_equal_are_one_row() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE rates (rate numeric(6, 2), text varchar(3), n bigint, PRIMARY KEY (rate, text))")
        .await;
    let table = Table::new("rates")
        .numeric("rate", |(rate, _): &(Decimal, &'static str)| *rate)
        .text("text", |(_, text)| text)
        .int8_add("n", |_| 1)
        .upsert_on(["rate", "text"]);
    let mut sink = open(lab.sink(vec![table])).await;
    claim_from_zero(&mut sink, 1).await;
    let rate = |text: &str| text.parse::<Decimal>().expect("a decimal");
    let rows = [
        (rate("1.005"), "abc"),
        (rate("1.01"), "abc  "),
        (rate("1.0149"), "abc   "),
        (rate("1.02"), "abc"),
    ];
    sink.commit(&cut(0, 0..1).emit(0, rows).batch()).await.expect("committed");
    let stored = lab.rows("SELECT rate, text, n FROM rates ORDER BY rate").await;
    assert_eq!(stored, ["1.01|abc|3", "1.02|abc|1"]);
}
