//! Exchange rates by month, from the Federal Reserve's table.

use std::collections::HashMap;
use std::fmt;

use rust_decimal::Decimal;

use crate::payments::Payment;

/// Units of the currency for one US dollar: `Date,Country,Exchange rate`.
const RATES: &str = include_str!("../data/exchange-rates-monthly.csv");

/// Country in the table, currency, decimals of its amounts.
pub(crate) const CURRENCIES: [(&str, &str, u32); 22] = [
    ("Australia", "AUD", 2),
    ("Brazil", "BRL", 2),
    ("Canada", "CAD", 2),
    ("China", "CNY", 2),
    ("Denmark", "DKK", 2),
    ("Euro", "EUR", 2),
    ("Hong Kong", "HKD", 2),
    ("India", "INR", 2),
    ("Japan", "JPY", 0),
    ("Malaysia", "MYR", 2),
    ("Mexico", "MXN", 2),
    ("New Zealand", "NZD", 2),
    ("Norway", "NOK", 2),
    ("Singapore", "SGD", 2),
    ("South Africa", "ZAR", 2),
    ("South Korea", "KRW", 0),
    ("Sri Lanka", "LKR", 2),
    ("Sweden", "SEK", 2),
    ("Switzerland", "CHF", 2),
    ("Taiwan", "TWD", 2),
    ("Thailand", "THB", 2),
    ("United Kingdom", "GBP", 2),
];

/// Rates by month and currency.
pub(crate) struct Rates(HashMap<(String, &'static str), Decimal>);

impl Rates {
    pub(crate) fn load() -> Self {
        let mut rates = HashMap::new();
        for line in RATES.lines().skip(1) {
            let mut cells = line.split(',');
            let (Some(date), Some(country), Some(rate)) =
                (cells.next(), cells.next(), cells.next())
            else {
                continue;
            };
            let known = CURRENCIES.iter().find(|(name, ..)| *name == country);
            if let (Some((_, currency, _)), Ok(rate), Some(month)) =
                (known, rate.parse::<Decimal>(), date.get(..7))
            {
                rates.insert((month.to_owned(), *currency), rate);
            }
        }
        Self(rates)
    }

    /// The payment in euro, rounded to the cent, half to even.
    pub(crate) fn in_euro(&self, payment: &Payment) -> Result<Decimal, NoRate> {
        let rate = |currency: &str| {
            let known = CURRENCIES.iter().find(|(_, code, _)| *code == currency);
            let (_, code, _) = known.ok_or(NoRate("the currency has no rate"))?;
            let rate = self.0.get(&(payment.month.clone(), *code));
            rate.copied().ok_or(NoRate("the month has no rate"))
        };
        let amount: Decimal = payment.amount.parse().map_err(|_| NoRate("the amount is none"))?;
        let euro = amount.checked_mul(rate("EUR")?).ok_or(NoRate("the amount is too large"))?;
        Ok((euro / rate(&payment.currency)?).round_dp(2))
    }
}

/// Why a payment cannot be booked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRate(&'static str);

impl fmt::Display for NoRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NoRate {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_currency_has_a_rate_for_every_month() {
        assert_eq!(Rates::load().0.len(), CURRENCIES.len() * 78);
    }

    #[test]
    fn what_has_no_rate_is_said() {
        let payment = |month: &str, currency: &str, amount: &str| Payment {
            id: "p".into(),
            month: month.into(),
            currency: currency.into(),
            amount: amount.into(),
            merchant: "m".into(),
        };
        let rates = Rates::load();
        let said = |payment| rates.in_euro(&payment).map_err(|error| error.0);
        assert_eq!(said(payment("2020-01", "EUR", "1.23")), Ok(Decimal::new(1_23, 2)));
        assert_eq!(said(payment("2020-01", "XAU", "1")), Err("the currency has no rate"));
        assert_eq!(said(payment("2019-12", "EUR", "1")), Err("the month has no rate"));
        assert_eq!(said(payment("2020-01", "EUR", "x")), Err("the amount is none"));
    }
}
