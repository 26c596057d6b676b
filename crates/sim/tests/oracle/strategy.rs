//! What programs are drawn from. Everything shrinks towards few plain payments on one shard.

use proptest::{collection::vec, prelude::*};

use crate::{
    bytecode::{Call, Child, Guard, MAX_CONTRACTS, Op, SLOTS, Step, Target},
    program::{
        Act, Action, Amount, Case, Contract, Delegation, Envelope, Gas, Nonce, PLACED, Person,
        SENDERS, WALLETS, Weather,
    },
};

pub fn case() -> impl Strategy<Value = Case> {
    prop_oneof![
        3 => any_case(contract(), action(act())),
        2 => any_case(fickle(), action(calls())),
        1 => any_case(contract(), action(payments())),
        2 => any_case(contract(), busy(action(act()))),
        1 => any_case(fickle(), busy(action(calls()))),
        2 => any_case(watched(), action(looks())),
        2 => any_case(renamed(), action(renames())),
    ]
}

/// A contract that most calls only look at, while the others write what they see.
fn watched() -> impl Strategy<Value = Contract> {
    let slot = || 0..SLOTS;
    let look = prop_oneof![1 => slot().prop_map(Op::Load), 2 => slot().prop_map(Op::LoadStored)];
    let write =
        prop_oneof![2 => slot().prop_map(Op::Increment), 1 => slot().prop_map(Op::StoreStored)];
    let step = prop_oneof![
        1 => look.prop_map(|op| Step { guard: Guard::Always, op }),
        1 => (0..3u8, write).prop_map(|(bit, op)| Step { guard: Guard::Bit(bit), op }),
    ];
    (vec(step, 2..6), slots()).prop_map(|(steps, slots)| Contract { steps, eager: false, slots })
}

/// Calls of few contracts, each of which says what is carried out.
fn looks() -> impl Strategy<Value = Act> {
    (0..3u8, 0..8u8).prop_map(chosen)
}

/// A contract of which one call reads where its first slot says, another changes what that says, and
/// others write there.
fn renamed() -> impl Strategy<Value = Contract> {
    let step = |bit, op| Step { guard: Guard::Bit(bit), op };
    (1..6u8, 1..6u8, slots()).prop_map(move |(one, other, slots)| Contract {
        steps: vec![
            step(0, Op::Increment(one)),
            step(1, Op::Increment(other)),
            step(2, Op::Increment(0)),
            step(3, Op::LoadStored(0)),
        ],
        eager: false,
        slots: slots.into_iter().map(|word| word % 3).collect(),
    })
}

fn renames() -> impl Strategy<Value = Act> {
    let seed = prop_oneof![2 => 1..4u8, 2 => Just(4), 3 => Just(8)];
    (0..2u8, seed).prop_map(chosen)
}

fn chosen((to, seed): (u8, u8)) -> Act {
    Act::Call { to: Person::Contract(to), seed, fuel: 1, amount: Amount::Wei(0) }
}

fn slots() -> impl Strategy<Value = Vec<u8>> {
    vec(0..8u8, usize::from(SLOTS))
}

/// A contract whose keys are all named by values that every call changes.
fn fickle() -> impl Strategy<Value = Contract> {
    let slot = || 0..SLOTS;
    let call = (0..SLOTS).prop_map(|slot| Op::Call {
        call: Call::Plain { value: 0 },
        target: Target::Stored(slot),
        tight: false,
        strict: false,
    });
    let op = prop_oneof![
        2 => slot().prop_map(Op::Increment),
        2 => slot().prop_map(Op::StoreStored),
        1 => slot().prop_map(Op::LoadStored),
        1 => Just(Op::StoreComputed),
        2 => call,
    ];
    let steps = vec(op.prop_map(|op| Step { guard: Guard::Always, op }), 1..6);
    (steps, slots()).prop_map(|(steps, slots)| Contract { steps, eager: false, slots })
}

/// Calls of few contracts.
fn calls() -> impl Strategy<Value = Act> {
    (0..2u8, any::<u8>(), 1..4u8).prop_map(|(to, seed, fuel)| {
        let (to, amount) = (Person::Contract(to), Amount::Wei(0));
        Act::Call { to, seed, fuel, amount }
    })
}

