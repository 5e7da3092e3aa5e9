//! What the attribute stands on.
//!
//! The body is one token tree and never parsed: a half-typed one gets the compiler's own error and no second one
//! of ours, and completion keeps working in it.

use proc_macro2::{Delimiter, Group, Ident, Spacing, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Abi, Attribute, Error, Generics, Result, ReturnType, Token, Visibility, WhereClause};

/// Attributes that are about the item as a whole; all others go with the user's own function.
const OUTER: &[&str] = &[
    "cfg", "cfg_attr", "doc", "allow", "warn", "deny", "forbid", "expect",
];

const NOT_MAIN: &str = "`#[rmux_daemon]` goes on the binary's `main` function";

pub(crate) enum Item {
    /// A `main` that can be nested as it is, though its signature may have been reported.
    Main(Function),
    /// Clearly meant as `main`, but not a free function of that name.
    BrokenMain,
    /// Anything else.
    Other,
}

/// The parts of `main` that the expansion asks for.
pub(crate) struct Function {
    pub(crate) outer_attrs: Vec<Attribute>,
    pub(crate) inner_attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) is_async: bool,
    pub(crate) name: Ident,
    pub(crate) output: ReturnType,
    /// From `async` or `fn` to the end of the body, as the user wrote it.
    pub(crate) tokens: TokenStream,
}

impl Item {
    pub(crate) fn parse(item: TokenStream, errors: &mut Vec<Error>) -> Self {
        let mut fallback = Item::Other;
        let parser = |input: ParseStream| parse_function(input, &mut fallback, errors);
        match parser.parse2(item) {
            Ok(Some(function)) => Item::Main(function),
            Ok(None) => fallback,
            Err(error) => {
                errors.push(error);
                fallback
            }
        }
    }
}

/// `None` where an error already says why; `fallback` then tells how far it got.
fn parse_function(
    input: ParseStream,
    fallback: &mut Item,
    errors: &mut Vec<Error>,
) -> Result<Option<Function>> {
    let attrs = input.call(Attribute::parse_outer)?;
    let vis = input.parse()?;
    let tokens = input.fork().parse()?;

    input.parse::<Option<Token![const]>>()?;
    let is_async = input.parse::<Option<Token![async]>>()?.is_some();
    let unsafety = input.parse::<Option<Token![unsafe]>>()?;
    let abi = input.parse::<Option<Abi>>()?;
    if !input.peek(Token![fn]) {
        let rest: TokenStream = input.parse()?;
        // The item's first token is enough to point at.
        let first = rest.into_iter().next();
        return Err(Error::new_spanned(first, NOT_MAIN));
    }
    input.parse::<Token![fn]>()?;

    let name = input.call(Ident::parse_any)?;
    if name != "main" {
        input.parse::<TokenStream>()?;
        return Err(Error::new(name.span(), NOT_MAIN));
    }
    *fallback = Item::BrokenMain;

    if let Some(unsafety) = unsafety {
        errors.push(Error::new_spanned(unsafety, "`main` cannot be `unsafe`"));
    }
    if let Some(abi) = abi {
        errors.push(Error::new_spanned(abi, "`main` cannot have an ABI"));
    }
    let generics = input.parse::<Generics>()?;
    if generics.lt_token.is_some() {
        errors.push(Error::new_spanned(generics, "`main` cannot be generic"));
    }
    let has_receiver = check_arguments(&input.parse()?, errors);
    let output = input.parse()?;
    input.parse::<Option<WhereClause>>()?;
    let body = input.parse::<TokenTree>()?;
    if !is_body(&body) {
        return Err(Error::new(body.span(), "expected the body of `main`"));
    }
    if has_receiver {
        return Ok(None);
    }

    let (outer_attrs, inner_attrs) = attrs.into_iter().partition(is_outer);
    Ok(Some(Function {
        outer_attrs,
        inner_attrs: without_starters(inner_attrs, errors),
        vis,
        is_async,
        name,
        output,
        tokens,
    }))
}

/// Braces, or the invisible group that a `$body:block` of a declarative macro arrives in.
fn is_body(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Group(group)
        if matches!(group.delimiter(), Delimiter::Brace | Delimiter::None))
}

fn is_outer(attr: &Attribute) -> bool {
    OUTER.iter().any(|name| attr.path().is_ident(name))
}

/// Reports and drops attributes that would start something themselves, such as `#[tokio::main]`.
fn without_starters(attrs: Vec<Attribute>, errors: &mut Vec<Error>) -> Vec<Attribute> {
    let (starters, others): (Vec<_>, Vec<_>) = attrs.into_iter().partition(|attr| {
        let last = attr.path().segments.last();
        last.is_some_and(|segment| segment.ident == "main" || segment.ident == "rmux_daemon")
    });
    for attr in starters {
        let last = attr.path().segments.last();
        let text = if last.is_some_and(|segment| segment.ident == "main") {
            "`#[rmux_daemon]` starts the runtime itself; remove this attribute"
        } else {
            "`#[rmux_daemon]` stands on `main` twice; remove this one"
        };
        errors.push(Error::new_spanned(attr, text));
    }
    others
}

/// Exactly one argument, whatever its pattern and type. True if the first one is a `self`.
fn check_arguments(group: &Group, errors: &mut Vec<Error>) -> bool {
    let arguments = split_at_commas(group.stream());
    if let Some(receiver) = arguments.first().and_then(receiver) {
        let text = "`main` is a free function and has no `self`";
        errors.push(Error::new(receiver.span(), text));
        return true;
    }
    let text = "`main` takes one argument: a `Role`, or with `client = …` a `Listener`";
    match arguments.as_slice() {
        [_] => {}
        [] => errors.push(Error::new_spanned(group, text)),
        [_, second, ..] => errors.push(Error::new_spanned(second, text)),
    }
    false
}

/// The `self` before an argument's `:`.
fn receiver(argument: &TokenStream) -> Option<TokenTree> {
    argument
        .clone()
        .into_iter()
        .take_while(|tree| !matches!(tree, TokenTree::Punct(punct) if punct.as_char() == ':'))
        .find(|tree| matches!(tree, TokenTree::Ident(ident) if ident == "self"))
}

/// Splits at the commas outside of angle brackets; groups are single trees and hide theirs.
fn split_at_commas(tokens: TokenStream) -> Vec<TokenStream> {
    let mut arguments = Vec::new();
    let mut current = TokenStream::new();
    let mut depth = 0_usize;
    let mut after_joint_minus = false;
    for tree in tokens {
        let mut is_joint_minus = false;
        if let TokenTree::Punct(punct) = &tree {
            match punct.as_char() {
                '<' => depth += 1,
                // Not the `>` of `->`.
                '>' if !after_joint_minus => depth = depth.saturating_sub(1),
                '-' => is_joint_minus = punct.spacing() == Spacing::Joint,
                ',' if depth == 0 => {
                    arguments.push(std::mem::take(&mut current));
                    continue;
                }
                _ => {}
            }
        }
        after_joint_minus = is_joint_minus;
        tree.to_tokens(&mut current);
    }
    if !current.is_empty() {
        arguments.push(current);
    }
    arguments
}
