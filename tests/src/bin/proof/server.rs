//! The daemon: lines of its own, or HTTP through the servers of others.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use rmux_bootstrap::Listener;
use rmux_bootstrap_tests::http::Version;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tonic::service::Routes;

use crate::{Outcome, hammer};

/// Serves what `PROOF_SERVER` asks for.
pub(crate) async fn serve(listener: Listener) -> Outcome {
    hammer::note("starts")?;
    match version() {
        None => lines(listener).await,
        Some(Version::Http1) => {
            let serve =
                |listener, drained| axum::serve(listener, router()).with_graceful_shutdown(drained);
            listener.serve_with(serve).await.map_err(Into::into)
        }
        Some(Version::Http2) => {
            let serve = |listener, drained| {
                tonic::transport::Server::builder()
                    .add_routes(Routes::from(router()))
                    .serve_with_incoming_shutdown(listener, drained)
            };
            listener.serve_with(serve).await.map_err(Into::into)
        }
    }
}

/// `None`: lines.
pub(crate) fn version() -> Option<Version> {
    Version::of(&std::env::var("PROOF_SERVER").ok()?)
}

/// Answers each line with this daemon's pid.
async fn lines(mut listener: Listener) -> Outcome {
    while let Some(connection) = listener.accept().await? {
        tokio::spawn(async move {
            let mut connection = BufReader::new(connection);
            let mut line = String::new();
            while connection
                .read_line(&mut line)
                .await
                .is_ok_and(|length| length > 0)
            {
                let answer = format!("{}\n", std::process::id());
                if connection.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
                line.clear();
            }
        });
    }
    Ok(())
}

/// Answers with this daemon's pid, at once or after a while.
fn router() -> Router {
    let pid = || std::process::id().to_string();
    let sleep = move |Path(milliseconds): Path<u64>| async move {
        let noted = hammer::note("requests");
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        noted.map_or_else(|error| error.to_string(), |()| pid())
    };
    Router::new()
        .route("/", get(move || async move { pid() }))
        .route("/sleep/{milliseconds}", get(sleep))
}
