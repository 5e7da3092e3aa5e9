//! The attribute of [`rmux-bootstrap`]. Use it from there: `rmux_bootstrap::rmux_daemon`.
//!
//! [`rmux-bootstrap`]: https://docs.rs/rmux-bootstrap
//!
//! `args` reads what stands in the attribute, `item` what it stands on, `expand` puts the two together. All three
//! collect their errors in one list, so that every mistake is reported at once and none twice.

mod args;
mod expand;
mod item;
#[cfg(test)]
mod tests;

/// Turns a binary's `main` into "join the running daemon, or start it".
///
/// ```ignore
/// #[rmux_daemon(socket = "counter", deadline = "5s")]
/// async fn main(role: Role) -> io::Result<()> {
///     match role {
///         Role::Server(listener) => serve(listener).await,
///         Role::Client(client) => ask(client).await,
///     }
/// }
/// ```
///
/// is the same as, by hand,
///
/// ```ignore
/// fn main() -> io::Result<()> {
///     async fn main(role: Role) -> io::Result<()> { /* the body, untouched */ }
///     Daemon::new("counter").deadline(Duration::from_secs(5)).version(env!("CARGO_PKG_VERSION")).run_async(main)
/// }
/// ```
///
/// | key | value | default |
/// | --- | --- | --- |
/// | `socket` | a name, an absolute path, or an expression that is `Into<Endpoint>` | the binary's name |
/// | `deadline` | `"5s"`, `"250ms"`, or a `Duration`: the whole budget of one `connect_or_start` | 20 s |
/// | `client` | the path of a `fn(Client)`; `main` then takes a `Listener` and is the server only | |
/// | `idle_timeout` | as `deadline`: the daemon leaves after that long without work | never |
/// | `grace` | as `deadline`: how long a closing daemon lets open connections finish | 2 s |
/// | `on_skew` | `"replace"`, `"join"`, `"fail"` or a `SkewPolicy`: what to do about a daemon of another build | `replace` |
/// | `version` | a string | `env!("CARGO_PKG_VERSION")` |
/// | `crate` | where `rmux_bootstrap` is, if renamed or re-exported | `::rmux_bootstrap` |
///
/// Durations are a whole number and one of `ms`, `s`, `m`, `h`. `main` may be `async` or not. The attribute starts
/// the runtime itself: no `#[tokio::main]` beside it.
#[proc_macro_attribute]
pub fn rmux_daemon(
    args: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    expand::expand(args.into(), item.into()).into()
}