/// Payments to few accounts, by credits and in groups: with input they are not credits.
fn payments() -> impl Strategy<Value = Act> {
    let few =
        || prop_oneof![4 => (8..WALLETS).prop_map(Person::Wallet), 1 => Just(Person::Coinbase)];
    let pay = (few(), 1..9u8).prop_map(|(to, wei)| Act::Pay { to, amount: Amount::Wei(wei) });
    let call = (few(), 1..9u8).prop_map(|(to, wei)| {
        let amount = Amount::Wei(wei);
        Act::Call { to, seed: 0, fuel: 0, amount }
    });
    prop_oneof![1 => pay, 2 => call]
}

/// Of two senders, who have many transactions under way at once.
fn busy(action: impl Strategy<Value = Action>) -> impl Strategy<Value = Action> {
    (action, 0..4u8, prop::bool::weighted(0.1)).prop_map(|(action, from, waits)| Action {
        from: from / 3,
        wait: if waits { action.wait } else { 0 },
        ..action
    })
}

fn any_case(
    contract: impl Strategy<Value = Contract>,
    action: impl Strategy<Value = Action>,
) -> impl Strategy<Value = Case> {
    let shards = prop_oneof![1 => Just(1u16), 6 => 2..=8u16, 1 => 9..=16u16];
    let weather = prop_oneof![
        3 => Just(Weather::Fair),
        2 => Just(Weather::Rough),
        1 => Just(Weather::Storm)
    ];
    let coinbase = prop_oneof![
        6 => Just(Person::Coinbase),
        1 => Just(Person::Wallet(0)),
        1 => Just(Person::Contract(0))
    ];
    let homes = vec(0..16u8, PLACED);
    let contracts = vec(contract, 1..=usize::from(MAX_CONTRACTS));
    let sky = (weather, 1..5u8);
    let world = (shards, any::<u64>(), homes, coinbase, sky, contracts);
    (world, vec(action, 1..40)).prop_map(|(world, actions)| {
        let (shards, seed, homes, coinbase, (weather, block_ticks), contracts) = world;
        Case { shards, seed, homes, coinbase, weather, block_ticks, contracts, actions }
    })
}

