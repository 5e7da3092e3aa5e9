//! The frames of the control socket. They are frozen: two builds of a program have to understand each other.
//!
//! A frame is `RMUX`, the frame version, the kind, the payload's length (two bytes, big endian), then `key=value`
//! lines. No frame is shorter than [`FRAME_MIN`]: one read of that many bytes takes a whole READY and never a byte of
//! the data that may follow it.

use std::io;

use super::fields::{Reader, Writer};
use super::phase::Phase;
use crate::skew::{Build, Wish};

const MAGIC: &[u8; 4] = b"RMUX";
const VERSION: u8 = 1;
const HEADER: usize = 8;
/// Every frame is padded with empty lines to this length at least.
pub(crate) const FRAME_MIN: usize = 256;
/// The most that is sent of a text that people write.
const TEXT_MAX: usize = 1024;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Client: tell me when you are ready; this connection is then the data connection. And this is who asks.
    Join(Applicant),
    /// Daemon: you are being served, from the next byte on.
    Ready(Identity),
    /// Daemon: not yet; this is what I am doing.
    Progress(String),
    /// Client: how are you?
    Query,
    /// Daemon: the answer to that.
    Report(Box<Report>),
    /// Client: leave. The end of this connection will be your end.
    Leave(Leave),
    /// Daemon: I am on my way.
    Leaving(Leaving),
    /// Daemon, instead of READY: your build and mine do not fit by your own wish. Nobody has taken this connection.
    Skew(Identity),
    /// A kind of a later version. Skipped by clients, refused by daemons.
    Unknown(u8),
}

/// Why a daemon is to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leave {
    pub(crate) reason: String,
    /// Another build takes its place, so whoever waits for it is to wait for that one.
    pub(crate) is_replaced: bool,
}

/// Who leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaving {
    pub(crate) pid: u32,
    pub(crate) generation: u64,
    pub(crate) grace_ms: u64,
}

/// Who asks to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applicant {
    pub(crate) build: Build,
    pub(crate) wish: Wish,
}

impl Applicant {
    /// Whoever is content with any daemon.
    pub(crate) fn anybody() -> Self {
        Self {
            build: Build::default(),
            wish: Wish::Join,
        }
    }
}

/// How a daemon is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) identity: Identity,
    pub(crate) phase: Phase,
    pub(crate) progress: String,
    pub(crate) uptime_ms: u64,
    pub(crate) grace_ms: u64,
    pub(crate) connections: u64,
    pub(crate) waiting: u64,
    pub(crate) keep_alives: u64,
}

/// Who a daemon is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    pub(crate) generation: u64,
    pub(crate) build: Build,
    /// When it had taken over from its starter, and when it accepted first, in microseconds of this boot.
    pub(crate) adopted_us: u64,
    pub(crate) accepting_us: u64,
}

impl Identity {
    fn write(&self, writer: Writer) -> Writer {
        writer
            .number("pid", self.pid)
            .number("generation", self.generation)
            .field("version", shortened(&self.build.version, TEXT_MAX))
            .field("build", &self.build.id)
            .number("adopted-us", self.adopted_us)
            .number("accepting-us", self.accepting_us)
    }

    fn read(reader: &Reader<'_>) -> Self {
        Self {
            pid: reader.number("pid").unwrap_or_default(),
            generation: reader.number("generation").unwrap_or_default(),
            build: read_build(reader),
            adopted_us: reader.number("adopted-us").unwrap_or_default(),
            accepting_us: reader.number("accepting-us").unwrap_or_default(),
        }
    }
}

fn read_build(reader: &Reader<'_>) -> Build {
    Build {
        version: reader.text("version").unwrap_or_default(),
        id: reader.text("build").unwrap_or_default(),
    }
}

