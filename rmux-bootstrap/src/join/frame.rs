//! The frames of the control socket. They are frozen: two builds of a program have to understand each other.
//!
//! A frame is `RMUX`, the frame version, the kind, the payload's length (two bytes, big endian), then `key=value`
//! lines. No frame is shorter than [`FRAME_MIN`]: one read of that many bytes takes a whole READY and never a byte of
//! the data that may follow it.

use std::io;

use super::fields::{Reader, Writer};

const MAGIC: &[u8; 4] = b"RMUX";
const VERSION: u8 = 1;
const HEADER: usize = 8;
/// Every frame is padded with empty lines to this length at least.
pub(crate) const FRAME_MIN: usize = 256;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Client: tell me when you are ready; this connection is then the data connection.
    Join,
    /// Daemon: you are being served, from the next byte on.
    Ready(Identity),
    /// Daemon: not yet; this is what I am doing.
    Progress(String),
    /// A kind of a later version. Skipped by clients, refused by daemons.
    Unknown(u8),
}

/// Who a daemon is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    pub(crate) generation: u64,
    pub(crate) version: String,
    pub(crate) build: String,
}

impl Frame {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, writer) = match self {
            Self::Join => (1, Writer::default()),
            Self::Ready(identity) => (
                2,
                Writer::default()
                    .number("pid", identity.pid)
                    .number("generation", identity.generation)
                    .field("version", &identity.version)
                    .field("build", &identity.build),
            ),
            Self::Progress(text) => (3, Writer::default().field("text", shortened(text, 1024))),
            Self::Unknown(kind) => (*kind, Writer::default()),
        };
        let mut payload = writer.into_bytes();
        payload.truncate(usize::from(u16::MAX));
        payload.resize(payload.len().max(FRAME_MIN - HEADER), b'\n');
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        frame.extend_from_slice(MAGIC);
        frame.extend_from_slice(&[VERSION, kind]);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&payload);
        frame
    }

    fn decode(kind: u8, payload: &[u8]) -> Self {
        let reader = Reader(payload);
        match kind {
            1 => Self::Join,
            2 => Self::Ready(Identity {
                pid: reader.number("pid").unwrap_or_default(),
                generation: reader.number("generation").unwrap_or_default(),
                version: reader.text("version").unwrap_or_default(),
                build: reader.text("build").unwrap_or_default(),
            }),
            3 => Self::Progress(reader.text("text").unwrap_or_default()),
            kind => Self::Unknown(kind),
        }
    }
}

fn shortened(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Puts frames together from what arrives, and takes no byte more than they have.
#[derive(Debug, Default)]
pub(crate) struct Assembler(Vec<u8>);

impl Assembler {
    /// Reads until a frame is whole. `Ok(None)`: the peer has closed. `WouldBlock` comes out as the error it is.
    pub(crate) fn read(
        &mut self,
        mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Option<Frame>> {
        loop {
            let wanted = self.wanted()?;
            if let Some(kind) = self.kind()
                && self.0.len() == wanted
            {
                let frame = Frame::decode(kind, &self.0[HEADER..]);
                self.0.clear();
                return Ok(Some(frame));
            }
            let have = self.0.len();
            self.0.resize(wanted, 0);
            let result = receive(&mut self.0[have..]);
            self.0.truncate(have + *result.as_ref().unwrap_or(&0));
            match result {
                Ok(0) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
    }

    fn kind(&self) -> Option<u8> {
        (self.0.len() >= HEADER).then(|| self.0[5])
    }

    /// How long the frame is, as far as that is known.
    fn wanted(&self) -> io::Result<usize> {
        if self.0.len() < HEADER {
            return Ok(FRAME_MIN);
        }
        if &self.0[..4] != MAGIC || self.0[4] != VERSION {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "whoever listens at the control socket does not speak this protocol",
            ));
        }
        let length = HEADER + usize::from(u16::from_be_bytes([self.0[6], self.0[7]]));
        if length < FRAME_MIN {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a control frame is too short",
            ));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Frame> {
        vec![
            Frame::Join,
            Frame::Progress("x".repeat(1000)),
            Frame::Ready(Identity {
                pid: 7,
                generation: 9,
                version: "1.2.3".into(),
                build: "b".into(),
            }),
            Frame::Progress("line\nbreak".into()),
            Frame::Unknown(77),
        ]
    }

    #[test]
    fn frames_come_back_however_they_are_cut_and_the_data_behind_them_stays() {
        for chunk in [1, 7, 255, 256, 257, 10_000] {
            let mut wire: Vec<u8> = all().iter().flat_map(Frame::encode).collect();
            wire.extend_from_slice(b"data");
            let mut rest = wire.as_slice();
            let mut assembler = Assembler::default();
            for frame in all() {
                let read = assembler.read(|buffer| {
                    let taken = buffer.len().min(chunk).min(rest.len());
                    buffer[..taken].copy_from_slice(&rest[..taken]);
                    rest = &rest[taken..];
                    Ok(taken)
                });
                assert_eq!(read.unwrap(), Some(frame));
            }
            assert_eq!(rest, b"data");
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error_and_the_end_is_the_end() {
        let mut assembler = Assembler::default();
        let error = assembler.read(|buffer| {
            buffer.fill(b'x');
            Ok(buffer.len())
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(Assembler::default().read(|_| Ok(0)).unwrap(), None);
    }
}