fn contract() -> impl Strategy<Value = Contract> {
    (vec(step(), 0..7), any::<bool>(), slots()).prop_map(|(steps, eager, slots)| Contract {
        steps,
        eager,
        slots,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let guard = prop_oneof![
        5 => Just(Guard::Always),
        2 => (0..8u8).prop_map(Guard::Bit),
        1 => (0..SLOTS).prop_map(Guard::Odd)
    ];
    // What ends a call stands behind a condition: nothing that follows it would ever run.
    let end = prop_oneof![(0..8u8).prop_map(Guard::Bit), (0..SLOTS).prop_map(Guard::Odd)];
    prop_oneof![
        12 => (guard, op()).prop_map(|(guard, op)| Step { guard, op }),
        1 => (end, ending()).prop_map(|(guard, op)| Step { guard, op }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    let account = (0..3u8, target()).prop_map(|(which, target)| Op::Account(which, target));
    let call = (call(), target(), prop::bool::weighted(0.1), prop::bool::weighted(0.3))
        .prop_map(|(call, target, tight, strict)| Op::Call { call, target, tight, strict });
    let pay = (target(), 0..3u8).prop_map(|(target, value)| Op::Pay { target, value });
    let salt = prop::option::of(0..4u8);
    let create = (child(), 0..2u8, salt, any::<bool>())
        .prop_map(|(child, value, salt, called)| Op::Create { child, value, salt, called });
    prop_oneof![
        2 => slot().prop_map(Op::Load),
        2 => slot().prop_map(Op::Increment),
        1 => slot().prop_map(Op::Store),
        1 => slot().prop_map(Op::LoadStored),
        1 => slot().prop_map(Op::StoreStored),
        1 => Just(Op::StoreComputed),
        1 => slot().prop_map(Op::Clear),
        1 => slot().prop_map(Op::Transient),
        2 => (0..16u8).prop_map(Op::Environment),
        1 => prop_oneof![3 => 0..4u8, 1 => any::<u8>()].prop_map(Op::Ancestor),
        2 => account,
        6 => call,
        2 => pay,
        2 => create,
        1 => (0..3u8).prop_map(Op::Log),
    ]
}

fn ending() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Revert),
        2 => target().prop_map(Op::SelfDestruct),
        1 => Just(Op::Invalid),
        1 => Just(Op::Loop),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        4 => (0..MAX_CONTRACTS).prop_map(Target::Contract),
        3 => (0..SLOTS).prop_map(Target::Stored),
        1 => Just(Target::Computed),
        2 => person().prop_map(|person| Target::Fixed(person.address())),
        1 => Just(Target::Own),
        1 => Just(Target::Caller),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        3 => Just(Call::Plain { value: 0 }),
        2 => (1..3u8).prop_map(|value| Call::Plain { value }),
        2 => Just(Call::Delegate),
        1 => Just(Call::Static),
        1 => (0..2u8).prop_map(|value| Call::Code { value }),
    ]
}

fn child() -> impl Strategy<Value = Child> {
    prop::sample::select(vec![
        Child::Empty,
        Child::Counter,
        Child::Mortal,
        Child::Refusing,
        Child::Writing,
        Child::Stillborn,
        Child::Failing,
        Child::Invalid,
    ])
}

fn person() -> impl Strategy<Value = Person> {
    prop_oneof![
        6 => (0..WALLETS).prop_map(Person::Wallet),
        3 => (0..MAX_CONTRACTS).prop_map(Person::Contract),
        1 => Just(Person::Coinbase),
        1 => (0..2u8).prop_map(Person::Stranger),
        1 => (0..3u8).prop_map(Person::Precompile),
        1 => (0..SENDERS, 0..6u8).prop_map(|(by, nonce)| Person::Created { by, nonce }),
    ]
}

fn amount() -> impl Strategy<Value = Amount> {
    prop_oneof![9 => (0..5u8).prop_map(Amount::Wei), 1 => Just(Amount::Much)]
}

fn action(act: impl Strategy<Value = Act>) -> impl Strategy<Value = Action> {
    let nonce = prop_oneof![
        20 => Just(Nonce::Next),
        1 => Just(Nonce::Skip),
        3 => Just(Nonce::Fill)
    ];
    let envelope = prop_oneof![
        5 => Just(Envelope::Fee),
        1 => Just(Envelope::Legacy),
        1 => person().prop_map(Envelope::Access),
        1 => Just(Envelope::Capped)
    ];
    let gas = prop_oneof![5 => Just(Gas::Enough), 2 => Just(Gas::Some), 1 => Just(Gas::Tight)];
    let wait = prop_oneof![3 => Just(0u8), 1 => 1..4u8];
    (0..SENDERS, wait, nonce, envelope, gas, 0..3u8, act).prop_map(
        |(from, wait, nonce, envelope, gas, tip, act)| Action {
            from,
            wait,
            nonce,
            envelope,
            gas,
            tip,
            act,
        },
    )
}

fn act() -> impl Strategy<Value = Act> {
    let pay = (person(), amount()).prop_map(|(to, amount)| Act::Pay { to, amount });
    let callee = || {
        prop_oneof![
            3 => Just(Person::Contract(0)),
            5 => (0..MAX_CONTRACTS).prop_map(Person::Contract),
            2 => person(),
        ]
    };
    let call = (callee(), any::<u8>(), 1..4u8, amount())
        .prop_map(|(to, seed, fuel, amount)| Act::Call { to, seed, fuel, amount });
    let deploy =
        (0..MAX_CONTRACTS, amount()).prop_map(|(code, amount)| Act::Deploy { code, amount });
    let delegation = (0..WALLETS, prop::option::weighted(0.8, callee()), prop::bool::weighted(0.1))
        .prop_map(|(authority, delegate, ahead)| Delegation {
            authority,
            delegate,
            ahead: u8::from(ahead),
        });
    let delegate = (vec(delegation, 1..3), person(), any::<u8>(), 0..3u8)
        .prop_map(|(list, to, seed, fuel)| Act::Delegate { list, to, seed, fuel });
    prop_oneof![5 => pay, 9 => call, 1 => deploy, 1 => delegate]
}
