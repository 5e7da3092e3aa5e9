//! What a fuzzer may call: parsers that meet bytes of others. Only in a build with `--cfg fuzzing`.

use crate::join::frame::{Assembler, Frame};

/// The frames in `bytes`, which come in pieces as long as the first byte says. What was understood must come back from its
/// own encoding.
///
/// # Panics
/// Where it does not: that is a defect.
pub fn frames(bytes: &[u8]) {
    let Some((piece, mut rest)) = bytes.split_first() else {
        return;
    };
    let mut assembler = Assembler::default();
    while let Ok(Some(frame)) = assembler.read(|buffer| {
        let length = buffer.len().min(rest.len()).min(usize::from(*piece).max(1));
        buffer[..length].copy_from_slice(&rest[..length]);
        rest = &rest[length..];
        Ok(length)
    }) {
        if matches!(frame, Frame::Unknown(_)) {
            continue;
        }
        let encoded = frame.encode();
        let mut unread = &encoded[..];
        let again = Assembler::default().read(|buffer| std::io::Read::read(&mut unread, buffer));
        assert!(
            matches!(&again, Ok(Some(again)) if *again == frame),
            "{frame:?} came back as {again:?}"
        );
    }
}
