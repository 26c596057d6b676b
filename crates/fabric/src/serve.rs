//! The gRPC side of a request: context in, errors out.

use std::time::Duration;

use atoll_types::TraceContext;
use bytes::Bytes;
use tonic::metadata::MetadataMap;

use crate::call::{Call, Context, Rpc};
use crate::error::{Fault, RpcError};

/// W3C Trace Context.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// Details travel in a header, and peers refuse lists of headers of over 16 KiB.
const MAX_DETAILS_BYTES: usize = 4096;
const MAX_STATUS_MESSAGE_BYTES: usize = 1024;

/// Answers a unary gRPC request through `link`: reads trace and deadline from the metadata,
/// validates the message, calls, and encodes the reply.
///
/// # Errors
/// The service's error as [`status_of`] gives it; [`Fault::Malformed`] for a message that does not
/// validate.
pub async fn serve<M: Rpc>(
    link: &dyn Call<M>,
    request: tonic::Request<M::Wire>,
) -> Result<tonic::Response<M::WireReply>, tonic::Status> {
    let context = context_of(request.metadata());
    let trace = context.trace;
    let result = match M::from_wire(request.into_inner()) {
        Ok(message) => link.call(context, message).await,
        Err(malformed) => Err(Fault::Malformed(malformed).into()),
    };
    match result {
        Ok(reply) => Ok(tonic::Response::new(M::reply_into_wire(reply))),
        Err(error) => {
            let trace_id = trace.map(|trace| format!("{:032x}", trace.trace_id));
            tracing::debug!(path = M::PATH, %error, trace_id, "call answered with an error");
            Err(status_of(&error))
        }
    }
}

/// A gRPC status that says `error` to any client, and gives it back whole to a
/// [`Remote`](crate::Remote): its code, its text (cut at 1 KiB), and in the details its JSON. An
/// error of more than 4 KiB of JSON arrives as [`Fault::Internal`] with the start of its text.
pub fn status_of<E: RpcError>(error: &E) -> tonic::Status {
    debug_assert_ne!(error.code(), tonic::Code::Ok, "an error cannot be a success");
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(MAX_STATUS_MESSAGE_BYTES));
    let details = match serde_json::to_vec(error) {
        Ok(json) if json.len() <= MAX_DETAILS_BYTES => json,
        _ => {
            let stand_in = E::from(Fault::Internal { reason: text.clone() });
            serde_json::to_vec(&stand_in).unwrap_or_default()
        }
    };
    tonic::Status::with_details(error.code(), text, Bytes::from(details))
}

fn context_of(metadata: &MetadataMap) -> Context {
    let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
    let context =
        Context { trace: text(TRACEPARENT).and_then(TraceContext::parse), deadline: None };
    match text("grpc-timeout").and_then(parse_timeout) {
        Some(timeout) => context.with_timeout(timeout),
        None => context,
    }
}

/// Reads the `grpc-timeout` of the gRPC over HTTP/2 specification: up to 8 digits and a unit.
fn parse_timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        for (header, nanos) in [
            ("2H", 7_200_000_000_000),
            ("3M", 180_000_000_000),
            ("4S", 4_000_000_000),
            ("99999999m", 99_999_999_000_000),
            ("6u", 6_000),
            ("7n", 7),
        ] {
            assert_eq!(parse_timeout(header), Some(Duration::from_nanos(nanos)), "{header}");
        }
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
