//! Every limit of the gateway, and the server builder that has those of the transport applied.

use std::time::Duration;

use atoll_evm::CALL_GAS_CAP;
use atoll_fabric::Door;
use tonic::transport::Server;

/// What the gateway admits. Whoever exceeds a limit is refused, with a message that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections, and how long one may take to begin.
    pub door: Door,
    /// Streams and requests under way on one connection. More are refused by HTTP/2.
    pub connection_streams: u32,
    /// Length of a message from a client.
    pub message_bytes: usize,
    /// Names and values of one request's headers.
    pub header_list_bytes: u32,
    /// HTTP/2 frame.
    pub frame_bytes: u32,
    /// Streams that a client opened and reset before the gateway looked at them; one more closes
    /// the connection (rapid reset).
    pub pending_resets: usize,
    /// Streams of a connection that the gateway refused or reset because of a client's errors; one
    /// more closes the connection.
    pub error_resets: usize,
    /// Time without traffic after which a connection is pinged.
    pub keepalive_interval: Duration,
    /// Time after which a connection that does not answer the ping is closed.
    pub keepalive_timeout: Duration,
    /// Time for a request that is not a stream, and for a stream to begin.
    pub request_timeout: Duration,
    /// Time for a shard to take or refuse transactions.
    pub offer_timeout: Duration,
    /// Transactions in one batch of a stream.
    pub batch_transactions: usize,
    /// Size of all transactions between their arrival and their shard's answer; each counts as a
    /// whole number of KiB. A quarter of it is for single ones, and half of that for those of any
    /// one shard.
    pub submit_bytes: usize,
    /// Open streams of batches, over all connections.
    pub submit_streams: usize,
    /// Open streams of receipts, over all connections.
    pub watchers: usize,
    /// Senders and hashes that one of them asks for.
    pub watch_filter: usize,
    /// Size of the receipts that are kept for watchers; who falls further behind is dropped.
    pub watch_backlog_bytes: usize,
    /// `GetReceipt` requests that wait at a time.
    pub waiters: usize,
    /// Transactions whose shard is remembered.
    pub recent_transactions: usize,
    /// Gas of one `Call`.
    pub call_gas: u64,
    /// Keys that one `Call` may read.
    pub call_keys: usize,
    /// Times that one `Call` is run before everything it needs must be known.
    pub call_passes: usize,
    /// `Call` requests under way at a time.
    pub calls: usize,
    /// `GetAccount`, `GetStorage` and `GetCluster` requests under way at a time.
    pub reads: usize,
    /// Code of contracts that is kept for calls.
    pub code_cache_bytes: usize,
    /// Addresses whose shards one `GetCluster` asks for.
    pub cluster_addresses: usize,
    /// Those of JSON-RPC.
    pub rpc: RpcLimits,
}

/// What JSON-RPC admits besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcLimits {
    /// TCP connections, and how long one may take to begin.
    pub door: Door,
    /// Time without a byte either way after which a connection is closed. WebSockets are pinged
    /// more often.
    pub idle: Duration,
    /// Requests by HTTP and WebSockets at a time.
    pub connections: u32,
    /// Time for the body of a request to come.
    pub body_time: Duration,
    /// Bodies of requests that are under way, over all connections.
    pub bodies_bytes: usize,
    /// Length of a request.
    pub request_bytes: u32,
    /// Length of an answer.
    pub response_bytes: u32,
    /// Requests in one batch.
    pub batch_requests: u32,
    /// Subscriptions of one connection.
    pub subscriptions: u32,
    /// Answers that wait for a slow reader of a WebSocket; beyond that its subscriptions wait too.
    pub message_buffer: u32,
    /// Requests under way at a time, over all connections.
    pub requests: usize,
    /// Blocks that one request for logs may span.
    pub log_blocks: u64,
    /// Logs in one answer.
    pub logs: usize,
    /// Addresses or topics in one filter.
    pub filter_values: usize,
    /// Installed filters.
    pub filters: usize,
    /// An installed filter that nobody asks for goes after this time.
    pub filter_idle: Duration,
    /// Hashes of pending transactions that are kept for filters.
    pub pending_hashes: usize,
    /// Blocks in one `eth_feeHistory`.
    pub fee_history_blocks: u64,
    /// Newest blocks in which a block is looked for by its hash.
    pub hash_search_blocks: u64,
    /// Memory for blocks that were asked for of late.
    pub block_cache_bytes: usize,
    /// The same in blocks.
    pub block_cache_blocks: usize,
    /// Blocks that are put together at a time.
    pub assembling: usize,
    /// Longest wait of `eth_sendRawTransactionSync`.
    pub sync_wait: Duration,
    /// Blocks of one `eth_simulateV1`, and calls in them all.
    pub simulated_blocks: usize,
    pub simulated_calls: usize,
    /// Traces that are made at a time; others wait.
    pub traces: usize,
    /// Keys that the transactions of a block may read that is traced.
    pub trace_keys: usize,
}

