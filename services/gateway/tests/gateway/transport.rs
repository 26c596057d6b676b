use std::time::Duration;

use atoll_fabric::Door;
use atoll_gateway::Limits;
use atoll_wire::v1::{GetClusterRequest, SubmitTransactionRequest, SubmitTransactionResponse};
use bytes::Bytes;
use futures::future;
use h2::client::SendRequest;
use http::{HeaderMap, Request, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use crate::setup::{Client, Gateway, sign, transfer};

/// How long to wait for what has to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// As a later version of the API may have it.
#[derive(Clone, PartialEq, prost::Message)]
struct LaterSubmitTransactionRequest {
    #[prost(bytes = "bytes", tag = "1")]
    transaction: Bytes,
    #[prost(string, tag = "77")]
    memo: String,
    #[prost(message, repeated, tag = "78")]
    more: Vec<LaterSubmitTransactionRequest>,
}

async fn is_served(client: &mut Client) {
    let response = client.get_cluster(GetClusterRequest::default()).await;
    response.expect("this connection has done nothing wrong");
}

#[tokio::test]
async fn unknown_fields_are_tolerated() {
    let gateway = Gateway::start().await;
    let channel = gateway.endpoint().connect().await.expect("the gateway listens");
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.expect("connected");
    let later = LaterSubmitTransactionRequest {
        transaction: sign(&gateway.signer(0, 1), transfer(0)),
        memo: "new".into(),
        more: vec![LaterSubmitTransactionRequest::default()],
    };
    let codec = ProstCodec::<LaterSubmitTransactionRequest, SubmitTransactionResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/atoll.v1.LedgerService/SubmitTransaction");
    let response = grpc.unary(tonic::Request::new(later), path, codec).await;
    assert_eq!(response.expect("it is taken").into_inner().hash.len(), 32);
}

#[tokio::test]
async fn a_message_of_100_mb_is_refused_and_the_connection_stays() {
    let gateway = Gateway::start().await;
    let mut client = gateway.client().await;
    let transaction = Bytes::from(vec![1; 100_000_000]);
    let request = SubmitTransactionRequest { transaction };
    let status = client.submit_transaction(request).await.expect_err("4 MiB are the limit");
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(status.message().contains("4194304"), "{status}");
    is_served(&mut client).await;
}

/// An HTTP/2 connection that does not wait for permission.
async fn raw(gateway: &Gateway) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let socket = TcpStream::connect(gateway.address).await.expect("the gateway listens");
    let mut builder = h2::client::Builder::new();
    builder.initial_max_send_streams(100_000);
    let (sender, connection) = builder.handshake(socket).await.expect("a handshake");
    (sender, tokio::spawn(connection))
}

fn request(gateway: &Gateway, method: &str) -> Request<()> {
    Request::post(format!("http://{}/atoll.v1.LedgerService/{method}", gateway.address))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(())
        .expect("a request")
}

#[tokio::test]
async fn streams_above_the_limit_of_a_connection_are_refused() {
    const MORE: usize = 1000;
    let gateway = Gateway::start().await;
    let mut other = gateway.client().await;
    is_served(&mut other).await;
    let limit = Limits::default().connection_streams as usize;
    let (mut sender, _connection) = raw(&gateway).await;
    // All of them are written before the gateway's settings are read. They stay open, and never say
    // what they want.
    let open = |_| sender.send_request(request(&gateway, "WatchReceipts"), false);
    let opened = (0..limit + MORE).map(open);
    let (mut streams, _bodies): (Vec<_>, Vec<_>) =
        opened.map(|stream| stream.expect("it is queued")).unzip();
    for _ in 0..MORE {
        let (end, index, _) = future::select_all(&mut streams).await;
        drop(streams.swap_remove(index));
        let error = end.expect_err("those below the limit wait for a message");
        assert_eq!(error.reason(), Some(h2::Reason::REFUSED_STREAM), "{error}");
    }
    is_served(&mut other).await;
    is_served(&mut gateway.client().await).await;
}

