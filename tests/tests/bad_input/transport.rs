use std::time::Duration;

use atoll_tests::{PATIENCE, api::Api};
use atoll_wire::v1::{GetClusterRequest, SubmitTransactionRequest, WatchReceiptsRequest};
use futures::{StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

use crate::setup::{Client, Target};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_100_mb_is_refused_and_its_connection_stays() {
    let mut target = Target::start().await;
    let mut client = target.client().await;
    let request = SubmitTransactionRequest { transaction: vec![1; 100_000_000].into() };
    let status = client.submit_transaction(request).await.expect_err("4 MiB are the limit");
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(status.message().contains("4194304"), "{status}");
    target.is_unharmed_for(&Api { client }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_5000_watchers_as_many_as_may_be_are_served() {
    const CONNECTIONS: usize = 25;
    const ON_EACH: usize = 200;
    let mut target = Target::start().await;
    let limits = target.here.api.cluster().await.expect("an answer").limits.expect("limits");
    assert!(ON_EACH < limits.connection_streams as usize);
    let clients: Vec<Client> =
        stream::iter(0..CONNECTIONS).then(async |_| target.client().await).collect().await;
    let opened = clients.iter().flat_map(|client| std::iter::repeat_n(client, ON_EACH));
    let watch =
        async |mut client: Client| client.watch_receipts(WatchReceiptsRequest::default()).await;
    let opened: Vec<_> = stream::iter(opened.cloned().map(watch)).buffered(256).collect().await;
    let (served, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    assert_eq!(served.len(), limits.watchers as usize);
    for status in refused.into_iter().filter_map(Result::err) {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert_eq!(status.message(), format!("{} watchers are there, the limit", limits.watchers));
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").expect("a pause"), "100");
    }
    // Everything else goes on, also on these connections.
    target.is_unharmed_for(&Api { client: clients[0].clone() }).await;
    // Who goes makes room.
    drop(served);
    let mut client = target.client().await;
    let again = async {
        while client.watch_receipts(WatchReceiptsRequest::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
    target.is_unharmed().await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const WINDOW_UPDATE: u8 = 8;

/// Headers of a request for receipts (RFC 7541): POST, http, and literals for path, authority and
/// content type. The stream stays open: what is wanted is never said.
fn watch(stream: u32) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let path = "/atoll.v1.LedgerService/WatchReceipts";
    for (name, value) in [(&[4][..], path), (&[1], "x"), (&[15, 16], "application/grpc")] {
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    frame(HEADERS, 4, stream, &block)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_5000_streams_on_one_connection_loses_it() {
    const REFUSED: [u8; 4] = 7u32.to_be_bytes();
    let mut target = Target::start().await;
    let api = Api { client: target.client().await };
    let limit = api.cluster().await.expect("an answer").limits.expect("limits").connection_streams;
    let socket = TcpStream::connect(target.address()).await.expect("the gateway listens");
    let (mut read, mut write) = socket.into_split();
    let streams = (0..5_000).flat_map(|n| watch(2 * n + 1));
    let bytes: Vec<u8> =
        PREFACE.iter().copied().chain(frame(SETTINGS, 0, 0, &[])).chain(streams).collect();
    // It may hang up before it has read everything.
    let writing = tokio::spawn(async move {
        let _ = write.write_all(&bytes).await;
        write
    });
    let mut refused = 0;
    let until_it_hangs_up = async {
        let mut head = [0; 9];
        while read.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            if read.read_exact(&mut payload).await.is_err() {
                break;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if head[3] == RST_STREAM && payload == REFUSED {
                assert!(stream > 2 * limit, "stream {stream} is within the limit");
                refused += 1;
            }
        }
    };
    let hung_up = tokio::time::timeout(PATIENCE, until_it_hangs_up).await;
    hung_up.expect("the gateway hangs up on who goes on");
    assert!(refused > 0, "no stream was refused before that");
    drop(writing.await.expect("no panic"));
    target.is_unharmed_for(&api).await;
    target.is_unharmed().await;
}

/// What is no HTTP/2, with what it is.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let after_preface = |bytes: &[Vec<u8>]| [PREFACE.to_vec(), bytes.concat()].concat();
    let settings = frame(SETTINGS, 0, 0, &[]);
    let noise: Vec<u8> =
        (0..4_096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let large = {
        let mut large = frame(DATA, 0, 1, &[]);
        large[..3].copy_from_slice(&[0xff; 3]);
        large
    };
    let zero_window = frame(WINDOW_UPDATE, 0, 0, &[0; 4]);
    let full_window = frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes());
    vec![
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("TLS", vec![22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]),
        ("noise", noise),
        ("settings of five bytes", after_preface(&[frame(SETTINGS, 0, 0, &[0; 5])])),
        ("a frame before the settings", after_preface(&[frame(DATA, 0, 1, &[0])])),
        ("a frame of 16 MB", after_preface(&[settings.clone(), large])),
        ("data of no stream", after_preface(&[settings.clone(), frame(DATA, 0, 0, &[1])])),
        (
            "headers of an even stream",
            after_preface(&[settings.clone(), frame(HEADERS, 5, 2, &[0x82, 0x86, 0x84])]),
        ),
        (
            "headers that are no HPACK",
            after_preface(&[settings.clone(), frame(HEADERS, 5, 1, &[0xff; 64])]),
        ),
        (
            "a promise",
            after_preface(&[settings.clone(), frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x82])]),
        ),
        ("no window", after_preface(&[settings.clone(), zero_window])),
        ("a window over the top", after_preface(&[settings, full_window.clone(), full_window])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_closes_its_own_connection_only() {
    let mut target = Target::start().await;
    let api = Api { client: target.client().await };
    api.cluster().await.expect("it is served");
    for (name, bytes) in garbage() {
        let mut socket = TcpStream::connect(target.address()).await.expect("the gateway listens");
        // It may hang up before it has read everything.
        let _ = socket.write_all(&bytes).await;
        let closed = async {
            let mut buffer = [0; 4_096];
            while matches!(socket.read(&mut buffer).await, Ok(1..)) {}
        };
        let closed = tokio::time::timeout(PATIENCE, closed).await;
        closed.unwrap_or_else(|_| panic!("{name}: the connection stays open"));
        target.is_unharmed_for(&api).await;
    }
    // Neither does one that begins and never goes on.
    let mut idle = Vec::new();
    for part in [&b""[..], &PREFACE[..7], PREFACE] {
        let mut socket = TcpStream::connect(target.address()).await.expect("the gateway listens");
        socket.write_all(part).await.expect("it is sent");
        idle.push(socket);
    }
    target.is_unharmed_for(&api).await;
    api.client.clone().get_cluster(GetClusterRequest::default()).await.expect("it is served");
    target.is_unharmed().await;
}
