//! What holds for any input: the frames, the record and the derivation of paths meet what strangers and broken disks write.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::Endpoint;
use crate::join::frame::{Applicant, Assembler, Frame, Identity, Leave, Leaving};
use crate::join::phase::Phase;
use crate::join::record::Record;
use crate::skew::{Build, Wish};

/// The longest frame there can be: its length is two bytes.
const FRAME_MAX: usize = 8 + u16::MAX as usize;

fn build() -> impl Strategy<Value = Build> {
    ("[ -~\n]{0,40}", "[ -~\n]{0,40}").prop_map(|(version, id)| Build { version, id })
}

fn frame() -> impl Strategy<Value = Frame> {
    let identity = || {
        (any::<u32>(), any::<u64>(), build(), any::<u64>()).prop_map(
            |(pid, generation, build, adopted_us)| Identity {
                pid,
                generation,
                build,
                adopted_us,
                accepting_us: adopted_us,
            },
        )
    };
    prop_oneof![
        build().prop_map(|build| Frame::Join(Applicant {
            build,
            wish: Wish::Replace
        })),
        identity().prop_map(Frame::Ready),
        identity().prop_map(Frame::Skew),
        "\\PC{0,200}".prop_map(Frame::Progress),
        Just(Frame::Query),
        ("\\PC{0,200}", any::<bool>()).prop_map(|(reason, is_replaced)| {
            Frame::Leave(Leave {
                reason,
                is_replaced,
            })
        }),
        (any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(pid, generation, grace_ms)| {
            Frame::Leaving(Leaving {
                pid,
                generation,
                grace_ms,
            })
        }),
    ]
}

/// What `bytes` hold, as they come in pieces of these lengths: the frames, and how many bytes were taken.
fn assembled(bytes: &[u8], pieces: &[usize]) -> (Vec<Frame>, usize) {
    let mut assembler = Assembler::default();
    let mut frames = Vec::new();
    let (mut taken, mut turn) = (0, 0);
    loop {
        let read = assembler.read(|buffer| {
            assert!(buffer.len() <= FRAME_MAX, "room for {} bytes", buffer.len());
            let piece = pieces.get(turn % pieces.len().max(1)).copied();
            turn += 1;
            let length = piece.unwrap_or(1).max(1).min(buffer.len());
            let length = length.min(bytes.len() - taken);
            buffer[..length].copy_from_slice(&bytes[taken..taken + length]);
            taken += length;
            Ok::<_, io::Error>(length)
        });
        match read {
            Ok(Some(frame)) => frames.push(frame),
            _ => return (frames, taken),
        }
    }
}

proptest! {
    #[test]
    fn frames_come_back_however_they_are_cut(
        frames in vec(frame(), 0..5),
        pieces in vec(1_usize..400, 1..8),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        prop_assert_eq!(assembled(&bytes, &pieces), (frames, bytes.len()));
    }

    #[test]
    fn a_frame_takes_no_byte_of_what_follows(frame in frame(), rest in vec(any::<u8>(), 1..300)) {
        let whole = frame.encode();
        let bytes = [&whole[..], &rest].concat();
        let mut taken = 0;
        let read = Assembler::default().read(|buffer| {
            let length = buffer.len().min(bytes.len() - taken);
            buffer[..length].copy_from_slice(&bytes[taken..taken + length]);
            taken += length;
            Ok(length)
        });
        prop_assert_eq!(read.unwrap(), Some(frame));
        prop_assert_eq!(taken, whole.len());
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in vec(any::<u8>(), 0..2000), pieces in vec(1_usize..400, 1..8)) {
        assembled(&bytes, &pieces);
    }

    #[test]
    fn nor_are_frames_with_one_wrong_byte(frame in frame(), at in any::<prop::sample::Index>(), wrong in any::<u8>()) {
        let mut bytes = frame.encode();
        let at = at.index(bytes.len());
        bytes[at] = wrong;
        assembled(&bytes, &[64]);
    }

    #[test]
    fn a_record_comes_back_and_a_torn_one_is_none(
        (generation, pid, build) in (1..u64::MAX, any::<u32>(), build()),
        log in vec(1_u8..=255, 0..100),
        reason in "\\PC{0,300}",
        at in any::<prop::sample::Index>(),
        flip in 1_u8..=255,
    ) {
        use std::os::unix::fs::FileExt;

        let record = Record {
            generation,
            phase: Phase::Closing,
            pid,
            build,
            log: OsString::from_vec(log).into(),
            reason,
            ..Record::default()
        };
        let file = rustix::fs::memfd_create("record", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = std::fs::File::from(file);
        record.write(&file).unwrap();
        let read = Record::read(&file);
        prop_assert_eq!(
            (read.generation, read.phase, read.pid, &read.build, &read.log, &read.reason),
            (generation, Phase::Closing, pid, &record.build, &record.log, &record.reason)
        );

        let mut byte = [0];
        let at = at.index(usize::try_from(file.metadata().unwrap().len()).unwrap()) as u64;
        file.read_exact_at(&mut byte, at).unwrap();
        // The lines that fill it up say nothing, so there an end of line may be anything but that.
        if byte[0] != b'\n' {
            file.write_all_at(&[byte[0] ^ flip], at).unwrap();
            let read = Record::read(&file);
            prop_assert!(read.generation == 0 || read.generation == generation, "{read:?}");
            prop_assert!(read.phase == Phase::Unknown || read.reason == record.reason, "{read:?}");
        }
    }

    #[test]
    fn any_name_has_a_path_or_a_reason(name in vec(any::<u8>(), 0..300)) {
        let path = std::path::PathBuf::from(OsString::from_vec(name));
        if let Ok(socket) = Endpoint::from(path.as_path()).socket_path() {
            prop_assert!(socket.is_absolute(), "{}", socket.display());
        }
        if let Ok(name) = std::str::from_utf8(path.as_os_str().as_bytes()) {
            // An error names what is wrong; there is nothing to say of it but that it comes back.
            let _ = Endpoint::from(name).socket_path();
        }
    }

    #[test]
    fn two_keys_are_two_endpoints(one in vec(any::<u8>(), 0..60), other in vec(any::<u8>(), 0..60)) {
        let endpoint = Endpoint::from("/run/properties.sock");
        let path = |key: &[u8]| {
            let keyed = endpoint.keyed(std::ffi::OsStr::from_bytes(key));
            keyed.socket_path().unwrap()
        };
        prop_assert_eq!(path(&one) == path(&other), one == other);
    }
}
