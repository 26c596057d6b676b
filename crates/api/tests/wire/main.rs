//! Every request and reply, from the domain to bytes and back.

mod damage;
mod errors;
mod malformed;
mod messages;
mod nouns;
mod paths;
mod random;
mod round_trip;

use std::hash::{BuildHasher as _, RandomState};

use rand::{SeedableRng, rngs::StdRng};

/// A generator whose seed is printed; `ATOLL_SEED` repeats a run.
fn seeded() -> StdRng {
    let given = std::env::var("ATOLL_SEED").ok();
    let seed = given.map_or_else(
        || RandomState::new().hash_one(0),
        |seed| seed.parse().expect("ATOLL_SEED is a number"),
    );
    println!("ATOLL_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Does `$check::<Request>($arguments)` for every request of every service.
macro_rules! every_request {
    ($check:ident($($argument:expr),*)) => {
        every_request!(@ $check ($($argument),*)
            mempool: Submit Take Report Pending Content Status;
            executor: Predict Debit RunGroups ExecutorStats;
            state: Read Append Cut Outbox Share Withdraw TellDropped Quarantine StoreResults AcceptParts ReceiveCredits
                Settle Recall LeaseLate PutCodes Prove Watch Sync Ran RoundsRun Progress Lookup Feed TakeSnapshot ReadSnapshot;
            router: Escalate Deliver Fetch RouterStats;
            beacon: Announce Blocks Head BeaconStats TakeBeaconSnapshot ReadBeaconSnapshot;
        )
    };
    (@ $check:ident $arguments:tt $($service:ident: $($request:ident)*;)*) => {
        $($(every_request!(@@ $check $arguments atoll_api::$service::$request);)*)*
    };
    (@@ $check:ident ($($argument:expr),*) $request:ty) => {
        $check::<$request>($($argument),*)
    };
}

pub(crate) use every_request;
