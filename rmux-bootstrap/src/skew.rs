//! Two builds of one program, and which of them gives way.
//!
//! Builds are totally ordered, and only a newer one ever asks an older one to leave. So no two clients can replace each
//! other's daemons for ever.

use std::cell::OnceCell;
use std::cmp::Ordering;

use crate::join::frame::shortened;
use crate::role::SkewPolicy;

/// The most that is kept of a version, in bytes.
const VERSION_MAX: usize = 128;

/// What a client makes of a daemon's build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wish {
    /// Replace an older daemon; refuse a newer one.
    Replace,
    /// The same for a call that may not start a daemon: an older one has to do.
    Keep,
    /// Take any.
    Join,
    /// Take this very build only.
    Fail,
}

const WISHES: [(Wish, &str); 4] = [
    (Wish::Replace, "replace"),
    (Wish::Keep, "keep"),
    (Wish::Join, "join"),
    (Wish::Fail, "fail"),
];

impl Wish {
    pub(crate) fn new(policy: SkewPolicy, may_start: bool) -> Self {
        match policy {
            SkewPolicy::Replace if may_start => Self::Replace,
            SkewPolicy::Replace => Self::Keep,
            SkewPolicy::Join => Self::Join,
            SkewPolicy::Fail => Self::Fail,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        WISHES
            .iter()
            .find(|(wish, _)| *wish == self)
            .map_or("join", |(_, name)| name)
    }

    /// What is not known is no wish.
    pub(crate) fn named(name: &str) -> Self {
        WISHES
            .iter()
            .find(|(_, known)| *known == name)
            .map_or(Self::Join, |(wish, _)| *wish)
    }

    /// What `ours` makes of a daemon of the build `theirs`.
    pub(crate) fn judge(self, ours: &Build, theirs: &Build) -> Fit {
        match (self, ours.compare(theirs)) {
            (Self::Join, _) | (_, Skew::None) => Fit::Use,
            (Self::Fail, _) | (_, Skew::NewerVersion) => Fit::Refuse,
            (Self::Replace, Skew::OlderVersion | Skew::OlderBuild) => Fit::Replace,
            (Self::Keep, Skew::OlderVersion | Skew::OlderBuild) | (_, Skew::NewerBuild) => Fit::Use,
        }
    }
}

/// What is to be done with a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    Use,
    Replace,
    Refuse,
}

/// The build of this very program, looked up when it is asked for, and not where nobody is to be told.
#[derive(Debug)]
pub(crate) struct OwnBuild<'a> {
    version: &'a str,
    known: OnceCell<Build>,
}

impl<'a> OwnBuild<'a> {
    pub(crate) fn new(version: &'a str) -> Self {
        Self {
            version,
            known: OnceCell::new(),
        }
    }

    pub(crate) fn get(&self) -> &Build {
        self.known.get_or_init(|| Build::own(self.version))
    }
}

/// A build of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Build {
    pub(crate) version: String,
    /// What [`build::id`](crate::build::id) says.
    pub(crate) id: String,
}

/// How a daemon's build differs from ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skew {
    None,
    OlderVersion,
    NewerVersion,
    OlderBuild,
    NewerBuild,
}

impl Build {
    /// This very program.
    pub(crate) fn own(version: &str) -> Self {
        Self {
            // Once and for all, so that it is the same text wherever it is sent and compared.
            version: shortened(version, VERSION_MAX).to_owned(),
            id: crate::build::id().to_owned(),
        }
    }

    fn compare(&self, theirs: &Self) -> Skew {
        // Mostly they are one and the same, which is not worth taking them apart for.
        if self == theirs {
            return Skew::None;
        }
        match compare_versions(&theirs.version, &self.version) {
            Ordering::Less => return Skew::OlderVersion,
            Ordering::Greater => return Skew::NewerVersion,
            Ordering::Equal => {}
        }
        if self.id.is_empty() || theirs.id.is_empty() {
            // Nothing is known about one of the two.
            return Skew::None;
        }
        match natural_order(&theirs.id, &self.id) {
            Ordering::Less => Skew::OlderBuild,
            Ordering::Greater => Skew::NewerBuild,
            Ordering::Equal => Skew::None,
        }
    }

