//! The payments. They are made up, always the same; only the rates are real.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::rates::CURRENCIES;

/// How many there are.
const PAYMENTS: u64 = 20_000;

const MERCHANTS: [&str; 8] =
    ["Bakery", "Books", "Cinema", "Garage", "Grocer", "Hotel", "Pharmacy", "Railway"];

/// One payment as it stands in the topic.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Payment {
    pub(crate) id: String,
    /// `2024-03`.
    pub(crate) month: String,
    pub(crate) currency: String,
    /// Decimal text: money is no float.
    pub(crate) amount: String,
    pub(crate) merchant: String,
}

/// Merchant and JSON of every payment.
pub(crate) fn values() -> Result<Vec<(String, String)>> {
    let mut random = SplitMix(2024);
    let payments = (1..=PAYMENTS).map(|number| {
        let payment = payment(number, &mut random);
        Ok((payment.merchant.clone(), serde_json::to_string(&payment)?))
    });
    payments.collect()
}

fn payment(number: u64, random: &mut SplitMix) -> Payment {
    let month = random.below(78);
    let (_, currency, decimals) = CURRENCIES[random.below(CURRENCIES.len() as u64) as usize];
    let minor = 100 + random.below(49_901);
    let merchant = MERCHANTS[random.below(MERCHANTS.len() as u64) as usize];
    Payment {
        id: format!("p-{number:05}"),
        month: format!("{}-{:02}", 2020 + month / 12, 1 + month % 12),
        // Now and then somebody pays with what has no rate.
        currency: if number.is_multiple_of(997) { "XAU" } else { currency }.to_owned(),
        amount: match decimals {
            0 => minor.to_string(),
            _ => format!("{}.{:02}", minor / 100, minor % 100),
        },
        merchant: merchant.to_owned(),
    }
}

/// Sebastiano Vigna's generator: short, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
