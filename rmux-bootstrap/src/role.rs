//! What a program's `main` receives.

use crate::client::Client;
use crate::listener::Listener;

/// Which side of the program this process is.
#[derive(Debug)]
pub enum Role {
    /// The daemon: runs once, in the background, however often the binary is started.
    Server(Listener),
    /// Every start of the binary by a user.
    Client(Client),
}

/// What a client does when the running daemon is another build of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SkewPolicy {
    /// Ask an older daemon to leave and start this build; never the other way round.
    #[default]
    Replace,
    /// Use it all the same.
    Join,
    /// Say so in an error.
    Fail,
}
