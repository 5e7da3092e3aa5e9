//! Joins within one process: prints nanoseconds, a line per turn, a column per way of joining.
//!
//! The ways take turns in batches, so that what else the machine does falls on all of them; every other turn goes the
//! other way round.

use std::future::Future;

use program::{Outcome, current_thread, file, now, round_trip};
use rmux_bootstrap::{Daemon, SkewPolicy};
use rmux_sdk_06::bootstrap::startup_unix as sdk06;
use rmux_sdk_10::bootstrap::startup_unix as sdk10;
use tokio::net::UnixStream;

const BATCH: usize = 50;

fn main() -> Outcome {
    let turns: usize = program::part().parse()?;
    current_thread()?.block_on(measure(turns))
}

async fn measure(turns: usize) -> Outcome {
    let bare = &file("bare.sock")?;
    // The daemon is another binary of the same version, which this one must not replace.
    let client = &Daemon::new("ours")
        .version("1.0.0")
        .on_skew(SkewPolicy::Join)
        .client();
    for turn in 0..=turns {
        let mut times = [const { Vec::new() }; 4];
        for step in 0..times.len() {
            let way = if turn % 2 == 0 {
                step
            } else {
                times.len() - 1 - step
            };
            times[way] = match way {
                0 => batch(async || Ok(client.connect_or_start().await?)).await?,
                1 => batch(async || answered(UnixStream::connect(bare).await?).await).await?,
                2 => {
                    batch(async || {
                        let outcome = sdk06::connect_or_start(bare, nobody).await?;
                        answered(outcome.into_stream()).await
                    })
                    .await?
                }
                _ => {
                    batch(async || {
                        let outcome = sdk10::connect_or_start(bare, nobody).await?;
                        answered(outcome.into_stream()).await
                    })
                    .await?
                }
            };
        }
        // The first turn warms up.
        for at in (0..BATCH).filter(|_| turn > 0) {
            let [ours, raw, sdk06, sdk10] = [0, 1, 2, 3].map(|way| times[way][at]);
            println!("{ours} {raw} {sdk06} {sdk10}");
        }
    }
    Ok(())
}

async fn batch<S, F: Future<Output = Outcome<S>>>(
    mut join: impl FnMut() -> F,
) -> Outcome<Vec<i64>> {
    let mut times = Vec::with_capacity(BATCH);
    for _ in 0..BATCH {
        let start = now();
        let connection = join().await?;
        times.push(now() - start);
        drop(connection);
    }
    Ok(times)
}

async fn answered(mut stream: UnixStream) -> Outcome<UnixStream> {
    round_trip(&mut stream).await?;
    Ok(stream)
}

async fn nobody() -> std::io::Result<()> {
    Err(std::io::Error::other("the daemon has gone"))
}