    /// For an error text: the version, and the build where that is what differs.
    pub(crate) fn told_beside(&self, other: &Self) -> String {
        let version = if self.version.is_empty() {
            "unknown"
        } else {
            &self.version
        };
        if self.version == other.version {
            format!("{version} (build {})", self.id)
        } else {
            version.to_owned()
        }
    }
}

/// The order of Semantic Versioning: numbers by value, a pre-release before its release, what follows a `+` not at all.
/// Any other text has a place in it too, for the order must be total.
fn compare_versions(one: &str, other: &str) -> Ordering {
    fn parts(version: &str) -> (&str, Option<&str>) {
        let version = version.split('+').next().unwrap_or_default();
        match version.split_once('-') {
            Some((core, pre)) => (core, Some(pre)),
            None => (version, None),
        }
    }
    let ((core, pre), (other_core, other_pre)) = (parts(one), parts(other));
    natural_order(core, other_core).then_with(|| match (pre, other_pre) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(pre), Some(other_pre)) => natural_order(pre, other_pre),
    })
}

/// Field by field at `.` and `-`: numbers by value and before words, a shorter text before a longer one.
fn natural_order(one: &str, other: &str) -> Ordering {
    let key = |text: &str| -> Vec<(bool, usize, String)> {
        text.split(['.', '-'])
            .map(|field| {
                // Nothing at all counts as zero.
                let is_word = !field.bytes().all(|byte| byte.is_ascii_digit());
                // Numbers of any length: without leading zeros, a longer one is greater.
                let digits = field.trim_start_matches('0');
                let length = if is_word { 0 } else { digits.len() };
                let text = if is_word { field } else { digits };
                (is_word, length, text.to_owned())
            })
            .collect()
    };
    key(one).cmp(&key(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_semver_says() {
        let ascending = [
            "",
            "0.9.10",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.2.0",
            "1.10.0",
            "10.0.0",
        ];
        for (place, one) in ascending.iter().enumerate() {
            for (other_place, other) in ascending.iter().enumerate() {
                assert_eq!(
                    compare_versions(one, other),
                    place.cmp(&other_place),
                    "{one} and {other}"
                );
            }
        }
        assert_eq!(compare_versions("1.0.0+a", "1.0.0+b"), Ordering::Equal);
        assert_eq!(compare_versions("", ""), Ordering::Equal);
        assert_ne!(compare_versions("", "1.0.0"), compare_versions("1.0.0", ""));
    }

    fn build(version: &str, id: &str) -> Build {
        Build {
            version: version.into(),
            id: id.into(),
        }
    }

    #[test]
    fn only_a_newer_build_replaces_and_never_both_ways() {
        let builds = [
            build("1.0.0", "100.5-7"),
            build("1.0.0", "99.5-7"),
            build("1.0.0", "100.10-7"),
            build("0.9.0", "200.0-7"),
            build("1.1.0", "50.0-7"),
            build("", "1.0-1"),
            build("strange", ""),
        ];
        for ours in &builds {
            for theirs in &builds {
                let there = Wish::Replace.judge(ours, theirs);
                let back = Wish::Replace.judge(theirs, ours);
                assert!(
                    there != Fit::Replace || back != Fit::Replace,
                    "{ours:?} and {theirs:?} replace each other"
                );
            }
            assert_eq!(Wish::Fail.judge(ours, ours), Fit::Use);
        }
        let [now, older, newer, old_version, new_version, ..] = &builds;
        for (wish, daemon, fit) in [
            (Wish::Replace, older, Fit::Replace),
            (Wish::Replace, newer, Fit::Use),
            (Wish::Replace, old_version, Fit::Replace),
            (Wish::Replace, new_version, Fit::Refuse),
            (Wish::Keep, old_version, Fit::Use),
            (Wish::Keep, new_version, Fit::Refuse),
            (Wish::Join, new_version, Fit::Use),
            (Wish::Fail, older, Fit::Refuse),
            (Wish::Fail, newer, Fit::Refuse),
        ] {
            assert_eq!(wish.judge(now, daemon), fit, "{wish:?} {daemon:?}");
        }
    }
}
