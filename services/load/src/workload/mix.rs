use rand::{Rng, rngs::StdRng};

use super::{Amm, Call, Calls, Erc20, MultiHop, Transfer};

/// 50 % payments, 30 % token transfers, 15 % swaps, 5 % chains of calls; the share that crosses is
/// that of each.
pub struct Mix {
    transfer: Transfer,
    erc20: Erc20,
    amm: Amm,
    multihop: MultiHop,
}

impl Mix {
    pub fn new(transfer: Transfer, erc20: Erc20, amm: Amm, multihop: MultiHop) -> Self {
        Self { transfer, erc20, amm, multihop }
    }
}

impl Calls for Mix {
    fn next(&mut self, rng: &mut StdRng) -> Call {
        match rng.random_range(0..100) {
            0..50 => self.transfer.next(rng),
            50..80 => self.erc20.next(rng),
            80..95 => self.amm.next(rng),
            _ => self.multihop.next(rng),
        }
    }
}
