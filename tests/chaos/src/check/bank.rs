//! What is moved is neither made nor lost.

use super::{Anomaly, Found};
use crate::history::{Action, End, History, Place, Seen};

pub(super) fn check(history: &History, found: &mut Found) {
    let world = &history.world;
    let places = usize::from(world.books) * usize::from(world.accounts);
    let supply = places as u128 * u128::from(world.balance);
    let mut add_up = |balances: &[u64], when: &dyn Fn() -> String| {
        let sum: u128 = balances.iter().copied().map(u128::from).sum();
        if balances.len() != places || sum != supply {
            found.add(Anomaly::WrongTotal, || {
                format!("{sum} of {supply} in {balances:?}, {}", when())
            });
        }
    };
    for op in &history.ops {
        if let (Action::Totals, End::Ok(Seen::Balances(balances))) = (&op.action, &op.end) {
            add_up(balances, &|| format!("client {} at {}", op.client, op.ended));
        }
    }
    add_up(&history.ending.balances, &|| "at the end".to_owned());
    // Each move once: not one less, not one more.
    let mut balances = vec![i128::from(world.balance); places];
    let index = |place: Place| {
        usize::from(place.book) * usize::from(world.accounts) + usize::from(place.account)
    };
    for op in &history.ops {
        let Action::Move(move_) = &op.action else { continue };
        if !history.took_effect(op) {
            continue;
        }
        for (place, change) in [(move_.from, -1), (move_.to, 1)] {
            match balances.get_mut(index(place)) {
                Some(balance) => *balance += change * i128::from(move_.amount),
                None => found.add(Anomaly::Malformed, || format!("there is no {place:?}")),
            }
        }
    }
    for (at, (made, there)) in balances.iter().zip(&history.ending.balances).enumerate() {
        if *made != i128::from(*there) {
            found.add(Anomaly::WrongBalance, || {
                format!("account {at} of all books holds {there}, moves make it {made}")
            });
        }
    }
}
