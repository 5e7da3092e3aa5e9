//! Puts the arguments and the function together: one call chain on the public builder, nothing else.

use proc_macro2::TokenStream;
use quote::quote;

use crate::args::{Args, Value};
use crate::item::{Function, Item};

/// What `#[rmux_daemon(args)] item` becomes.
pub(crate) fn expand(args: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Vec::new();
    let args = Args::parse(args, &mut errors);
    let unchanged = item.clone();
    let item = Item::parse(item, &mut errors);

    if errors.is_empty()
        && let Item::Main(function) = item
    {
        return call_chain(args, function);
    }
    let errors = errors.iter().map(syn::Error::to_compile_error);
    let fallback = fallback(item, unchanged);
    quote!(#(#errors)* #fallback)
}

fn call_chain(args: Args, function: Function) -> TokenStream {
    let Args {
        socket,
        client,
        settings,
        krate,
    } = args;
    let Function {
        outer_attrs,
        inner_attrs,
        vis,
        is_async,
        name,
        output,
        tokens,
    } = function;

    let krate = krate.unwrap_or_else(|| quote!(::rmux_bootstrap));
    let socket = socket.unwrap_or_else(|| quote!(::core::env!("CARGO_BIN_NAME")));
    let default_version = if settings.iter().any(|setting| setting.key == "version") {
        None
    } else {
        Some(quote!(.version(::core::env!("CARGO_PKG_VERSION"))))
    };
    let settings = settings.into_iter().map(|setting| {
        // The user's own ident: a value of a wrong type is then reported on the key and the value.
        let method = setting.key;
        match setting.value {
            Value::Tokens(tokens) => quote!(.#method(#tokens)),
            Value::Policy(variant) => quote!(.#method(#krate::SkewPolicy::#variant)),
        }
    });
    // The name as the user wrote it: an argument of a wrong type is then reported there.
    let run = match (&client, is_async) {
        (None, false) => quote!(run(#name)),
        (None, true) => quote!(run_async(#name)),
        (Some(client), false) => quote!(run_split(#name, #client)),
        (Some(client), true) => quote!(run_split_async(#name, #client)),
    };

    quote! {
        #(#outer_attrs)*
        #vis fn main() #output {
            #(#inner_attrs)*
            #tokens

            #krate::Daemon::new(#socket) #(#settings)* #default_version .#run
        }
    }
}

/// What stands in for the program beside the errors, so that nobody reports a missing `main` as well.
fn fallback(item: Item, unchanged: TokenStream) -> TokenStream {
    match item {
        // Nested and never called: the body keeps its own diagnostics and completion, and the imports their use.
        Item::Main(function) => {
            let Function {
                outer_attrs,
                inner_attrs,
                vis,
                tokens,
                ..
            } = function;
            quote! {
                #(#outer_attrs)*
                #vis fn main() {
                    #(#inner_attrs)*
                    #[allow(dead_code)]
                    #tokens
                }
            }
        }
        Item::BrokenMain => quote!(
            fn main() {}
        ),
        Item::Other => unchanged,
    }
}
