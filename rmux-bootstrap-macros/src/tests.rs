//! Tokens in, tokens out. What the compiler makes of them is in the workspace's `tests/ui`.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::quote;

use crate::expand::expand;

fn main_fn() -> TokenStream {
    quote!(
        async fn main(role: Role) -> R {
            body
        }
    )
}

/// The texts of all `compile_error!` in an expansion, and what stands beside them.
fn errors_and_rest(tokens: TokenStream) -> (Vec<String>, String) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let (mut errors, mut rest) = (Vec::new(), TokenStream::new());
    let mut at = 0;
    while let Some(tree) = trees.get(at) {
        // `::core::compile_error!{ "text" }` is eight trees.
        let is_error = trees
            .get(at + 5)
            .is_some_and(|tree| tree.to_string() == "compile_error");
        match trees.get(at + 7) {
            Some(TokenTree::Group(group)) if is_error => {
                assert_eq!(group.delimiter(), Delimiter::Brace);
                let literal: syn::LitStr = syn::parse2(group.stream()).expect("a literal");
                errors.push(literal.value());
                at += 8;
            }
            _ => {
                rest.extend([tree.clone()]);
                at += 1;
            }
        }
    }
    (errors, rest.to_string())
}

#[track_caller]
fn errors(args: TokenStream, item: TokenStream) -> Vec<String> {
    errors_and_rest(expand(args, item)).0
}

#[track_caller]
fn complains(args: TokenStream, expected: &str) {
    assert_eq!(errors(args, main_fn()), [expected]);
}

#[track_caller]
fn complains_about(item: TokenStream, expected: &str) {
    assert_eq!(errors(TokenStream::new(), item), [expected]);
}

#[track_caller]
fn contains(args: TokenStream, expected: &TokenStream) {
    let expansion = expand(args, main_fn()).to_string();
    let expected = expected.to_string();
    assert!(
        expansion.contains(&expected),
        "{expected}\nis not in\n{expansion}"
    );
}

#[test]
fn the_expansion_is_one_call_chain() {
    let expansion = expand(
        quote!(socket = "counter", deadline = "5s", on_skew = "join"),
        quote! {
            /// Counts.
            #[instrument]
            pub async fn main(role: Role) -> Result<(), Error> where (): Sized { any tokens at all }
        },
    );
    let expected = quote! {
        #[doc = r" Counts."]
        pub fn main() -> Result<(), Error> {
            #[instrument]
            async fn main(role: Role) -> Result<(), Error> where (): Sized { any tokens at all }

            ::rmux_bootstrap::Daemon::new("counter")
                .deadline(::core::time::Duration::from_secs(5))
                .on_skew(::rmux_bootstrap::SkewPolicy::Join)
                .version(::core::env!("CARGO_PKG_VERSION"))
                .run_async(main)
        }
    };
    assert_eq!(expansion.to_string(), expected.to_string());
}

#[test]
fn without_arguments_the_socket_is_named_after_the_binary() {
    let expected = quote! {
        fn main() -> R {
            async fn main(role: Role) -> R { body }

            ::rmux_bootstrap::Daemon::new(::core::env!("CARGO_BIN_NAME"))
                .version(::core::env!("CARGO_PKG_VERSION"))
                .run_async(main)
        }
    };
    let expansion = expand(TokenStream::new(), main_fn());
    assert_eq!(expansion.to_string(), expected.to_string());
}

#[test]
fn async_and_client_choose_the_method() {
    let sync = quote!(
        fn main(role: Role) {}
    );
    let run = |args, item| expand(args, item).to_string();
    assert!(run(quote!(), sync.clone()).contains(". run (main)"));
    assert!(run(quote!(client = ask), sync).contains(". run_split (main , ask)"));
    assert!(
        run(quote!(client = a::ask), main_fn()).contains(". run_split_async (main , a :: ask)")
    );
}

#[test]
fn durations_become_paths_or_stay_what_they_are() {
    contains(
        quote!(grace = "250 ms"),
        &quote!(.grace(::core::time::Duration::from_millis(250))),
    );
    contains(
        quote!(idle_timeout = "2m"),
        &quote!(.idle_timeout(::core::time::Duration::from_secs(120))),
    );
    contains(
        quote!(deadline = "1h"),
        &quote!(.deadline(::core::time::Duration::from_secs(3600))),
    );
    contains(
        quote!(deadline = Duration::MAX, socket = f::<A, B>(1),),
        &quote!(::new(f::<A, B>(1)).deadline(Duration::MAX)),
    );
}

