//! One suite for a service that is called through its mailbox, and over gRPC.
#![allow(clippy::disallowed_methods, reason = "real time passes in these tests")]

use std::time::{Duration, Instant};

use crate::probe::{Act, Add, Event, LIMIT, MAX, Probe, ProbeError, Stand};
use atoll_fabric::{Call, Context, Fault, Local, Place, Turns};
use atoll_types::TraceContext;

/// Ends a test that waits for something that does not come.
const PATIENCE: Duration = Duration::from_secs(20);

macro_rules! over_both {
    ($($test:ident)*) => {
        mod over_local { $(over_both!(@one $test local);)* }
        mod over_remote { $(over_both!(@one $test remote);)* }
    };
    (@one $test:ident $transport:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let test = async { super::$test(super::Stand::$transport().await).await };
            tokio::time::timeout(super::PATIENCE, test).await.expect("it hangs");
        }
    };
}

over_both! {
    a_reply_comes_back
    an_error_keeps_its_variant_and_fields
    context_reaches_the_handler
    calls_over_the_limit_are_refused
    an_answered_call_no_longer_counts
    a_call_past_its_deadline_is_not_begun
    a_begun_call_past_its_deadline_is_unknown
    a_dropped_call_is_abandoned
    a_dropped_reply_says_that_the_service_stopped
    a_kept_reply_is_answered_from_another_thread
    a_spawned_future_comes_back_as_a_message
    a_delay_comes_back_as_a_message
    a_full_mailbox_does_not_starve_timers
    a_stopped_service_answers_nothing
}

fn none() -> Context {
    Context::none()
}

/// Has the actor keep replies to two calls, which are in progress when this returns.
async fn fill(stand: &mut Stand) -> Vec<tokio::task::JoinHandle<Result<u64, ProbeError>>> {
    let mut calls = Vec::new();
    for _ in 0..LIMIT {
        let act = stand.act.clone();
        calls.push(tokio::spawn(async move { act.call(none(), Act::Keep).await }));
        assert!(matches!(stand.event().await, Event::Acted(Act::Keep)));
    }
    calls
}

async fn a_reply_comes_back(stand: Stand) {
    assert_eq!(stand.add.call(none(), Add { amount: 2 }).await, Ok(2));
    assert_eq!(stand.add.call(none(), Add { amount: 3 }).await, Ok(5));
}

async fn an_error_keeps_its_variant_and_fields(stand: Stand) {
    let result = stand.add.call(none(), Add { amount: MAX + 1 }).await;
    assert_eq!(result, Err(ProbeError::TooMuch { amount: MAX + 1, max: MAX }));
}

async fn context_reaches_the_handler(mut stand: Stand) {
    let trace = Some(TraceContext { trace_id: 3 << 90, span_id: 4 });
    let sent = Context { trace, deadline: None }.with_timeout(PATIENCE);
    let before = sent.remaining().unwrap();
    stand.add.call(sent, Add { amount: 1 }).await.unwrap();
    let Event::Added(context) = stand.event().await else { panic!("not added") };
    assert_eq!(context.trace, trace);
    let remaining = context.remaining().expect("a deadline");
    assert!(remaining > Duration::ZERO && remaining <= before, "{remaining:?}");
}

async fn calls_over_the_limit_are_refused(mut stand: Stand) {
    let calls = fill(&mut stand).await;
    let overloaded = Fault::Overloaded { service: "probe".into(), limit: LIMIT };
    for _ in 0..3 {
        let result = stand.add.call(none(), Add { amount: 1 }).await;
        assert_eq!(result, Err(overloaded.clone().into()));
    }
    stand.ask(Probe::release).await;
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(0));
    }
    assert_eq!(stand.add.call(none(), Add { amount: 1 }).await, Ok(1));
}

async fn an_answered_call_no_longer_counts(mut stand: Stand) {
    let act = stand.act.clone();
    let kept = tokio::spawn(async move { act.call(none(), Act::Keep).await });
    assert!(matches!(stand.event().await, Event::Acted(Act::Keep)));
    // One permit is left: each of these finds it only if the one before gave it back in time.
    for total in 1..=200 {
        assert_eq!(stand.add.call(none(), Add { amount: 1 }).await, Ok(total));
    }
    stand.ask(Probe::release).await;
    assert_eq!(kept.await.unwrap(), Ok(200));
}

async fn a_call_past_its_deadline_is_not_begun(mut stand: Stand) {
    let late = Context { trace: None, deadline: Some(Instant::now()) };
    let result = stand.add.call(late, Add { amount: 1 }).await;
    assert_eq!(result, Err(Fault::DeadlineExceeded.into()));
    stand.probe.stop().await;
    assert!(matches!(stand.event().await, Event::Stopped));
}

async fn a_begun_call_past_its_deadline_is_unknown(mut stand: Stand) {
    let soon = none().with_timeout(Duration::from_millis(250));
    let result = stand.act.call(soon, Act::Keep).await;
    assert!(matches!(result, Err(ProbeError::Fault(Fault::Unknown { .. }))), "{result:?}");
    assert!(matches!(stand.event().await, Event::Acted(Act::Keep)));
    until_abandoned(&stand).await;
}

