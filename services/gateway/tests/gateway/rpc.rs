//! The port of JSON-RPC: who keeps a connection and gives nothing, and batches of transactions.

use std::time::Duration;

use atoll_fabric::Door;
use atoll_gateway::{Limits, RpcLimits};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::setup::{Gateway, hash_of, sign, transfer};

const PATIENCE: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(300);
const ASK: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}"#;

fn head(length: usize) -> String {
    format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    )
}

async fn with(rpc: RpcLimits) -> Gateway {
    Gateway::with(Limits { rpc, ..Limits::default() }, []).await
}

async fn connect(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.rpc.address).await.expect("the port is open")
}

/// Sends a body and reads the answer's; the connection stays.
async fn ask(stream: &mut TcpStream, body: &str) -> std::io::Result<String> {
    stream.write_all(format!("{}{body}", head(body.len())).as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if length.and_then(|length| length.parse().ok()) == Some(body.len()) {
            return Ok(body.to_owned());
        }
    }
}

async fn is_served(stream: &mut TcpStream) {
    let answer = ask(stream, ASK).await.expect("it is answered");
    assert!(answer.contains("0x7a69"), "{answer}");
}

/// What comes until the other side hangs up.
async fn rest(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    // One that is reset has ended, too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it ends");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn who_gives_nothing_to_the_rpc_port_loses_it() {
    let door = Door { greeting: SOON, ..RpcLimits::default().door };
    let gateway = with(RpcLimits { door, body_time: SOON, ..RpcLimits::default() }).await;
    let mut silent = connect(&gateway).await;
    let mut slow = connect(&gateway).await;
    let begun = format!("{}{}", head(ASK.len()), &ASK[..9]);
    slow.write_all(begun.as_bytes()).await.expect("it is sent");
    let mut long = connect(&gateway).await;
    long.write_all(head(6 << 20).as_bytes()).await.expect("it is sent");
    is_served(&mut connect(&gateway).await).await;
    assert_eq!(rest(&mut silent).await, "");
    let answer = rest(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let answer = rest(&mut long).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    is_served(&mut connect(&gateway).await).await;
    gateway.rpc.stop().await;
}

#[tokio::test]
async fn a_body_that_drips_to_the_rpc_port_is_given_up() {
    let gateway = with(RpcLimits { body_time: SOON, ..RpcLimits::default() }).await;
    let mut socket = connect(&gateway).await;
    socket.write_all(head(1_000).as_bytes()).await.expect("it is sent");
    let (mut read, mut write) = socket.split();
    let dripping = async {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = [0; 12];
    let given_up = tokio::select! {
        () = dripping => None,
        read = tokio::time::timeout(PATIENCE, read.read_exact(&mut answer)) => Some(read),
    };
    given_up.expect("dripping never ends").expect("it is given up").expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn idle_rpc_connections_end_and_others_stay() {
    let gateway = with(RpcLimits { idle: SOON, ..RpcLimits::default() }).await;
    let mut idle = connect(&gateway).await;
    let mut busy = connect(&gateway).await;
    is_served(&mut idle).await;
    let asking = async {
        loop {
            is_served(&mut busy).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    tokio::select! {
        () = asking => {}
        rest = rest(&mut idle) => assert_eq!(rest, ""),
    }
    is_served(&mut busy).await;
}

#[tokio::test]
async fn rpc_connections_above_the_limit_are_closed_at_once() {
    const SEATS: usize = 3;
    let door = Door { connections: SEATS, ..RpcLimits::default().door };
    let gateway = with(RpcLimits { door, ..RpcLimits::default() }).await;
    let mut held = Vec::new();
    for _ in 0..SEATS {
        let mut stream = connect(&gateway).await;
        is_served(&mut stream).await;
        held.push(stream);
    }
    assert_eq!(rest(&mut connect(&gateway).await).await, "");
    for stream in &mut held {
        is_served(stream).await;
    }
    // Who goes makes room.
    held.pop();
    let again = async {
        while ask(&mut connect(&gateway).await, ASK).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
}

#[tokio::test]
async fn bodies_of_requests_have_only_so_much_room() {
    let limits = RpcLimits { bodies_bytes: 6 << 20, ..RpcLimits::default() };
    let gateway = with(limits).await;
    let mut first = connect(&gateway).await;
    first.write_all(head(4 << 20).as_bytes()).await.expect("it is sent");
    // As soon as the first one has its room, another of that length is refused.
    let refused = async {
        loop {
            let mut second = connect(&gateway).await;
            second.write_all(head(4 << 20).as_bytes()).await.expect("it is sent");
            let mut answer = [0; 12];
            let read = tokio::time::timeout(SOON, second.read_exact(&mut answer)).await;
            if read.is_ok_and(|read| read.is_ok()) {
                return answer;
            }
        }
    };
    let refused =
        tokio::time::timeout(PATIENCE, refused).await.expect("the first one has its room");
    assert_eq!(&refused, b"HTTP/1.1 503");
    is_served(&mut connect(&gateway).await).await;
}

/// Transactions of a batch are offered together, each gets its own answer, and what surrounds them is
/// answered in its place.
#[tokio::test]
async fn a_batch_of_transactions_is_answered_one_by_one() {
    let gateway = with(RpcLimits::default()).await;
    let raws: Vec<_> = (0..2)
        .flat_map(|shard| {
            let signer = gateway.signer(shard, 1);
            (0..40).map(move |nonce| sign(&signer, transfer(nonce)))
        })
        .collect();
    let request = |id: usize, method: &str, param: String| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":[{param}]}}"#)
    };
    let hex = |raw: &[u8]| alloy_primitives::hex::encode_prefixed(raw);
    let mut requests = vec![request(1_000, "eth_chainId", String::new())];
    requests.extend(
        raws.iter()
            .enumerate()
            .map(|(id, raw)| request(id, "eth_sendRawTransaction", format!("\"{}\"", hex(raw)))),
    );
    requests.push(request(2_000, "eth_sendRawTransaction", "\"0xff\"".into()));
    requests.push(request(3_000, "eth_sendRawTransaction", String::new()));
    requests.push(r#"{"jsonrpc":"2.0","method":"eth_chainId","params":[]}"#.into());
    requests.push(request(4_000, "nonsense", String::new()));
    requests.push("7".into());
    let mut stream = connect(&gateway).await;
    let answer = ask(&mut stream, &format!("[{}]", requests.join(","))).await.expect("an answer");
    let has = |part: String| assert!(answer.contains(&part), "{part} in {answer}");
    for (id, raw) in raws.iter().enumerate() {
        has(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"{}"}}"#, hash_of(raw)));
    }
    has(r#"{"jsonrpc":"2.0","id":1000,"result":"0x7a69"}"#.into());
    for (id, code) in [("2000", -32602), ("3000", -32602), ("4000", -32601), ("null", -32600)] {
        has(format!(r#""id":{id},"error":{{"code":{code}"#));
    }
    assert_eq!(answer.matches("\"id\"").count(), raws.len() + 5);
}
