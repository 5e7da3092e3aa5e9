//! Guides: how to get there, and how it works.
//!
#![doc = include_str!("../docs/first_run.svg")]
//!
//! | if you want to | read |
//! | --- | --- |
//! | have a self-starting daemon of your own | [From `main` to daemon in ten minutes](first_daemon) |
//! | give a daemon that you have to its users | [Annotating an existing daemon](existing_daemon) |
//! | look a key up | [The attribute, key by key](attribute) |
//! | ship a new version | [Upgrades](upgrades) |
//! | test it | [Testing your tool](testing) |
//! | run it as a service | [Under systemd](systemd) |
//! | know whom it trusts | [The security model](security) |
//! | know how it works | [What happens at each start](start) |
//! | come from rmux-sdk | [From rmux-sdk](from_rmux_sdk) |
//! | choose | [What else there is](neighbours) |

#[doc = include_str!("../docs/first_daemon.md")]
pub mod first_daemon {}

#[doc = include_str!("../docs/existing_daemon.md")]
pub mod existing_daemon {}

#[doc = include_str!("../docs/attribute.md")]
pub mod attribute {}

#[doc = include_str!("../docs/upgrades.md")]
pub mod upgrades {}

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/systemd.md")]
pub mod systemd {}

#[doc = include_str!("../docs/security.md")]
pub mod security {}

#[doc = include_str!("../docs/start.md")]
pub mod start {}

#[doc = include_str!("../docs/from_rmux_sdk.md")]
pub mod from_rmux_sdk {}

#[doc = include_str!("../docs/neighbours.md")]
pub mod neighbours {}
