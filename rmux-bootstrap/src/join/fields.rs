//! `key=value` lines, in which frames, the record and the hand-over are written: readable, and open to new keys.

use std::borrow::Cow;

/// Writes lines. A value may hold any byte.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// Writes behind what is there already.
    pub(crate) fn behind(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(crate) fn field(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'=');
        let value = value.as_ref();
        if value.iter().any(|byte| matches!(byte, b'\n' | b'\\')) {
            for byte in value {
                match byte {
                    b'\n' => self.0.extend_from_slice(b"\\n"),
                    b'\\' => self.0.extend_from_slice(b"\\\\"),
                    byte => self.0.push(*byte),
                }
            }
        } else {
            self.0.extend_from_slice(value);
        }
        self.0.push(b'\n');
        self
    }

    pub(crate) fn number(self, key: &str, value: impl Copy + ToString) -> Self {
        // Not by a format: a start writes dozens of numbers.
        self.field(key, value.to_string())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads lines. Keys that it is not asked for do not matter, nor do empty lines.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a>(Vec<&'a [u8]>);

/// Few texts have more lines.
const LINES: usize = 16;

impl<'a> Reader<'a> {
    pub(crate) fn new(lines: &'a [u8]) -> Self {
        let mut found = Vec::with_capacity(LINES);
        found.extend(without_filling(lines).split(|byte| *byte == b'\n'));
        Self(found)
    }

    /// The first value of a key, as it is written.
    fn written(&self, key: &str) -> Option<&'a [u8]> {
        self.0
            .iter()
            .find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
    }

    /// The first value of a key.
    pub(crate) fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        self.value(key).map(Cow::into_owned)
    }

    fn value(&self, key: &str) -> Option<Cow<'a, [u8]>> {
        let line = self.written(key)?;
        if !line.contains(&b'\\') {
            return Some(line.into());
        }
        let mut value = Vec::with_capacity(line.len());
        let mut escaped = false;
        for byte in line {
            match (escaped, byte) {
                (false, b'\\') => escaped = true,
                (false, byte) => value.push(*byte),
                (true, b'n') => {
                    value.push(b'\n');
                    escaped = false;
                }
                (true, byte) => {
                    value.push(*byte);
                    escaped = false;
                }
            }
        }
        Some(value.into())
    }

    /// A value as text; what is not UTF-8 is replaced.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        self.value(key)
            .map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    /// A value as a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        std::str::from_utf8(self.written(key)?).ok()?.parse().ok()
    }
}

/// What is written, without the empty lines that frames and records are filled up with.
pub(crate) fn without_filling(mut lines: &[u8]) -> &[u8] {
    // There may be hundreds of them.
    while let Some(rest) = lines.strip_suffix(&[b'\n'; 64]) {
        lines = rest;
    }
    while let Some(rest) = lines.strip_suffix(b"\n") {
        lines = rest;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filling_of_any_length_is_passed_over_and_nothing_else() {
        for written in ["", "a=1", "a=1\n\nb=2"] {
            for length in [0, 1, 63, 64, 65, 128, 1000] {
                let filled = format!("{written}{}", "\n".repeat(length));
                assert_eq!(without_filling(filled.as_bytes()), written.as_bytes());
            }
        }
    }

    #[test]
    fn any_bytes_come_back() {
        let value: Vec<u8> = (0..=255).collect();
        let bytes = Writer::default()
            .field("a", "1")
            .field("b", &value)
            .number("c", 7)
            .into_bytes();
        let reader = Reader::new(&bytes);
        assert_eq!(reader.text("a").as_deref(), Some("1"));
        assert_eq!(reader.bytes("b"), Some(value));
        assert_eq!(reader.number::<u32>("c"), Some(7));
        assert_eq!(reader.bytes("d"), None);
    }
}
