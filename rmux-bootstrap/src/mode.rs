//! `RMUX_BOOTSTRAP_MODE`: how a program runs that usually starts a daemon.

use crate::error::StartupError;

pub(crate) const VARIABLE: &str = "RMUX_BOOTSTRAP_MODE";

/// How the program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A client that starts the daemon where there is none.
    #[default]
    Auto,
    /// This process is the daemon, and logs to its terminal.
    Foreground,
    /// Client and daemon in one process; no lock, no file, nothing left behind.
    InProcess,
    /// A client that never starts a daemon.
    ConnectOnly,
}

const MODES: [(Mode, &str); 4] = [
    (Mode::Auto, "auto"),
    (Mode::Foreground, "foreground"),
    (Mode::InProcess, "in-process"),
    (Mode::ConnectOnly, "connect-only"),
];

impl Mode {
    /// What the variable says; unset or empty is `auto`.
    pub(crate) fn from_environment() -> Result<Self, StartupError> {
        let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) else {
            return Ok(Self::Auto);
        };
        MODES
            .iter()
            .find(|(_, name)| value == *name)
            .map(|(mode, _)| *mode)
            .ok_or_else(|| StartupError::UnusableMode {
                mode: value.to_string_lossy().into_owned(),
                reason: "the modes are auto, foreground, in-process and connect-only".to_owned(),
            })
    }

    /// The mode for a client. How a *program* runs is none of the business of a client within it, but that it must not
    /// start anything.
    pub(crate) fn for_client() -> Result<Self, StartupError> {
        match Self::from_environment()? {
            Self::InProcess => Err(Self::InProcess.unusable(
                "this program does not hand its `main` to `Daemon::run` or its kin, so there is no daemon to run within it",
            )),
            mode => Ok(mode),
        }
    }

    pub(crate) fn unusable(self, reason: &str) -> StartupError {
        StartupError::UnusableMode {
            mode: self.name().to_owned(),
            reason: reason.to_owned(),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        MODES
            .iter()
            .find(|(mode, _)| *mode == self)
            .map_or("auto", |(_, name)| name)
    }

    /// For people.
    #[cfg(feature = "clap")]
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Auto => "auto, as if it were not",
            Self::Foreground => "foreground, so this program would be the daemon itself",
            Self::InProcess => "in-process, so no daemon is started or joined",
            Self::ConnectOnly => "connect-only, so no daemon is started",
        }
    }
}