impl Default for RpcLimits {
    fn default() -> Self {
        Self {
            door: Door { connections: 4_096, greeting: Duration::from_secs(10) },
            idle: Duration::from_secs(60),
            connections: 1024,
            body_time: Duration::from_secs(20),
            bodies_bytes: 256 << 20,
            request_bytes: 5 << 20,
            response_bytes: 32 << 20,
            batch_requests: 1024,
            subscriptions: 64,
            message_buffer: 256,
            requests: 2048,
            log_blocks: 10_000,
            logs: 20_000,
            filter_values: 1024,
            filters: 1024,
            filter_idle: Duration::from_secs(300),
            pending_hashes: 16_384,
            fee_history_blocks: 1024,
            hash_search_blocks: 8_192,
            block_cache_bytes: 64 << 20,
            block_cache_blocks: 8_192,
            assembling: 16,
            sync_wait: Duration::from_secs(25),
            simulated_blocks: 256,
            simulated_calls: 1_000,
            traces: 2,
            trace_keys: 131_072,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            door: Door { connections: 4_096, greeting: Duration::from_secs(10) },
            rpc: RpcLimits::default(),
            connection_streams: 256,
            message_bytes: 4 << 20,
            header_list_bytes: 16 << 10,
            frame_bytes: 64 << 10,
            pending_resets: 64,
            error_resets: 1024,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            offer_timeout: Duration::from_secs(5),
            batch_transactions: 10_000,
            submit_bytes: 64 << 20,
            submit_streams: 256,
            watchers: 1024,
            watch_filter: 10_000,
            watch_backlog_bytes: 64 << 20,
            waiters: 65_536,
            recent_transactions: 131_072,
            call_gas: CALL_GAS_CAP,
            call_keys: 16_384,
            call_passes: 64,
            calls: 256,
            reads: 1024,
            code_cache_bytes: 32 << 20,
            cluster_addresses: 10_000,
        }
    }
}

impl Limits {
    /// Time within which every request that is not a stream is answered: a little before the
    /// transport gives it up, so that the client is told what was too slow.
    pub(crate) fn patience(&self) -> Duration {
        self.request_timeout - self.request_timeout / 30
    }

    /// A server builder with the limits of the transport. Those of messages come with
    /// [`Ledger::into_server`](crate::Ledger::into_server).
    pub fn server(&self) -> Server {
        Server::builder()
            .max_concurrent_streams(self.connection_streams)
            .concurrency_limit_per_connection(self.connection_streams as usize)
            .http2_keepalive_interval(Some(self.keepalive_interval))
            .http2_keepalive_timeout(Some(self.keepalive_timeout))
            .http2_max_header_list_size(self.header_list_bytes)
            .http2_max_pending_accept_reset_streams(Some(self.pending_resets))
            .http2_max_local_error_reset_streams(Some(self.error_resets))
            .max_frame_size(self.frame_bytes)
            .timeout(self.request_timeout)
    }
}
