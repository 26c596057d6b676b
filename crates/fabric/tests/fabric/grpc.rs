//! What only happens to a call that crosses a network.

use std::time::Duration;

use crate::probe::{Act, Add, Event, Number, ProbeError, Stand, UNUSABLE_TOTAL};
use atoll_fabric::{Call, Context, Fault, Malformed, Remote, serve, status_of};
use tonic::Code;

fn remote(stand: &Stand, limit: usize) -> Remote {
    let server = stand.server.as_ref().expect("a server");
    Remote::new(server.channel(), limit, Duration::from_secs(10))
}

fn fault(result: Result<u64, ProbeError>) -> Fault {
    match result {
        Err(ProbeError::Fault(fault)) => fault,
        other => panic!("not a fault: {other:?}"),
    }
}

#[tokio::test]
async fn a_malformed_request_says_which_field() {
    let mut stand = Stand::remote().await;
    let at_least_1 = Malformed { field: "add.amount".into(), expected: "at least 1".into() };
    let result = stand.add.call(Context::none(), Add { amount: 0 }).await;
    assert_eq!(fault(result), Fault::Malformed(at_least_1));

    let request = tonic::Request::new(Number { value: 99 });
    let status = serve::<Act>(&stand.probe, request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "malformed message: field `act` must be 1 to 4");

    stand.probe.stop().await;
    assert!(matches!(stand.event().await, Event::Stopped), "the actor never saw it");
}

#[tokio::test]
async fn a_link_has_a_limit_of_its_own() {
    let mut stand = Stand::remote().await;
    let remote = remote(&stand, 1);
    let other = remote.clone();
    let kept = tokio::spawn(async move { other.call(Context::none(), Act::Keep).await });
    assert!(matches!(stand.event().await, Event::Acted(Act::Keep)));
    let result = remote.call(Context::none(), Add { amount: 1 }).await;
    let service = "atoll.test.Probe".to_owned();
    assert_eq!(fault(result), Fault::Overloaded { service, limit: 1 });
    stand.ask(crate::probe::Probe::release).await;
    assert_eq!(kept.await.unwrap(), Ok(0));
    assert_eq!(remote.call(Context::none(), Add { amount: 1 }).await, Ok(1));
}

#[tokio::test]
async fn a_call_without_a_deadline_gets_one() {
    let stand = Stand::remote().await;
    let server = stand.server.as_ref().expect("a server");
    let hasty = Remote::new(server.channel(), 1, Duration::from_millis(50));
    let result = hasty.call(Context::none(), Act::Keep).await;
    assert!(matches!(fault(result), Fault::Unknown { .. }));
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable() {
    let mut stand = Stand::remote().await;
    let remote = remote(&stand, 1);
    stand.server.as_mut().expect("a server").kill();
    // The port is free again once the runtime has let go of the listener.
    loop {
        match fault(remote.call(Context::none(), Add { amount: 1 }).await) {
            Fault::Unreachable { reason } => {
                assert!(reason.contains("refused"), "{reason}");
                break;
            }
            Fault::Unknown { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_connection_lost_after_sending_is_unknown() {
    let mut stand = Stand::remote().await;
    let act = stand.act.clone();
    let call = tokio::spawn(async move { act.call(Context::none(), Act::Keep).await });
    assert!(matches!(stand.event().await, Event::Acted(Act::Keep)));
    stand.server.as_mut().expect("a server").kill();
    let lost = fault(call.await.unwrap());
    assert!(matches!(lost, Fault::Unknown { .. }), "{lost:?}");
}

#[tokio::test]
async fn a_reply_that_does_not_decode_is_internal() {
    let stand = Stand::remote().await;
    stand.ask(|probe| probe.total = UNUSABLE_TOTAL - 1).await;
    let result = stand.add.call(Context::none(), Add { amount: 1 }).await;
    let Fault::Internal { reason } = fault(result) else { panic!("not internal") };
    assert!(reason.contains("`total` must be a lucky number"), "{reason}");
}

#[tokio::test]
async fn a_request_over_the_cap_is_not_sent() {
    let mut stand = Stand::remote().await;
    let small = remote(&stand, 1).with_max_message_bytes(2);
    assert_eq!(small.call(Context::none(), Add { amount: 1 }).await, Ok(1));
    assert!(matches!(stand.event().await, Event::Added(_)));
    let result = small.call(Context::none(), Add { amount: 1 << 40 }).await;
    let expected = "at most 2 bytes long in all".to_owned();
    assert_eq!(fault(result), Malformed { field: String::new(), expected }.into());
    stand.probe.stop().await;
    assert!(matches!(stand.event().await, Event::Stopped));
}

#[tokio::test]
async fn a_reply_over_the_cap_is_unknown() {
    let stand = Stand::remote().await;
    stand.ask(|probe| probe.total = 1 << 40).await;
    let small = remote(&stand, 1).with_max_message_bytes(2);
    let result = small.call(Context::none(), Add { amount: 1 }).await;
    assert!(matches!(fault(result), Fault::Unknown { .. }));
}

#[test]
fn a_status_fits_into_headers() {
    let long = ProbeError::Long("é".repeat(5000));
    let status = status_of(&long);
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.message().len(), 1024);
    assert!(status.details().len() <= 4096, "{}", status.details().len());
    let decoded = serde_json::from_slice(status.details()).unwrap();
    let ProbeError::Fault(Fault::Internal { reason }) = decoded else { panic!("{decoded:?}") };
    assert_eq!(reason, "é".repeat(512));
}
