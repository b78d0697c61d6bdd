//! Whether what a transaction wrote and the offsets it stored belong together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::offsets::Move;
use super::stretch::{Ended, Stretch};
use crate::audit::{Partition, Source, Wanted};

/// Stretches of each partition of an output topic; of each record its source and its offset.
pub(super) type Outputs = BTreeMap<i32, Vec<Stretch<(Source, i64)>>>;

/// What was compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreed {
    /// Transactions that were committed.
    pub committed: usize,
    /// … of which nothing was to be written: all their records were filtered.
    pub empty: usize,
    /// Records that they wrote.
    pub records: usize,
    /// Parts of transactions that were aborted, one for each partition written to.
    pub aborted: usize,
    /// … which the coordinator ended, because of a time-out or for an heir.
    pub by_coordinator: usize,
    /// Records that were aborted.
    pub invisible: usize,
    /// Producers, by number and epoch.
    pub producers: usize,
}

impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { committed, empty, records, aborted, by_coordinator, invisible, producers } =
            self;
        write!(
            f,
            "{committed} transactions of {producers} producers agree with their offsets ({empty} wrote nothing), \
             {records} records; {aborted} aborted parts with {invisible} records are invisible, \
             {by_coordinator} of them ended by the coordinator"
        )
    }
}

/// A transaction that was committed.
#[derive(Debug)]
struct Transaction<'a> {
    by: Option<(i64, i16)>,
    at: i64,
    /// From where to where it moved each partition.
    strides: BTreeMap<&'a Partition, (i64, i64)>,
    copies: Vec<&'a Source>,
    dead: Vec<&'a Source>,
}

impl Transaction<'_> {
    fn covers(&self, (partition, offset, _): &Source) -> bool {
        self.strides.get(partition).is_some_and(|(from, next)| (*from..*next).contains(offset))
    }
}

/// Each transaction wrote what the records between the offsets before it and those that it stored ask for.
pub(super) fn agree(
    moves: &[Move],
    copies: &Outputs,
    dead: &Outputs,
    wanted: &Wanted,
) -> Result<Agreed, String> {
    let mut transactions = transactions(moves)?;
    let mut of: HashMap<i64, Vec<usize>> = HashMap::new();
    for (number, transaction) in transactions.iter().enumerate() {
        if let Some((producer, _)) = transaction.by {
            of.entry(producer).or_default().push(number);
        }
    }
    give(copies, &of, &mut transactions, |transaction| &mut transaction.copies)?;
    give(dead, &of, &mut transactions, |transaction| &mut transaction.dead)?;
    let mut agreed = Agreed::default();
    for transaction in &mut transactions {
        let wrote = compare(transaction, wanted)?;
        if transaction.by.is_some() {
            agreed.committed += 1;
            agreed.empty += usize::from(wrote == 0);
            agreed.records += wrote;
        }
    }
    let all = || copies.values().chain(dead.values()).flatten();
    for stretch in all().filter(|stretch| stretch.ended == Ended::Aborted) {
        agreed.aborted += 1;
        agreed.by_coordinator += usize::from(stretch.by_coordinator);
        agreed.invisible += stretch.records.len();
    }
    let producers: HashSet<_> = all().map(|stretch| (stretch.producer, stretch.epoch)).collect();
    agreed.producers = producers.len();
    Ok(agreed)
}

fn transactions(moves: &[Move]) -> Result<Vec<Transaction<'_>>, String> {
    let mut stands: HashMap<&Partition, i64> = HashMap::new();
    let mut transactions = Vec::with_capacity(moves.len());
    for Move { at, by, next } in moves {
        let mut strides = BTreeMap::new();
        for (partition, next) in next {
            let (topic, number) = partition;
            let Some(next) = *next else {
                return Err(format!("at {at} the offset of {topic}/{number} was deleted"));
            };
            let from = stands.insert(partition, next).unwrap_or_default();
            if next < from {
                return Err(format!("at {at} {topic}/{number} went back from {from} to {next}"));
            }
            strides.insert(partition, (from, next));
        }
        let (copies, dead) = (Vec::new(), Vec::new());
        transactions.push(Transaction { by: *by, at: *at, strides, copies, dead });
    }
    Ok(transactions)
}

