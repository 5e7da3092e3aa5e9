//! Where the time of a call went: a small waterfall on stderr (`RMUX_BOOTSTRAP_TRACE=1`), the same as events for
//! `tracing` (feature `tracing`).

use std::fmt::Write;
use std::path::Path;

use crate::join::record::Tombstone;
use crate::log::say;
use crate::sys::process::boot_us;

const VARIABLE: &str = "RMUX_BOOTSTRAP_TRACE";
/// The step at whose beginning a daemon of this call's own is not there yet.
const SPAWN: &str = "spawn";
/// Columns of the waterfall.
const WIDTH: u64 = 40;

/// The steps of one call. Nothing is kept where nobody looks.
#[derive(Debug)]
pub(crate) struct Trace {
    is_printed: bool,
    began: u64,
    /// What began when, in microseconds of this boot.
    steps: Vec<(&'static str, u64)>,
}

impl Trace {
    pub(crate) fn new() -> Self {
        let is_printed = std::env::var_os(VARIABLE).is_some_and(|value| value == "1");
        let is_kept = is_printed || cfg!(feature = "tracing");
        Self {
            is_printed,
            began: if is_kept { boot_us() } else { 0 },
            steps: Vec::new(),
        }
    }

    /// From now on the call is at this step.
    pub(crate) fn step(&mut self, name: &'static str) {
        if self.began != 0 && self.steps.last().is_none_or(|(last, _)| *last != name) {
            self.steps.push((name, boot_us()));
        }
    }

    /// What the daemon itself says about the end of the wait: when it had taken over, and when it accepted first.
    pub(crate) fn daemon_said(&mut self, adopted: u64, accepting: u64) {
        let spawned = self.steps.iter().rfind(|(name, _)| *name == SPAWN);
        let since = spawned
            .or(self.steps.last())
            .map_or(self.began, |(_, begun)| *begun);
        let waits = self.steps.last_mut().filter(|(name, _)| *name != SPAWN);
        if let Some((name, begun)) = waits.filter(|_| adopted >= since) {
            // Until then it was the load that was waited for. A daemon that is our own may have been faster than we came to
            // wait for it.
            *name = "adopt";
            *begun = adopted.min(*begun);
        }
        for (name, begins) in [("init", adopted), ("ready", accepting)] {
            // One that was there before this call says nothing about it.
            if self.began != 0 && begins >= since {
                self.steps.push((name, begins));
            }
        }
    }

