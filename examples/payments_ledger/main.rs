//! Card payments in two dozen currencies into a ledger in euro that balances to the cent.
#![forbid(unsafe_code)]

mod payments;
mod rates;

use std::process::ExitCode;

use anyhow::Result;
use rust_decimal::Decimal;
use tidegate::prelude::*;
use tidegate::sink::TransactionalSink;
use tidegate_examples::args::Args;
use tidegate_examples::postgres::Database;
use tidegate_examples::show::{Checks, Table as Shown, thousands};
use tidegate_examples::{kafka, run};
use tidegate_postgres::{Postgres, Table};

use crate::payments::Payment;
use crate::rates::{NoRate, Rates};

const TABLES: &str = "
    CREATE SCHEMA IF NOT EXISTS ledger;
    CREATE TABLE IF NOT EXISTS ledger.entries (
        payment text NOT NULL,
        account text NOT NULL,
        amount  numeric(12, 2) NOT NULL, -- EUR; debits are positive
        source_topic text, source_partition integer, source_offset bigint, source_index integer
    );
    CREATE TABLE IF NOT EXISTS ledger.balances (
        account text PRIMARY KEY,
        entries bigint NOT NULL,
        amount  numeric(14, 2) NOT NULL
    )";

/// One side of a booking.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    payment: String,
    account: String,
    amount: Decimal,
}

/// A payment in a currency without a rate for its month becomes a dead letter.
fn pipeline<S>(args: &Args, sink: S) -> Job<Entry>
where
    S: TransactionalSink<Output = Entry>,
{
    let rates = Rates::load();
    let work = args.work();
    Pipeline::new(args.named("payments", ""))
        .instance(&args.instance)
        .from(args.kafka().source(args.named("payments", "")))
        .decode(Json::<Payment>::new())
        .try_map(move |record| {
            work();
            book(&rates, &record.value)
        })
        .flat_map(|entries| entries)
        .order(Order::ByKey)
        .on_failure(Retry::never().then_dead_letter())
        .exactly_once(sink)
}

/// The card scheme owes what was paid; the merchant gets it less the fee. The three add up to
/// nothing, whatever was rounded.
fn book(rates: &Rates, payment: &Payment) -> Result<[Entry; 3], NoRate> {
    let gross = rates.in_euro(payment)?;
    // 1.4 % and five cents.
    let fee = (gross * Decimal::new(14, 3)).round_dp(2) + Decimal::new(5, 2);
    let entry =
        |account: String, amount: Decimal| Entry { payment: payment.id.clone(), account, amount };
    Ok([
        entry(format!("cards {}", payment.currency), gross),
        entry(format!("merchant {}", payment.merchant), fee - gross),
        entry("fees".to_owned(), -fee),
    ])
}

fn entries() -> Table<Entry> {
    Table::new("ledger.entries")
        .text("payment", |entry: &Entry| &entry.payment)
        .text("account", |entry| &entry.account)
        .numeric("amount", |entry| entry.amount)
        .lineage()
}

/// Each entry is added to the balance of its account, exactly: no float is anywhere.
fn balances() -> Table<Entry> {
    Table::new("ledger.balances")
        .text("account", |entry: &Entry| &entry.account)
        .int8_add("entries", |_| 1)
        .numeric_add("amount", |entry| entry.amount)
        .upsert_on(["account"])
}

#[tokio::main]
async fn main() -> ExitCode {
    run::exit(example(&Args::read()).await)
}

async fn example(args: &Args) -> Result<()> {
    let sink = Postgres::connect(&args.postgres()).setup(TABLES).into(entries()).into(balances());
    let job = pipeline(args, sink);
    if args.explained(&job) {
        return Ok(());
    }
    let topic = args.named("payments", "");
    let mut database = Database::connect(&args.postgres()).await?;
    let values = payments::values()?;
    let records = values.iter().map(|(merchant, value)| (merchant.clone(), value.as_str()));
    kafka::load(&args.bootstrap(), &topic, 6, records).await?;
    let summary = run::run(job, args, &topic).await?;
    println!("{summary}\n");
    if args.drain { report(&mut database, &topic).await } else { Ok(()) }
}

