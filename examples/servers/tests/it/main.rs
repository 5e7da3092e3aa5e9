//! The examples on the servers of others, as processes; each test has a daemon of its own.

mod frames;
mod grpc;
mod http;
mod rpc;
#[allow(dead_code, reason = "the tests above `servers` use what these do not")]
#[path = "../../../tests/it/stage.rs"]
mod stage;