impl Frame {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut room = Vec::with_capacity(FRAME_MIN);
        // For the header, whose last part is known last.
        room.resize(HEADER, 0);
        let writer = Writer::behind(room);
        let (kind, writer) = match self {
            Self::Join(applicant) => (
                1,
                writer
                    .field("version", shortened(&applicant.build.version, TEXT_MAX))
                    .field("build", &applicant.build.id)
                    .field("on-skew", applicant.wish.name()),
            ),
            Self::Ready(identity) => (2, identity.write(writer)),
            Self::Progress(text) => (3, writer.field("text", shortened(text, TEXT_MAX))),
            Self::Query => (4, writer),
            Self::Report(report) => (
                5,
                report
                    .identity
                    .write(writer)
                    .field("phase", report.phase.name())
                    .field("progress", shortened(&report.progress, TEXT_MAX))
                    .number("uptime-ms", report.uptime_ms)
                    .number("grace-ms", report.grace_ms)
                    .number("connections", report.connections)
                    .number("waiting", report.waiting)
                    .number("keep-alives", report.keep_alives),
            ),
            Self::Leave(leave) => (
                6,
                writer
                    .field("reason", shortened(&leave.reason, TEXT_MAX))
                    .number("replaced", u8::from(leave.is_replaced)),
            ),
            Self::Leaving(leaving) => (
                7,
                writer
                    .number("pid", leaving.pid)
                    .number("generation", leaving.generation)
                    .number("grace-ms", leaving.grace_ms),
            ),
            Self::Skew(identity) => (8, identity.write(writer)),
            Self::Unknown(kind) => (*kind, writer),
        };
        let mut frame = writer.into_bytes();
        frame.truncate(HEADER + usize::from(u16::MAX));
        frame.resize(frame.len().max(FRAME_MIN), b'\n');
        let length = u16::try_from(frame.len() - HEADER).unwrap_or(u16::MAX);
        frame[..4].copy_from_slice(MAGIC);
        frame[4..6].copy_from_slice(&[VERSION, kind]);
        frame[6..HEADER].copy_from_slice(&length.to_be_bytes());
        frame
    }

    fn decode(kind: u8, payload: &[u8]) -> Self {
        let reader = Reader::new(payload);
        let number = |key| reader.number(key).unwrap_or_default();
        match kind {
            1 => Self::Join(Applicant {
                build: read_build(&reader),
                wish: Wish::named(&reader.text("on-skew").unwrap_or_default()),
            }),
            2 => Self::Ready(Identity::read(&reader)),
            3 => Self::Progress(reader.text("text").unwrap_or_default()),
            4 => Self::Query,
            5 => Self::Report(Box::new(Report {
                identity: Identity::read(&reader),
                phase: Phase::named(&reader.text("phase").unwrap_or_default()),
                progress: reader.text("progress").unwrap_or_default(),
                uptime_ms: number("uptime-ms"),
                grace_ms: number("grace-ms"),
                connections: number("connections"),
                waiting: number("waiting"),
                keep_alives: number("keep-alives"),
            })),
            6 => Self::Leave(Leave {
                reason: reader.text("reason").unwrap_or_default(),
                is_replaced: number("replaced") == 1,
            }),
            7 => Self::Leaving(Leaving {
                pid: reader.number("pid").unwrap_or_default(),
                generation: number("generation"),
                grace_ms: number("grace-ms"),
            }),
            8 => Self::Skew(Identity::read(&reader)),
            kind => Self::Unknown(kind),
        }
    }
}

pub(crate) fn shortened(text: &str, most: usize) -> &str {
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

    fn build() -> Build {
        Build {
            version: "1.2.3".into(),
            id: "b".into(),
        }
    }

    fn identity() -> Identity {
        Identity {
            pid: 7,
            generation: 9,
            build: build(),
            adopted_us: 5,
            accepting_us: 6,
        }
    }

    fn all() -> Vec<Frame> {
        vec![
            Frame::Join(Applicant {
                build: build(),
                wish: Wish::Replace,
            }),
            Frame::Progress("x".repeat(1000)),
            Frame::Ready(identity()),
            Frame::Query,
            Frame::Report(Box::new(Report {
                identity: identity(),
                phase: Phase::Closing,
                progress: "half".into(),
                uptime_ms: 1,
                grace_ms: 2,
                connections: 3,
                waiting: 4,
                keep_alives: 5,
            })),
            Frame::Leave(Leave {
                reason: "stopped".into(),
                is_replaced: true,
            }),
            Frame::Leaving(Leaving {
                pid: 1,
                generation: 2,
                grace_ms: u64::MAX,
            }),
            Frame::Skew(identity()),
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