async fn report(database: &mut Database, group: &str) -> Result<()> {
    let (rows, paid, fees, sum): (i64, String, String, String) = database
        .row(
            "SELECT count(*), coalesce(sum(amount) FILTER (WHERE account LIKE 'cards %'), 0)::text, \
             coalesce(-sum(amount) FILTER (WHERE account = 'fees'), 0)::text, \
             coalesce(sum(amount), 0)::text FROM ledger.entries",
            &[],
        )
        .await?;
    let (booked, total): (i64, String) = database
        .row(
            "SELECT coalesce(sum(entries), 0)::bigint, coalesce(sum(amount), 0)::text \
             FROM ledger.balances",
            &[],
        )
        .await?;
    let (wrong,): (i64,) = database
        .row(
            "SELECT count(*) FROM ledger.balances b FULL JOIN (SELECT account, count(*) AS n, \
             sum(amount) AS amount FROM ledger.entries GROUP BY account) e USING (account) \
             WHERE (b.entries, b.amount) IS DISTINCT FROM (e.n, e.amount)",
            &[],
        )
        .await?;
    let (dead,): (i64,) = database
        .row("SELECT count(*) FROM tidegate.dead_letter WHERE group_id = $1", &[group])
        .await?;
    let euro = |text: &str| text.to_owned();
    Checks::default()
        .equal("entries", rows, 59_940)
        .equal_text("paid by card", paid, euro("1718130.10"))
        .note("EUR")
        .equal_text("fees", fees, euro("25052.31"))
        .note("EUR")
        .equal_text("sum of all entries", sum, euro("0.00"))
        .equal("entries in balances", booked, 59_940)
        .equal_text("sum of all balances", total, euro("0.00"))
        .equal("wrong balances", wrong, 0)
        .equal("dead letters", dead, 20)
        .verify("20,000 payments (ledger.entries, ledger.balances)")?;
    let accounts: Vec<(String, i64, String)> = database
        .rows(
            "SELECT account, entries, amount::text FROM ledger.balances \
             ORDER BY abs(amount) DESC LIMIT 6",
            &[],
        )
        .await?;
    let mut table = Shown::new(["largest balances", "entries", "EUR"]);
    for (account, entries, amount) in accounts {
        table.row([account, thousands(entries), amount]);
    }
    print!("{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate::testing::TestDriver;

    #[test]
    fn every_payment_is_booked_and_all_bookings_add_up_to_nothing() -> Result<()> {
        let sink = Postgres::connect("postgres://127.0.0.1:1/nowhere").into(entries());
        let mut driver = TestDriver::new(pipeline(&Args::nowhere(), sink))?;
        for (merchant, value) in payments::values()? {
            driver.feed("payments", Some(&merchant), Some(&value));
        }
        driver.run().expect("nothing stops it");
        let sum: Decimal = driver.rows().iter().map(|row| row.value.amount).sum();
        assert_eq!(sum, Decimal::ZERO);
        assert_eq!(driver.rows().len() + 3 * driver.dead_letters().len(), 60_000);
        Ok(())
    }

    #[test]
    fn a_payment_is_booked_in_three_entries() -> Result<()> {
        let payment = Payment {
            id: "p".into(),
            month: "2020-01".into(),
            currency: "JPY".into(),
            amount: "10000".into(),
            merchant: "m".into(),
        };
        // 10,000 yen at 109.2667 and 0.9011 a dollar are 82.468… euro.
        let [cards, merchant, fees] = book(&Rates::load(), &payment)?;
        assert_eq!(cards.amount, Decimal::new(82_47, 2));
        assert_eq!(fees.amount, -Decimal::new(1_20, 2));
        assert_eq!(merchant.amount, -Decimal::new(81_27, 2));
        Ok(())
    }
}
