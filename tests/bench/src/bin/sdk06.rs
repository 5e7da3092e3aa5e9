//! `rmux-sdk` 0.6.1: its `connect_or_start` with a launcher that spawns this program as the daemon.

use rmux_sdk_06::bootstrap::startup_unix::connect_or_start;

include!("../sdk.rs");