    /// The call is over.
    pub(crate) fn finish(&mut self, socket: &Path, outcome: &str, last: Option<&Tombstone>) {
        if self.began == 0 {
            return;
        }
        let ends = boot_us();
        let steps = in_order(std::mem::take(&mut self.steps));
        let lasting: Vec<(&str, u64, u64)> = steps
            .iter()
            .enumerate()
            .map(|(place, (name, begins))| {
                let until = steps.get(place + 1).map_or(ends, |(_, next)| *next);
                (*name, begins - self.began, until.saturating_sub(*begins))
            })
            .collect();
        let total = ends - self.began;
        tell(socket, outcome, total, &lasting);
        if self.is_printed {
            say(waterfall(socket, outcome, total, &lasting, last).trim_end());
        }
    }
}

/// By the time at which they began. They are few and mostly in order, for which a sort would be a lot of code.
fn in_order(steps: Vec<(&'static str, u64)>) -> Vec<(&'static str, u64)> {
    let mut ordered: Vec<(&'static str, u64)> = Vec::with_capacity(steps.len());
    for step in steps {
        let place = ordered.partition_point(|(_, begins)| *begins <= step.1);
        ordered.insert(place, step);
    }
    ordered
}

#[cfg(feature = "tracing")]
fn tell(socket: &Path, outcome: &str, total: u64, steps: &[(&str, u64, u64)]) {
    let socket = socket.display();
    for (step, after_us, took_us) in steps {
        tracing::debug!(%socket, step, after_us, took_us, "start-up step");
    }
    tracing::debug!(%socket, outcome, took_us = total, "start-up call");
}

#[cfg(not(feature = "tracing"))]
fn tell(_: &Path, _: &str, _: u64, _: &[(&str, u64, u64)]) {}

fn waterfall(
    socket: &Path,
    outcome: &str,
    total: u64,
    steps: &[(&str, u64, u64)],
    last: Option<&Tombstone>,
) -> String {
    let mut text = format!(
        "rmux-bootstrap: {} {outcome} after {}\n",
        socket.display(),
        milliseconds(total)
    );
    for (name, after, took) in steps {
        let column = |time: u64| usize::try_from(time * WIDTH / total.max(1)).unwrap_or(0);
        let (begin, end) = (column(*after), column(after + took));
        let bar = "#".repeat((end - begin).max(1));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {name:<8} {:>10} {:>10}  {:begin$}{bar}",
            milliseconds(*after),
            milliseconds(*took),
            ""
        );
    }
    if let Some(last) = last {
        let _ = writeln!(
            text,
            "  the daemon before: {}, pid {}",
            last.reason, last.pid
        );
    }
    text
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:03} ms", microseconds / 1000, microseconds % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_follow_each_other_down_the_page() {
        let text = waterfall(
            Path::new("/x.sock"),
            "started",
            4000,
            &[("probe", 0, 1000), ("spawn", 1000, 3000)],
            None,
        );
        let expected = "rmux-bootstrap: /x.sock started after 4.000 ms\n  \
             probe      0.000 ms   1.000 ms  ##########\n  \
             spawn      1.000 ms   3.000 ms            ##############################\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_daemon_that_was_faster_than_its_starter_is_traced_like_any_other() {
        for (adopted, accepting) in [(30, 40), (15, 40), (12, 15)] {
            let mut trace = Trace {
                is_printed: false,
                began: 1,
                steps: vec![("prepare", 5), ("spawn", 10), ("wait", 20)],
            };
            trace.daemon_said(adopted, accepting);
            let names: Vec<_> = in_order(trace.steps)
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            assert_eq!(names, ["prepare", "spawn", "adopt", "init", "ready"]);
        }
    }

    #[test]
    fn a_daemon_that_was_there_before_has_no_steps_in_a_call() {
        let mut trace = Trace {
            is_printed: false,
            began: 100,
            steps: vec![("probe", 100), ("wait", 110)],
        };
        trace.daemon_said(30, 40);
        assert_eq!(trace.steps, [("probe", 100), ("wait", 110)]);
    }

    /// Keeps the names of the events, as any subscriber might.
    #[cfg(feature = "tracing")]
    #[derive(Clone, Default)]
    struct Collector(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

    #[cfg(feature = "tracing")]
    impl tracing::Subscriber for Collector {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.target().starts_with("rmux_bootstrap")
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            struct Text<'a>(&'a mut String);
            impl tracing::field::Visit for Text<'_> {
                fn record_debug(
                    &mut self,
                    field: &tracing::field::Field,
                    value: &dyn std::fmt::Debug,
                ) {
                    if ["step", "outcome"].contains(&field.name()) {
                        let _ = write!(self.0, "{value:?}");
                    }
                }
            }
            let mut text = String::new();
            event.record(&mut Text(&mut text));
            self.0.lock().unwrap().push(text);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[cfg(feature = "tracing")]
    #[test]
    fn every_step_and_the_end_are_events() {
        let collector = Collector::default();
        let told = collector.0.clone();
        tracing::subscriber::with_default(collector, || {
            let mut trace = Trace::new();
            trace.step("probe");
            trace.step("lock");
            trace.finish(Path::new("/x.sock"), "started", None);
        });
        let told = told.lock().unwrap();
        assert_eq!(*told, ["\"probe\"", "\"lock\"", "\"started\""]);
    }
}