/// Gives each stretch to the transaction that it is part of: a later one of its producer than the stretch before it in
/// the same partition.
fn give<'a>(
    outputs: &'a Outputs,
    of: &HashMap<i64, Vec<usize>>,
    transactions: &mut [Transaction<'a>],
    part: impl for<'t> Fn(&'t mut Transaction<'a>) -> &'t mut Vec<&'a Source>,
) -> Result<(), String> {
    for (number, stretches) in outputs {
        let mut behind: HashMap<i64, usize> = HashMap::new();
        for stretch in stretches {
            let Stretch { producer, epoch, ended, records, marker, .. } = stretch;
            let place = || format!("partition {number}, marker {marker}, producer {producer}");
            match ended {
                Ended::Open => return Err(format!("{}: open", place())),
                Ended::Aborted => continue,
                Ended::Committed => {}
            }
            let Some((first, _)) = records.first() else { continue };
            let mine = of.get(producer).map_or(&[][..], Vec::as_slice);
            let begin = behind.get(producer).copied().unwrap_or_default();
            let found = mine[begin..].iter().position(|at| transactions[*at].covers(first));
            let Some(found) = found else {
                return Err(format!("{}: {first:?} was stored with other offsets", place()));
            };
            behind.insert(*producer, begin + found + 1);
            let transaction = &mut transactions[mine[begin + found]];
            if let Some((stray, _)) = records.iter().find(|(record, _)| !transaction.covers(record))
            {
                return Err(format!("{}: {stray:?} is of another transaction", place()));
            }
            if transaction.by != Some((*producer, *epoch)) {
                return Err(format!("{}: epoch {epoch}, offsets {:?}", place(), transaction.by));
            }
            part(transaction).extend(records.iter().map(|(source, _)| source));
        }
    }
    Ok(())
}

