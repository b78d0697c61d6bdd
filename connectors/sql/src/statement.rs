//! The pieces of SQL text that both databases write the same way.

use std::fmt::Write;

use crate::name::quote;
use crate::table::{Role, Table};

/// What the target is called inside `ON CONFLICT`.
const TARGET: &str = "\"tidegate_target\"";

/// `INTO`'s column list: `"a", "b"`.
pub fn column_list<O>(table: &Table<O>) -> String {
    let quoted: Vec<String> = table.columns().iter().map(|c| ident(&c.name)).collect();
    quoted.join(", ")
}

/// The opening of an insert, `INSERT INTO <target> AS … (<columns>)`, and the `ON CONFLICT` clause
/// of an upsert (empty for appended rows). `target` is quoted already. `sum` writes the expression
/// that adds its second argument to its first.
pub fn on_conflict<O>(
    table: &Table<O>,
    target: &str,
    sum: impl Fn(&str, &str) -> String,
) -> (String, String) {
    let insert = format!("INSERT INTO {target} AS {TARGET} ({})", column_list(table));
    if !table.is_upsert() {
        return (insert, String::new());
    }
    let key: Vec<String> = table.key().iter().map(|name| ident(name)).collect();
    let mut conflict = format!("ON CONFLICT ({}) DO ", key.join(", "));
    let rest = table.columns().iter().filter(|c| !table.key().contains(&c.name));
    let mut assignments = String::new();
    for column in rest {
        let name = ident(&column.name);
        let separator = if assignments.is_empty() { "" } else { ", " };
        let value = match column.role {
            Role::Replace => format!("excluded.{name}"),
            Role::Add => sum(&format!("coalesce({TARGET}.{name}, 0)"), &format!("excluded.{name}")),
        };
        let _ = write!(assignments, "{separator}{name} = {value}");
    }
    if assignments.is_empty() {
        conflict.push_str("NOTHING");
    } else {
        let _ = write!(conflict, "UPDATE SET {assignments}");
    }
    (insert, conflict)
}

fn ident(name: &str) -> String {
    quote(name).expect("the columns' names were checked when the table was")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upsert_replaces_and_adds_and_leaves_its_key_alone() {
        let table = Table::<i64>::new("t")
            .int8("id", |o| *o)
            .int8("last", |o| *o)
            .int8_add("n", |_| 1)
            .upsert_on(["id"]);
        let (insert, conflict) = on_conflict(&table, "\"t\"", |old, new| format!("{old} + {new}"));
        assert_eq!(insert, r#"INSERT INTO "t" AS "tidegate_target" ("id", "last", "n")"#);
        assert_eq!(
            conflict,
            "ON CONFLICT (\"id\") DO UPDATE SET \"last\" = excluded.\"last\", \
             \"n\" = coalesce(\"tidegate_target\".\"n\", 0) + excluded.\"n\""
        );
    }

    #[test]
    fn an_upsert_of_nothing_but_its_key_leaves_the_row_alone() {
        let table = Table::<i64>::new("t").int8("id", |o| *o).upsert_on(["id"]);
        let (_, conflict) = on_conflict(&table, "\"t\"", |old, new| format!("{old} + {new}"));
        assert_eq!(conflict, "ON CONFLICT (\"id\") DO NOTHING");
    }
}
