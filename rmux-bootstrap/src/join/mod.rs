//! Joining: the protocol between a client, a starter and a daemon.

pub(crate) mod door;
pub(crate) mod driver;
pub(crate) mod fields;
pub(crate) mod frame;
pub(crate) mod phase;
pub(crate) mod record;
pub(crate) mod room;
pub(crate) mod start;
pub(crate) mod step;