#[test]
fn a_renamed_crate_is_used_everywhere() {
    contains(
        quote!(on_skew = "fail", crate = crate::kit, version = VERSION),
        &quote! {
            crate::kit::Daemon::new(::core::env!("CARGO_BIN_NAME"))
                .on_skew(crate::kit::SkewPolicy::Fail)
                .version(VERSION)
                .run_async(main)
        },
    );
}

#[test]
fn only_attributes_about_the_item_stay_outside() {
    let expansion = expand(
        quote!(),
        quote! {
            #[cfg(unix)]
            #[inline]
            #[expect(dead_code)]
            fn main(role: Role) {}
        },
    );
    let expected =
        "# [cfg (unix)] # [expect (dead_code)] fn main () { # [inline] fn main (role : Role) { }";
    assert!(expansion.to_string().starts_with(expected), "{expansion}");
}

#[test]
fn unknown_arguments_are_named_with_the_likely_one() {
    complains(
        quote!(sockte = "a"),
        "unknown argument `sockte`; did you mean `socket`?",
    );
    complains(
        quote!(sockte),
        "unknown argument `sockte`; did you mean `socket`?",
    );
    complains(
        quote!(color = "red"),
        "unknown argument `color`; expected one of `socket`, `deadline`, `client`, `idle_timeout`, `grace`, \
         `on_skew`, `version`, `crate`",
    );
}

#[test]
fn arguments_need_a_key_a_value_and_a_comma() {
    complains(quote!(socket), "`socket` needs a value: `socket = …`");
    complains(quote!(socket = ), "`socket` needs a value: `socket = …`");
    complains(
        quote!(socket("a"), grace = "1s"),
        "`socket` needs a value: `socket = …`",
    );
    complains(
        quote!(socket = , grace = "1s"),
        "`socket` needs a value: `socket = …`",
    );
    complains(
        quote!(socket = "a", grace = "1s", socket = "b"),
        "`socket` is set twice",
    );
    complains(quote!(socket = "a" grace = "1s"), "expected `,`");
    complains(
        quote!("counter"),
        "an argument is `key = value`; did you mean `socket = \"counter\"`?",
    );
}

#[test]
fn values_beyond_an_expression_get_an_advice_of_our_own() {
    let long = |key: &str| {
        format!(
            "`{key}` takes a literal, a path or a call; put anything longer in a constant or a function"
        )
    };
    complains(quote!(socket = |a, b| a, grace = "1s"), &long("socket"));
    complains(quote!(deadline = if a { b } else { c }), &long("deadline"));
    complains(quote!(deadline = Duration::), &long("deadline"));
    complains(quote!(version = a?), &long("version"));
    complains(quote!(version = { a }), &long("version"));
    complains(quote!(grace = seconds(|| 1)), &long("grace"));
    complains(
        quote!(client = "ask"),
        "`client` takes the path of a function: `client = ask`",
    );
    complains(
        quote!(crate = "kit"),
        "`crate` takes a path: `crate = ::renamed`",
    );
}

#[test]
fn durations_need_a_number_and_a_unit() {
    let needs_unit = "a deadline needs a unit: write `\"5s\"` or `\"250ms\"`";
    complains(quote!(deadline = 5), needs_unit);
    complains(quote!(deadline = 5.5), needs_unit);
    complains(quote!(deadline = "5"), needs_unit);
    complains(
        quote!(deadline = "5 parsecs"),
        "unknown unit `parsecs`; expected `ms`, `s`, `m` or `h`",
    );
    let whole = "a grace period is a whole number and a unit: write `\"5s\"` or `\"250ms\"`";
    complains(quote!(grace = ""), whole);
    complains(quote!(grace = "1.5s"), whole);
    complains(quote!(grace = "-1s"), whole);
    complains(
        quote!(deadline = "99999999999999999999s"),
        "`99999999999999999999s` is too long; `Duration::MAX` means no end at all",
    );
}

