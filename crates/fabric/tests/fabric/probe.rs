//! A small service, and a stand for it on each side of a network.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use atoll_fabric::{
    Context, Cx, Door, Fault, Handle, Link, Local, Malformed, Place, Remote, Reply, Rpc, RpcError,
    Service, serve, tls::Acceptor,
};
use futures::future::{BoxFuture, FutureExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonic::body::Body;
use tonic::codegen::{Service as Tower, http};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// Calls that the service admits at a time.
pub const LIMIT: usize = 2;
/// Largest amount that the service adds.
pub const MAX: u64 = 100;
/// A total that the wire does not carry.
pub const UNUSABLE_TOTAL: u64 = u64::MAX;

/// Adds to the total, and answers with it.
#[derive(Debug)]
pub struct Add {
    pub amount: u64,
}

/// Has the service do something with its reply; answers with the total.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    Keep = 1,
    Drop = 2,
    Spawn = 3,
    After = 4,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum ProbeError {
    #[error("{amount} is more than {max}")]
    TooMuch { amount: u64, max: u64 },
    #[error("{0}")]
    Long(String),
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl RpcError for ProbeError {
    fn code(&self) -> tonic::Code {
        match self {
            Self::TooMuch { .. } | Self::Long(_) => tonic::Code::FailedPrecondition,
            Self::Fault(fault) => fault.code(),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Number {
    #[prost(uint64, tag = "1")]
    pub value: u64,
}

impl Rpc for Add {
    type Reply = u64;
    type Error = ProbeError;
    type Wire = Number;
    type WireReply = Number;
    const PATH: &'static str = "/atoll.test.Probe/Add";

    fn into_wire(self) -> Number {
        Number { value: self.amount }
    }

    fn from_wire(wire: Number) -> Result<Self, Malformed> {
        match wire.value {
            0 => Err(Malformed::new("amount", "at least 1").within("add")),
            amount => Ok(Self { amount }),
        }
    }

    fn reply_into_wire(value: u64) -> Number {
        Number { value }
    }

    fn reply_from_wire(wire: Number) -> Result<u64, Malformed> {
        match wire.value {
            UNUSABLE_TOTAL => Err(Malformed::new("total", "a lucky number")),
            total => Ok(total),
        }
    }
}

impl Rpc for Act {
    type Reply = u64;
    type Error = ProbeError;
    type Wire = Number;
    type WireReply = Number;
    const PATH: &'static str = "/atoll.test.Probe/Act";

    fn into_wire(self) -> Number {
        Number { value: self as u64 }
    }

    fn from_wire(wire: Number) -> Result<Self, Malformed> {
        let all = [Self::Keep, Self::Drop, Self::Spawn, Self::After];
        let found = all.into_iter().find(|act| *act as u64 == wire.value);
        found.ok_or_else(|| Malformed::new("act", "1 to 4"))
    }

    fn reply_into_wire(value: u64) -> Number {
        Number { value }
    }

    fn reply_from_wire(wire: Number) -> Result<u64, Malformed> {
        Ok(wire.value)
    }
}

/// What the actor tells the test that it did.
#[derive(Debug)]
pub enum Event {
    Started,
    Added(Context),
    Acted(Act),
    Stopped,
}

pub struct Probe {
    pub total: u64,
    pub kept: Vec<Reply<Act>>,
    pub events: UnboundedSender<Event>,
}

impl Probe {
    pub fn tell(&self, event: Event) {
        // A test that is over no longer listens.
        let _ = self.events.send(event);
    }

    pub fn release(&mut self) {
        for reply in self.kept.drain(..) {
            reply.ok(self.total);
        }
    }
}

impl Service for Probe {
    const NAME: &'static str = "probe";

    fn started(&mut self, _: &mut Cx<'_, Self>) {
        self.tell(Event::Started);
    }

    fn stopped(&mut self) {
        self.tell(Event::Stopped);
    }
}

impl Handle<Add> for Probe {
    fn handle(&mut self, add: Add, context: Context, reply: Reply<Add>, _: &mut Cx<'_, Self>) {
        self.tell(Event::Added(context));
        let Add { amount } = add;
        if amount > MAX {
            return reply.err(ProbeError::TooMuch { amount, max: MAX });
        }
        self.total += amount;
        reply.ok(self.total);
    }
}

impl Handle<Act> for Probe {
    fn handle(&mut self, act: Act, _: Context, reply: Reply<Act>, cx: &mut Cx<'_, Self>) {
        self.tell(Event::Acted(act));
        match act {
            Act::Keep => self.kept.push(reply),
            Act::Drop => drop(reply),
            Act::Spawn => {
                let five = std::rc::Rc::new(5);
                let slow = async move {
                    tokio::task::yield_now().await;
                    five
                };
                cx.spawn(slow, |probe, five, _| {
                    probe.total += *five;
                    reply.ok(probe.total);
                });
                // Handlers do not overlap: what was spawned comes after this.
                self.total *= 10;
            }
            Act::After => cx.after(Duration::from_millis(5), |probe, _| reply.ok(probe.total)),
        }
    }
}

/// A running probe, and links to it.
pub struct Stand {
    pub place: Place,
    pub probe: Local<Probe>,
    pub add: Link<Add>,
    pub act: Link<Act>,
    pub events: UnboundedReceiver<Event>,
    pub server: Option<Server>,
}

impl Stand {
    /// Called through its mailbox.
    pub async fn local() -> Self {
        let place = Place::new("probe");
        let (sender, events) = unbounded_channel();
        let probe = Local::start(&place, LIMIT, move || Probe {
            total: 0,
            kept: Vec::new(),
            events: sender,
        });
        let (add, act) = (Arc::new(probe.clone()), Arc::new(probe.clone()));
        let mut stand = Self { place, probe, add, act, events, server: None };
        assert!(matches!(stand.event().await, Event::Started));
        stand
    }

    /// Called over gRPC.
    pub async fn remote() -> Self {
        let stand = Self::local().await;
        let server = Server::start(stand.add.clone(), stand.act.clone());
        let remote = Arc::new(Remote::new(server.channel(), 64, Duration::from_secs(10)));
        Self { add: remote.clone(), act: remote, server: Some(server), ..stand }
    }

    pub async fn event(&mut self) -> Event {
        self.events.recv().await.expect("the actor is gone")
    }

    /// Runs `look` in the actor.
    pub async fn ask<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Probe) -> T + Send + 'static,
    ) -> T {
        let (sender, answer) = tokio::sync::oneshot::channel();
        self.probe.turns().post(|probe, _| {
            let _ = sender.send(look(probe));
        });
        answer.await.expect("the actor is gone")
    }
}

/// A gRPC server on a runtime of its own, so that it can be killed with its connections.
pub struct Server {
    runtime: Option<tokio::runtime::Runtime>,
    pub port: u16,
}

impl Server {
    pub fn start(add: Link<Add>, act: Link<Act>) -> Self {
        Self::start_with(add, act, None)
    }

    /// In front of a door, with TLS or not; or of none.
    pub fn start_with(
        add: Link<Add>,
        act: Link<Act>,
        entrance: Option<(Door, Option<Acceptor>)>,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        listener.set_nonblocking(true).expect("a socket");
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            let (server, routes) = (tonic::transport::Server::builder(), Routes { add, act });
            match entrance {
                None => server.serve_with_incoming(routes, TcpIncoming::from(listener)).await,
                Some((door, tls)) => {
                    server.serve_with_incoming(routes, door.open(listener, tls)).await
                }
            }
        });
        Self { runtime: Some(runtime), port }
    }

    pub fn channel(&self) -> Channel {
        let address = format!("http://127.0.0.1:{}", self.port);
        Endpoint::from_shared(address).expect("an address").connect_lazy()
    }

    /// Ends the server as a crash would.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Clone)]
struct Routes {
    add: Link<Add>,
    act: Link<Act>,
}

impl Tower<http::Request<Body>> for Routes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Poller<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path() {
            Add::PATH => answer(self.add.clone(), request).boxed(),
            Act::PATH => answer(self.act.clone(), request).boxed(),
            path => panic!("no route for {path}"),
        }
    }
}

async fn answer<M: Rpc>(
    link: Link<M>,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Infallible> {
    let codec = ProstCodec::<M::WireReply, M::Wire>::default();
    Ok(tonic::server::Grpc::new(codec).unary(Unary(link), request).await)
}

struct Unary<M: Rpc>(Link<M>);

impl<M: Rpc> Tower<tonic::Request<M::Wire>> for Unary<M> {
    type Response = tonic::Response<M::WireReply>;
    type Error = tonic::Status;
    type Future = BoxFuture<'static, Result<Self::Response, tonic::Status>>;

    fn poll_ready(&mut self, _: &mut Poller<'_>) -> Poll<Result<(), tonic::Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<M::Wire>) -> Self::Future {
        let link = self.0.clone();
        async move { serve(&*link, request).await }.boxed()
    }
}
