//! W3C trace context, as it travels with every transaction and every call.

use serde::{Deserialize, Serialize};

/// A sampled position in a trace (W3C Trace Context, `traceparent` version 00).
///
/// Only sampled positions are carried: an unsampled transaction has `None` in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceContext {
    /// Trace id, 128 bits, never zero.
    pub trace_id: u128,
    /// Id of the span that work done under this context is a child of, 64 bits, never zero.
    pub span_id: u64,
}

impl TraceContext {
    /// Reads a `traceparent` header; `None` if it is malformed or not sampled.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
        if version != "00" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
            return None;
        }
        if ![trace, span, flags].into_iter().all(hex) || parts.next().is_some() {
            return None;
        }
        let context = Self {
            trace_id: u128::from_str_radix(trace, 16).ok()?,
            span_id: u64::from_str_radix(span, 16).ok()?,
        };
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        (sampled && context.trace_id != 0 && context.span_id != 0).then_some(context)
    }

    /// The `traceparent` header of this position.
    pub fn header(&self) -> String {
        format!("00-{:032x}-{:016x}-01", self.trace_id, self.span_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_round_trip() {
        let context = TraceContext { trace_id: 0xabc << 90, span_id: 7 };
        assert_eq!(TraceContext::parse(&context.header()), Some(context));
    }

    #[test]
    fn malformed_and_unsampled_headers_give_nothing() {
        let good = TraceContext { trace_id: 1, span_id: 1 }.header();
        for bad in [
            "",
            "00",
            "garbage-that-is-no-header-at-all",
            &good.replace("-01", "-00"),
            &format!("{good}-00"),
            &good.replacen("00-", "ff-", 1),
            &good.replace("0000001-0", "000000é-0"),
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }
}