#[test]
fn a_literal_socket_has_the_limits_of_a_file_name() {
    complains(quote!(socket = ""), "the socket's name is empty");
    complains(quote!(socket = "a\0b"), "a socket's name has no NUL in it");
    complains(
        quote!(socket = "a/b"),
        "a socket's name has no `/` in it; a path starts with one",
    );
    complains(
        quote!(socket = ".."),
        "`..` is a directory, not a name for a socket",
    );
    complains(
        quote!(socket = "/run/"),
        "this path has no file name at its end",
    );
    complains(
        quote!(socket = "/a/.."),
        "this path has no file name at its end",
    );
    let name = "n".repeat(49);
    complains(
        quote!(socket = #name),
        "a socket's name has at most 48 bytes, this one has 49",
    );
    let (name, path) = ("n".repeat(48), format!("/run/{}", "n".repeat(60)));
    contains(quote!(socket = #name), &quote!(::new(#name)));
    contains(quote!(socket = #path), &quote!(::new(#path)));
}

#[test]
fn a_policy_is_one_of_three() {
    complains(
        quote!(on_skew = "repalce"),
        "unknown policy `repalce`; did you mean `replace`?",
    );
    complains(
        quote!(on_skew = "explode"),
        "unknown policy `explode`; expected one of `replace`, `join`, `fail`",
    );
    contains(quote!(on_skew = POLICY), &quote!(.on_skew(POLICY)));
}

#[test]
fn another_starter_is_reported_and_dropped() {
    let item = quote! {
        #[tokio::main(flavor = "current_thread")]
        async fn main(role: Role) {}
    };
    let (errors, rest) = errors_and_rest(expand(quote!(), item));
    let expected = "`#[rmux_daemon]` starts the runtime itself; remove this attribute";
    assert_eq!(errors, [expected]);
    assert!(!rest.contains("tokio"), "{rest}");
    complains_about(
        quote!(
            #[rmux_bootstrap::rmux_daemon]
            fn main(role: Role) {}
        ),
        "`#[rmux_daemon]` stands on `main` twice; remove this one",
    );
}

#[test]
fn the_signature_is_that_of_a_main_with_one_argument() {
    let one = "`main` takes one argument: a `Role`, or with `client = …` a `Listener`";
    complains_about(
        quote!(
            fn main() {}
        ),
        one,
    );
    complains_about(
        quote!(
            fn main(role: Role, extra: u8) {}
        ),
        one,
    );
    complains_about(
        quote!(
            fn main<T>(role: T) {}
        ),
        "`main` cannot be generic",
    );
    complains_about(
        quote!(
            unsafe fn main(role: Role) {}
        ),
        "`main` cannot be `unsafe`",
    );
    complains_about(
        quote!(
            extern "C" fn main(role: Role) {}
        ),
        "`main` cannot have an ABI",
    );
    complains_about(
        quote!(
            fn main(&self) {}
        ),
        "`main` is a free function and has no `self`",
    );
    complains_about(
        quote!(
            fn main(role: Role);
        ),
        "expected the body of `main`",
    );
}

#[test]
fn commas_inside_the_argument_do_not_count() {
    let item = quote!(
        fn main(Pair(a, b): Pair<fn(A, B) -> C, D>) {}
    );
    assert_eq!(errors(quote!(), item), [""; 0]);
}

#[test]
fn anything_but_main_is_left_as_it_is() {
    let text = "`#[rmux_daemon]` goes on the binary's `main` function";
    for item in [
        quote!(
            fn serve(role: Role) {
                body
            }
        ),
        quote!(
            struct Main;
        ),
        quote!(),
    ] {
        let unchanged = item.to_string();
        let (errors, rest) = errors_and_rest(expand(quote!(), item));
        assert_eq!(errors, [text]);
        assert_eq!(rest, unchanged);
    }
}

#[test]
fn beside_an_error_there_is_still_a_main() {
    let (_, rest) = errors_and_rest(expand(quote!(color), main_fn()));
    let expected = quote! {
        fn main() {
            #[allow(dead_code)]
            async fn main(role: Role) -> R { body }
        }
    };
    assert_eq!(rest, expected.to_string());

    let (_, rest) = errors_and_rest(expand(
        quote!(),
        quote!(
            fn main(self) {
                body
            }
        ),
    ));
    assert_eq!(
        rest,
        quote!(
            fn main() {}
        )
        .to_string()
    );
}

#[test]
fn three_mistakes_are_three_errors() {
    let found = errors(
        quote!(sockte = "a", deadline = 5, on_skew = "repalce"),
        main_fn(),
    );
    assert_eq!(found.len(), 3, "{found:?}");
    let found = errors(
        quote!(socket, grace = |a, b| c),
        quote!(
            fn main() {}
        ),
    );
    assert_eq!(found.len(), 3, "{found:?}");
}
