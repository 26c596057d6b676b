//! What a trace keeps of what a server sends: everything but the content of headers. hyper dates answers
//! that nothing else has dated (those to calls that have timed out) by the real clock, and HPACK makes
//! every later header depend on that.

const HEADERS: u8 = 1;
/// Length (3), kind, flags, stream (4).
const FRAME_HEAD: usize = 9;

/// Splits what is sent into the frames of HTTP/2.
#[derive(Default)]
pub struct Frames(Vec<u8>);

impl Frames {
    /// The frames that are complete with these bytes, without the length and the content of headers.
    pub fn take_in(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(bytes);
        let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
        while let Some(head) = self.0.get(at..at + FRAME_HEAD) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some(frame) = self.0.get(at..at + FRAME_HEAD + length) else { break };
            match frame[3] {
                HEADERS => out.extend_from_slice(&frame[3..FRAME_HEAD]),
                _ => out.extend_from_slice(frame),
            }
            at += frame.len();
        }
        self.0.drain(..at);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_content_of_headers_is_left_out() {
        let ping = [0, 0, 2, 6, 0, 0, 0, 0, 0, 7, 7];
        let headers = [0, 0, 3, HEADERS, 5, 0, 0, 0, 13, 1, 2, 3];
        let all = [ping.as_slice(), &headers, &ping].concat();
        let kept = [ping.as_slice(), &headers[3..9], &ping].concat();
        assert_eq!(Frames::default().take_in(&all), kept);
        let mut frames = Frames::default();
        let one_by_one: Vec<u8> = all.iter().flat_map(|byte| frames.take_in(&[*byte])).collect();
        assert_eq!(one_by_one, kept);
    }
}
