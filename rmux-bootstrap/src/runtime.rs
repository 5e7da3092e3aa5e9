//! The runtimes that a `main` runs on.

use std::io;

use tokio::runtime::{Builder, Runtime};

use crate::adopt::{EXIT_NO_RUNTIME, give_up};
use crate::sys::{descriptors, net};

/// The variable that says how many threads a runtime has; tokio reads it where it counts by itself.
const WORKERS_VARIABLE: &str = "TOKIO_WORKER_THREADS";

/// As tokio would build it, with a thread for each processor, but without counting those again.
pub(crate) fn multi_thread(processors: Option<usize>) -> Builder {
    let mut builder = Builder::new_multi_thread();
    if let Some(processors) = processors.filter(|_| std::env::var_os(WORKERS_VARIABLE).is_none()) {
        builder.worker_threads(processors.max(1));
    }
    builder
}

/// A runtime with all drivers.
pub(crate) fn built(mut builder: Builder) -> Runtime {
    match has_room().and_then(|()| builder.enable_all().build()) {
        Ok(runtime) => runtime,
        Err(error) => give_up(
            EXIT_NO_RUNTIME,
            format_args!("cannot build the runtime: {error}"),
        ),
    }
}

/// More descriptors than a runtime takes while it is built: what polls, what wakes, and what tells of signals.
const DESCRIPTORS: usize = 6;

/// A runtime that handles signals panics where there are no sockets for them; so that there is room is made sure of first:
/// this early in a process nobody else takes it. Whatever else is missing is an error of tokio's own.
fn has_room() -> io::Result<()> {
    if !handles_signals::IN_THIS_PROGRAM {
        return Ok(());
    }
    let (one, _other) = net::pair()?;
    descriptors::make_sure(DESCRIPTORS - 2, one)
}

mod handles_signals {
    //! Whether tokio's `signal` is part of this program, which any crate in it may have asked for.
    //!
    //! There is no way to ask for another crate's features. But a name means what the nearest scope says: `signal` is
    //! tokio's where tokio has one, else the module below.

    mod absent {
        pub(super) mod signal {
            pub(crate) mod unix {
                #[allow(dead_code, reason = "stands for one that is not there")]
                pub(crate) struct SignalKind;
            }
        }
    }

    #[allow(unused_imports, reason = "not where tokio has a `signal`")]
    use absent::signal;

    pub(super) const IN_THIS_PROGRAM: bool = {
        #[allow(
            unused_imports,
            clippy::wildcard_imports,
            reason = "the question is whether one of its names is there"
        )]
        use tokio::*;
        size_of::<signal::unix::SignalKind>() != 0
    };

    #[cfg(test)]
    mod tests {
        #[test]
        fn tokios_signals_are_noticed() {
            // This crate's tests ask for them; a program without them only saves what is made sure of here.
            const { assert!(super::IN_THIS_PROGRAM) };
        }
    }
}