async fn a_dropped_call_is_abandoned(mut stand: Stand) {
    let calls = fill(&mut stand).await;
    assert!(stand.ask(|probe| probe.kept.iter().all(|reply| !reply.is_abandoned())).await);
    calls.iter().for_each(|call| call.abort());
    until_abandoned(&stand).await;
    // Still counted: the service has not said that it is done with them.
    let result = stand.add.call(none(), Add { amount: 1 }).await;
    assert!(matches!(result, Err(ProbeError::Fault(Fault::Overloaded { .. }))), "{result:?}");
}

async fn until_abandoned(stand: &Stand) {
    while !stand.ask(|probe| probe.kept.iter().all(|reply| reply.is_abandoned())).await {
        tokio::task::yield_now().await;
    }
}

async fn a_dropped_reply_says_that_the_service_stopped(stand: Stand) {
    for _ in 0..LIMIT + 1 {
        let result = stand.act.call(none(), Act::Drop).await;
        assert_eq!(result, Err(Fault::Stopped { service: "probe".into() }.into()));
    }
}

async fn a_kept_reply_is_answered_from_another_thread(mut stand: Stand) {
    let calls = fill(&mut stand).await;
    let turns = stand.probe.turns();
    let thread = std::thread::spawn(move || {
        turns.post(|probe, cx| {
            probe.total = 7;
            cx.handle().post(|probe, _| probe.release());
        });
    });
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(7));
    }
    thread.join().unwrap();
}

async fn a_spawned_future_comes_back_as_a_message(stand: Stand) {
    stand.add.call(none(), Add { amount: 2 }).await.unwrap();
    assert_eq!(stand.act.call(none(), Act::Spawn).await, Ok(25));
}

async fn a_delay_comes_back_as_a_message(stand: Stand) {
    let before = Instant::now();
    assert_eq!(stand.act.call(none(), Act::After).await, Ok(0));
    assert!(before.elapsed() >= Duration::from_millis(5));
}

async fn a_full_mailbox_does_not_starve_timers(stand: Stand) {
    fn flood(turns: Turns<Probe>) {
        turns.clone().post(|probe, _| {
            if probe.total == 0 {
                flood(turns);
            }
        });
    }
    flood(stand.probe.turns());
    assert_eq!(stand.act.call(none(), Act::After).await, Ok(0));
    assert_eq!(stand.act.call(none(), Act::Spawn).await, Ok(5));
}

async fn a_stopped_service_answers_nothing(mut stand: Stand) {
    let calls = fill(&mut stand).await;
    stand.probe.stop().await;
    let stopped = Err(ProbeError::from(Fault::Stopped { service: "probe".into() }));
    for call in calls {
        assert_eq!(call.await.unwrap(), stopped);
    }
    assert!(matches!(stand.event().await, Event::Stopped));
    assert_eq!(stand.act.call(none(), Act::Keep).await, stopped);
    stand.probe.stop().await;
}

#[tokio::test]
async fn a_call_that_waits_past_its_deadline_is_not_begun() {
    // Over a network a deadline begins when the request arrives, so that the actor may be let go
    // before it: what is certain is that a call is not begun after its own deadline.
    let stand = Stand::local().await;
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    stand.probe.turns().post(move |_, _| held.recv().unwrap());
    let soon = none().with_timeout(Duration::from_millis(30));
    let result = stand.add.call(soon, Add { amount: 1 }).await;
    assert!(matches!(result, Err(ProbeError::Fault(Fault::Unknown { .. }))), "{result:?}");
    let_go.send(()).unwrap();
    assert_eq!(stand.add.call(none(), Add { amount: 1 }).await, Ok(1));
}

#[tokio::test]
async fn an_actor_stops_with_its_last_address() {
    let Stand { place, probe, add, act, mut events, .. } = Stand::local().await;
    let turns = probe.turns();
    let (sender, cut_short) = tokio::sync::oneshot::channel::<()>();
    turns.post(|_, cx| {
        let for_ever = async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        };
        cx.spawn(for_ever, |_, (), _| ());
    });
    drop((probe, add, act));
    assert!(matches!(events.recv().await, Some(Event::Stopped)));
    assert!(cut_short.await.is_err(), "its futures go with it");
    turns.post(|_, _| panic!("a turn for an actor that has stopped"));
    place.stop().await;
}

#[tokio::test]
async fn a_place_stops_with_its_actors() {
    let mut stand = Stand::local().await;
    stand.place.stop().await;
    assert!(matches!(stand.event().await, Event::Stopped));
    let late =
        Local::<Probe>::start(&stand.place, 1, || panic!("there is no thread for this actor"));
    let stopped = Err(ProbeError::from(Fault::Stopped { service: "probe".into() }));
    assert_eq!(late.call(none(), Add { amount: 1 }).await, stopped);
    assert_eq!(stand.add.call(none(), Add { amount: 1 }).await, stopped);
}

#[test]
fn a_place_needs_no_runtime() {
    let place = Place::new("alone");
    let (sender, answer) = std::sync::mpsc::channel();
    let (events, _unused) = tokio::sync::mpsc::unbounded_channel();
    let probe = Local::start(&place, 1, || Probe { total: 9, kept: Vec::new(), events });
    probe.turns().post(move |probe, _| {
        let thread = std::thread::current();
        sender.send((probe.total, thread.name().map(str::to_owned))).unwrap();
    });
    assert_eq!(answer.recv(), Ok((9, Some("alone".to_owned()))));
}