/// How many records the transaction wrote.
fn compare(transaction: &mut Transaction<'_>, wanted: &Wanted) -> Result<usize, String> {
    transaction.copies.sort_unstable();
    transaction.dead.sort_unstable();
    let (mut copies, mut dead) = (transaction.copies.iter(), transaction.dead.iter());
    for (&partition, &(from, next)) in &transaction.strides {
        let wrong = |what, wanted, there: Option<&&Source>| {
            let (topic, number) = partition;
            let (at, by) = (transaction.at, transaction.by);
            format!(
                "the transaction at {at} (producer and epoch {by:?}) moved {topic}/{number} from {from} to {next}: \
                 {what} of {wanted:?} wanted, {there:?} written"
            )
        };
        for (offset, i) in wanted.copies(partition, from..next) {
            let there = copies.next();
            if there.is_none_or(|there| (&there.0, there.1, there.2) != (partition, offset, i)) {
                return Err(wrong("a copy", (offset, i), there));
            }
        }
        for offset in wanted.dead(partition, from..next) {
            let there = dead.next();
            if there.is_none_or(|there| (&there.0, there.1) != (partition, offset)) {
                return Err(wrong("a dead letter", (offset, 0), there));
            }
        }
    }
    match copies.next().or_else(|| dead.next()) {
        Some(more) => Err(format!("the transaction at {} wrote {more:?} too", transaction.at)),
        None => Ok(transaction.copies.len() + transaction.dead.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Input, Rules};

    fn partition(number: i32) -> Partition {
        ("in".into(), number)
    }

    fn wanted() -> Wanted {
        let input = |(number, offset, value): (i32, i64, &str)| Input {
            partition: partition(number),
            offset,
            key: None,
            value: Some(value.into()),
        };
        let inputs = [
            (0, 0, "a"),
            (0, 1, "fan:2:"),
            (0, 2, "poison:"),
            (0, 4, "b"),
            (1, 0, "drop:"),
            (1, 1, "c"),
        ];
        Wanted::of(&inputs.map(input), &Rules::default())
    }

    fn moved(at: i64, by: Option<(i64, i16)>, next: &[(i32, i64)]) -> Move {
        let next = next.iter().map(|(number, next)| (partition(*number), Some(*next)));
        Move { at, by, next: next.collect() }
    }

    fn stretch(producer: i64, ended: Ended, sources: &[(i32, i64, i32)]) -> Stretch<(Source, i64)> {
        let source = |(number, offset, i): &(i32, i64, i32)| ((partition(*number), *offset, *i), 0);
        let records = sources.iter().map(source).collect();
        Stretch { producer, epoch: 0, ended, by_coordinator: false, marker: 0, records }
    }

    struct History {
        moves: Vec<Move>,
        copies: Outputs,
        dead: Outputs,
    }

    /// Two producers, two output partitions, an aborted try, and a transaction of filtered records.
    fn good() -> History {
        use Ended::{Aborted, Committed};
        let moves = vec![
            moved(0, None, &[(0, 0)]),
            moved(1, Some((7, 0)), &[(0, 2)]),
            moved(2, Some((8, 0)), &[(1, 1)]),
            moved(3, Some((7, 0)), &[(0, 5), (1, 2)]),
        ];
        let first = vec![
            stretch(8, Aborted, &[(1, 1, 0)]),
            stretch(7, Committed, &[(0, 1, 1), (0, 0, 0)]),
            stretch(7, Committed, &[(0, 4, 0)]),
        ];
        let second = vec![stretch(7, Committed, &[(0, 1, 0)]), stretch(7, Committed, &[(1, 1, 0)])];
        let dead = vec![stretch(7, Committed, &[(0, 2, 0)])];
        History { moves, copies: [(0, first), (1, second)].into(), dead: [(0, dead)].into() }
    }

    fn judged(History { moves, copies, dead }: &History) -> Result<Agreed, String> {
        agree(moves, copies, dead, &wanted())
    }

    #[test]
    fn transactions_that_agree_pass_and_are_counted() {
        let agreed = judged(&good()).expect("it is good");
        let wanted = Agreed {
            committed: 3,
            empty: 1,
            records: 6,
            aborted: 1,
            by_coordinator: 0,
            invisible: 1,
            producers: 2,
        };
        assert_eq!(agreed, wanted);
    }

    #[test]
    fn transactions_that_disagree_are_found() {
        let refused = |spoil: &dyn Fn(&mut History)| {
            let mut history = good();
            spoil(&mut history);
            judged(&history).expect_err("it is spoiled")
        };
        let records = |history: &mut History, number: i32, at: usize| {
            history.copies.get_mut(&number).expect("there")[at].records.pop()
        };
        let next = |h: &mut History, at: usize, next| {
            h.moves[at].next.insert(partition(0), next);
        };
        let stretch_of = |h: &mut History, at: usize, ended| {
            h.copies.get_mut(&0).expect("there")[at].ended = ended;
        };
        let lost = refused(&|h| drop(records(h, 1, 0)));
        assert!(lost.contains("wanted"), "{lost}");
        let torn = refused(&|h| next(h, 1, Some(1)));
        assert!(torn.contains("another transaction"), "{torn}");
        let offsets_alone = refused(&|h| stretch_of(h, 1, Ended::Aborted));
        assert!(offsets_alone.contains("wanted"), "{offsets_alone}");
        let results_alone = refused(&|h| drop(h.moves.pop()));
        assert!(results_alone.contains("other offsets"), "{results_alone}");
        let doubled = refused(&|h| stretch_of(h, 0, Ended::Committed));
        assert!(doubled.contains("other offsets"), "{doubled}");
        let back = refused(&|h| next(h, 3, Some(1)));
        assert!(back.contains("went back"), "{back}");
        assert!(refused(&|h| next(h, 3, None)).contains("deleted"));
        assert!(refused(&|h| stretch_of(h, 2, Ended::Open)).contains("open"));
        let plain = refused(&|h| h.moves[1].by = None);
        assert!(plain.contains("other offsets"), "{plain}");
    }
}
