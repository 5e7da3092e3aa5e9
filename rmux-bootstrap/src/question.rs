//! When a client has asked something.
//!
//! A server that shuts down ends the connections that wait for a request. One that has just been handed out must not be
//! among them: its client has been told that it is served. So the signal waits for the first request of each. Any byte
//! is one, except in HTTP/2, whose clients introduce themselves first and are turned away if they have got no further.

/// What every HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, kind, flags, stream.
const HEADER: usize = 9;
/// The kind of the frame that begins a request.
const HEADERS: u8 = 1;

/// How much of the first request has been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// Bytes of the preface.
    introduced: usize,
    /// Bytes of a frame's header, of which the length and the kind are kept.
    header: usize,
    length: usize,
    kind: u8,
    /// What is left of a frame's body.
    body: usize,
}

impl Question {
    /// Whether the request has begun with these bytes, the next that were read. The end of the stream counts as one.
    pub(crate) fn has_begun(&mut self, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let preface = &PREFACE[self.introduced..];
        let introduced = preface.len().min(bytes.len());
        if bytes[..introduced] != preface[..introduced] {
            return true;
        }
        self.introduced += introduced;
        self.request_begins(&bytes[introduced..])
    }

    fn request_begins(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.body > 0 {
                let skipped = self.body.min(bytes.len());
                self.body -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            match self.header {
                0..3 => self.length = self.length << 8 | usize::from(first),
                3 => self.kind = first,
                _ => {}
            }
            if self.header == 3 && self.kind == HEADERS {
                return true;
            }
            self.header += 1;
            if self.header == HEADER {
                self.body = std::mem::take(&mut self.length);
                self.header = 0;
            }
            bytes = rest;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 0];
        // A body of what would be the beginning of a request if it were a header.
        frame.resize(HEADER + usize::from(length), HEADERS);
        frame
    }

    #[test]
    fn a_byte_of_any_other_protocol_is_a_request() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"x",
            b"\0",
            b"POST",
            b"PRI / HTTP/1.1",
            b"",
        ] {
            assert!(Question::default().has_begun(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn an_http_2_client_has_asked_nothing_before_its_first_headers_however_its_bytes_arrive() {
        let introduction = [PREFACE, &frame(4, 18), &frame(8, 4), &frame(4, 0)].concat();
        let request = frame(HEADERS, 5);
        for size in 1..introduction.len() {
            let mut question = Question::default();
            for bytes in introduction.chunks(size) {
                assert!(!question.has_begun(bytes), "in pieces of {size}");
            }
            assert!(!question.has_begun(&request[..3]));
            assert!(question.has_begun(&request[3..4]));
        }
        assert!(Question::default().has_begun(&[introduction, request].concat()));
    }

    #[test]
    fn the_end_after_the_introduction_is_the_end() {
        let mut question = Question::default();
        assert!(!question.has_begun(PREFACE));
        assert!(question.has_begun(b""));
    }
}