#[tokio::test]
async fn a_connection_that_goes_on_opening_refused_streams_is_closed() {
    let gateway = Gateway::start().await;
    let mut other = gateway.client().await;
    is_served(&mut other).await;
    let (mut sender, connection) = raw(&gateway).await;
    let mut held = Vec::new();
    for _ in 0..5000 {
        let Ok((response, mut body)) =
            sender.send_request(request(&gateway, "WatchReceipts"), false)
        else {
            break;
        };
        let _ = body.send_data(Bytes::from_static(&[0; 5]), false);
        held.push((response, body));
    }
    connection.await.expect("no panic").expect_err("the gateway hangs up");
    is_served(&mut other).await;
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

#[tokio::test]
async fn a_connection_that_resets_its_streams_rapidly_is_closed() {
    let gateway = Gateway::start().await;
    let mut other = gateway.client().await;
    is_served(&mut other).await;
    let mut socket = TcpStream::connect(gateway.address).await.expect("the gateway listens");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for n in 0..10_000 {
        // POST, http, /, an authority of one letter: all of it in HPACK's static table.
        bytes.extend(frame(HEADERS, 4, 2 * n + 1, &[0x83, 0x86, 0x84, 0x41, 1, b'x']));
        bytes.extend(frame(RST_STREAM, 0, 2 * n + 1, &8u32.to_be_bytes()));
    }
    bytes.extend(frame(PING, 0, 0, &[7; 8]));
    // Hanging up in the middle of this is as good as an answer.
    let mut closed = socket.write_all(&bytes).await.is_err();
    while !closed {
        let mut head = [0; 9];
        if socket.read_exact(&mut head).await.is_err() {
            break;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        closed = socket.read_exact(&mut payload).await.is_err() || head[3] == GOAWAY;
        assert!(closed || (head[3], head[4]) != (PING, 1), "it is served as if nothing were");
    }
    is_served(&mut other).await;
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let gateway = Gateway::start().await;
    let mut other = gateway.client().await;
    let (mut sender, _connection) = raw(&gateway).await;
    let mut large = request(&gateway, "GetCluster");
    let mut headers = HeaderMap::new();
    for n in 0..40 {
        let name = header::HeaderName::try_from(format!("x-{n}")).expect("a name");
        headers.insert(name, "y".repeat(1000).parse().expect("a value"));
    }
    large.headers_mut().extend(headers);
    let (response, _) = sender.send_request(large, true).expect("it is queued");
    match response.await {
        Ok(response) => assert_eq!(response.status(), 431),
        Err(error) => assert!(error.is_remote(), "{error}"),
    }
    is_served(&mut other).await;
}

/// Reads until the gateway hangs up.
async fn hung_up(socket: &mut TcpStream) {
    let mut buffer = [0; 4_096];
    let closed = async { while matches!(socket.read(&mut buffer).await, Ok(1..)) {} };
    tokio::time::timeout(PATIENCE, closed).await.expect("the gateway hangs up");
}

#[tokio::test]
async fn one_byte_at_a_time_ends_with_the_time_for_it() {
    let soon = Duration::from_millis(300);
    let door = Door { greeting: soon, ..Limits::default().door };
    let limits = Limits {
        door,
        request_timeout: soon,
        keepalive_interval: soon,
        keepalive_timeout: soon,
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, []).await;
    let mut client = gateway.client().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // Headers of 200 bytes, of which few come.
    let headers = [0, 0, 200, 1, 4, 0, 0, 0, 1, 0x83, 0x86];
    let begun = [&preface[..], &settings, &headers].concat();
    // What a connection says at once, and what byte by byte.
    let endless = b"\x44\x01/".repeat(60);
    for (at_once, then) in [
        (&b""[..], &b""[..]),
        (&preface[..7], b""),
        (preface, b""),
        (b"", &begun),
        (&begun, &endless),
    ] {
        let mut socket = TcpStream::connect(gateway.address).await.expect("the gateway listens");
        socket.write_all(at_once).await.expect("it is sent");
        let (mut read, mut write) = socket.split();
        let dripping = async {
            for byte in then {
                if write.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut buffer = [0; 4_096];
        let closed = async { while matches!(read.read(&mut buffer).await, Ok(1..)) {} };
        let closed = tokio::time::timeout(PATIENCE, closed);
        tokio::select! {
            () = dripping => {}
            closed = closed => closed.expect("the gateway hangs up"),
        }
        is_served(&mut client).await;
    }
}

#[tokio::test]
async fn a_body_that_drips_is_given_up() {
    let limits = Limits { request_timeout: Duration::from_millis(300), ..Limits::default() };
    let gateway = Gateway::with(limits, []).await;
    let mut client = gateway.client().await;
    let socket = TcpStream::connect(gateway.address).await.expect("the gateway listens");
    let (h2, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut h2 = h2.ready().await.expect("connected");
    let request = Request::post("http://x/atoll.v1.LedgerService/SubmitTransaction")
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(())
        .expect("a request");
    let (response, mut body) = h2.send_request(request, false).expect("it is sent");
    // A message of 255 bytes, of which few come.
    body.send_data(Bytes::from_static(&[0, 0, 0, 0, 255, 10]), false).expect("it is sent");
    let dripping = async {
        while body.send_data(Bytes::from_static(b"x"), false).is_ok() {
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        std::future::pending::<()>().await;
    };
    let given_up = tokio::select! {
        () = dripping => None,
        answer = tokio::time::timeout(PATIENCE, response) => Some(answer.expect("it is given up")),
    };
    let headers = given_up.expect("dripping never ends").expect("an answer").into_parts().0.headers;
    assert_eq!(
        headers.get("grpc-status").expect("a status"),
        &(Code::Cancelled as i32).to_string()
    );
    is_served(&mut client).await;
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_at_once() {
    const SEATS: usize = 3;
    let door = Door { connections: SEATS, ..Limits::default().door };
    let gateway = Gateway::with(Limits { door, ..Limits::default() }, []).await;
    let mut clients = Vec::new();
    for _ in 0..SEATS {
        let mut client = gateway.client().await;
        is_served(&mut client).await;
        clients.push(client);
    }
    hung_up(&mut TcpStream::connect(gateway.address).await.expect("the port is open")).await;
    for client in &mut clients {
        is_served(client).await;
    }
    // Who goes makes room.
    clients.pop();
    let again = async {
        loop {
            let mut client = gateway.client_soon();
            if client.get_cluster(GetClusterRequest::default()).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
}
