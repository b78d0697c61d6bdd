//! What PostgreSQL itself records of every move of progress: by a trigger, in the transaction that moves it, whoever
//! does it. No copier knows of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;

const KEEP: &str = r"
create schema ledger;
create table ledger.moves(
    seq bigserial primary key, topic text, partition int, old_next bigint, new_next bigint,
    old_claim bigint, new_claim bigint, xid bigint);
create index on ledger.moves(xid);
create function ledger.note() returns trigger language plpgsql as $$ begin
    insert into ledger.moves(topic, partition, old_next, new_next, old_claim, new_claim, xid)
    values (new.topic, new.partition, old.next_offset, new.next_offset, old.claim, new.claim,
        pg_current_xact_id()::text::bigint);
    return null;
end $$;
create trigger note after update on tidegate.progress for each row execute function ledger.note();
";

/// Every move begins where the one before it ended, none goes back, and claims only grow.
const BROKEN: &str = r"
select count(*) from (
    select old_next, new_next, old_claim, new_claim,
        lag(new_next) over w as next_before, lag(new_claim) over w as claim_before
    from ledger.moves window w as (partition by topic, partition order by seq)) as m
where new_next < old_next or new_claim < old_claim
    or old_next <> next_before or old_claim <> claim_before
";

/// Every copy was stored by the transaction that moved progress past its record.
const STRAY: &str = r#"
with began as (select topic, partition, min(old_next) as first from ledger.moves group by 1, 2)
select count(*) from public.copied c join began using (topic, partition)
    left join ledger.moves m on m.xid = c.xmin::text::bigint and m.topic = c.topic
        and m.partition = c.partition and c."offset" >= m.old_next and c."offset" < m.new_next
where c."offset" >= began.first and m.xid is null
"#;

/// Begins to keep it, as soon as there is any progress to watch.
pub(super) async fn keep(url: &str) -> Result<()> {
    loop {
        if let Ok(mut connection) = PgConnection::connect(url).await {
            let there = "select to_regclass('tidegate.progress') is not null";
            if sqlx::query_scalar(there).fetch_one(&mut connection).await.unwrap_or(false)
                && sqlx::raw_sql(KEEP).execute(&mut connection).await.is_ok()
            {
                return Ok(());
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Compares it with what is stored.
pub(super) async fn check(url: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    let mut count = async |sql: &'static str| -> Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&mut connection).await?)
    };
    let moves = count("select count(*) from ledger.moves").await?;
    let (broken, stray) = (count(BROKEN).await?, count(STRAY).await?);
    println!("ledger: {moves} moves of progress, {broken} out of order, {stray} copies of no move");
    ensure!(moves > 0, "the ledger is empty: nothing was compared");
    ensure!(broken == 0, "{broken} moves of progress do not follow the one before them");
    ensure!(stray == 0, "{stray} copies were not stored by the move of progress past their record");
    Ok(())
}
