//! How far a daemon has come, in the record and in what it says of itself.

/// How far a daemon has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Never written, or not readable.
    #[default]
    Unknown,
    Starting,
    Ready,
    Closing,
    Exited,
    /// Ended before it was ready.
    Failed,
}

const PHASES: [(Phase, &str); 5] = [
    (Phase::Starting, "starting"),
    (Phase::Ready, "ready"),
    (Phase::Closing, "closing"),
    (Phase::Exited, "exited"),
    (Phase::Failed, "failed"),
];

impl Phase {
    /// Whether the record's last word is that of a daemon, or its starter, that had not come to its end.
    pub(crate) const fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Ready | Self::Closing)
    }

    pub(crate) fn named(name: &str) -> Self {
        PHASES
            .iter()
            .find(|(_, known)| *known == name)
            .map_or(Self::Unknown, |(phase, _)| *phase)
    }

    pub(crate) fn name(self) -> &'static str {
        PHASES
            .iter()
            .find(|(phase, _)| *phase == self)
            .map_or("unknown", |(_, name)| name)
    }
}
