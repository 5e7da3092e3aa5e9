//! What stands in the attribute's parentheses.
//!
//! The table of keys drives everything: parsing, duplicates, suggestions and the lists in messages.

use std::time::Duration;

use proc_macro2::{Ident, Literal, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser, discouraged::Speculative};
use syn::{Error, Expr, Lit, LitStr, Result, Token};

/// A key and what its value is.
#[derive(Clone, Copy)]
enum Kind {
    Socket,
    /// With the noun for messages.
    Duration(&'static str),
    Client,
    Policy,
    Version,
    Crate,
}

const KEYS: &[(&str, Kind)] = &[
    ("socket", Kind::Socket),
    ("deadline", Kind::Duration("a deadline")),
    ("client", Kind::Client),
    ("idle_timeout", Kind::Duration("an idle timeout")),
    ("grace", Kind::Duration("a grace period")),
    ("on_skew", Kind::Policy),
    ("version", Kind::Version),
    ("crate", Kind::Crate),
];

/// What the user writes, and the variant of `SkewPolicy`.
const POLICIES: &[(&str, &str)] = &[("replace", "Replace"), ("join", "Join"), ("fail", "Fail")];

/// A unit and its milliseconds.
const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// A named endpoint becomes a file name four times over, and part of a socket's short path.
const MAX_NAME: usize = 48;

/// The arguments, as far as they could be read.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) socket: Option<TokenStream>,
    pub(crate) client: Option<TokenStream>,
    /// Calls on the builder, in the user's order.
    pub(crate) settings: Vec<Setting>,
    pub(crate) krate: Option<TokenStream>,
}

/// One call on the builder: the key is the method.
pub(crate) struct Setting {
    pub(crate) key: Ident,
    pub(crate) value: Value,
}

pub(crate) enum Value {
    Tokens(TokenStream),
    /// A variant of `SkewPolicy`, whose path is known once `crate` is.
    Policy(Ident),
}

impl Args {
    pub(crate) fn parse(args: TokenStream, errors: &mut Vec<Error>) -> Self {
        let mut parsed = Args::default();
        let mut seen = Vec::new();
        let parser = |input: ParseStream| {
            while !input.is_empty() {
                if let Err(error) = parsed.parse_one(input, &mut seen) {
                    errors.push(error);
                }
                if input.is_empty() || input.parse::<Option<Token![,]>>()?.is_some() {
                    continue;
                }
                errors.push(Error::new(input.span(), "expected `,`"));
                skip_argument(input)?;
                input.parse::<Option<Token![,]>>()?;
            }
            Ok(())
        };
        if let Err(error) = parser.parse2(args) {
            errors.push(error);
        }
        parsed
    }

    /// Reads up to the next comma, whether or not there is an error to return.
    fn parse_one(&mut self, input: ParseStream, seen: &mut Vec<&'static str>) -> Result<()> {
        if !input.peek(syn::Ident::peek_any) {
            return Err(not_a_key(input)?);
        }
        let key = input.call(Ident::parse_any)?;
        let name = key.to_string();
        let known = KEYS.iter().find(|(known, _)| *known == name);
        let value = read_value(&key, input);
        let Some(&(known, kind)) = known else {
            return Err(Error::new(key.span(), unknown("argument", &name, KEYS)));
        };
        if seen.contains(&known) {
            let text = format!("`{known}` is set twice");
            return Err(Error::new(key.span(), text));
        }
        seen.push(known);
        self.set(key, kind, &value?)
    }

    fn set(&mut self, key: Ident, kind: Kind, value: &Expr) -> Result<()> {
        let value = match kind {
            Kind::Socket => {
                if let Some(literal) = as_str(value) {
                    check_socket(literal)?;
                }
                self.socket = Some(value.to_token_stream());
                return Ok(());
            }
            Kind::Client => {
                self.client = Some(path(
                    value,
                    "`client` takes the path of a function: `client = ask`",
                )?);
                return Ok(());
            }
            Kind::Crate => {
                self.krate = Some(path(value, "`crate` takes a path: `crate = ::renamed`")?);
                return Ok(());
            }
            Kind::Duration(noun) => Value::Tokens(duration(value, noun)?),
            Kind::Policy => policy(value)?,
            Kind::Version => Value::Tokens(value.to_token_stream()),
        };
        self.settings.push(Setting { key, value });
        Ok(())
    }
}

/// The value after `key =`. On an error the rest of this argument is skipped.
fn read_value(key: &Ident, input: ParseStream) -> Result<Expr> {
    let assigned = input.peek(Token![=]);
    if assigned {
        input.parse::<Token![=]>()?;
    }
    if !assigned || input.is_empty() || input.peek(Token![,]) {
        skip_argument(input)?;
        let text = format!("`{key}` needs a value: `{key} = …`");
        return Err(Error::new(key.span(), text));
    }
    let ahead = input.fork();
    if let Ok(value) = ahead.parse::<Expr>()
        && is_plain(&value)
        && (ahead.is_empty() || ahead.peek(Token![,]) || starts_argument(&ahead))
    {
        input.advance_to(&ahead);
        return Ok(value);
    }
    let span = input.span();
    skip_argument(input)?;
    let text = format!(
        "`{key}` takes a literal, a path or a call; put anything longer in a constant or a function"
    );
    Err(Error::new(span, text))
}

/// True for the expressions that syn knows without its feature `full`.
///
/// Another crate in the build may have turned that feature on. What we accept must not depend on it.
fn is_plain(value: &Expr) -> bool {
    match value {
        Expr::Lit(_) | Expr::Macro(_) | Expr::Path(_) => true,
        Expr::Binary(binary) => is_plain(&binary.left) && is_plain(&binary.right),
        Expr::Call(call) => is_plain(&call.func) && call.args.iter().all(is_plain),
        Expr::Cast(cast) => is_plain(&cast.expr),
        Expr::Field(field) => is_plain(&field.base),
        Expr::Group(group) => is_plain(&group.expr),
        Expr::Index(index) => is_plain(&index.expr) && is_plain(&index.index),
        Expr::MethodCall(call) => is_plain(&call.receiver) && call.args.iter().all(is_plain),
        Expr::Paren(paren) => is_plain(&paren.expr),
        Expr::Reference(reference) => is_plain(&reference.expr),
        Expr::Struct(literal) => literal.fields.iter().all(|field| is_plain(&field.expr)),
        Expr::Tuple(tuple) => tuple.elems.iter().all(is_plain),
        Expr::Unary(unary) => is_plain(&unary.expr),
        _ => false,
    }
}

/// The error for an argument that does not begin with a key.
fn not_a_key(input: ParseStream) -> Result<Error> {
    let span = input.span();
    let text = match input.fork().parse::<LitStr>() {
        Ok(literal) => format!(
            "an argument is `key = value`; did you mean `socket = {}`?",
            literal.to_token_stream()
        ),
        Err(_) => format!(
            "an argument is `key = value`; expected one of {}",
            list(KEYS)
        ),
    };
    skip_argument(input)?;
    Ok(Error::new(span, text))
}

/// True at `key =`, also where the comma before it is missing.
fn starts_argument(input: ParseStream) -> bool {
    input.peek(syn::Ident::peek_any) && input.peek2(Token![=]) && !input.peek2(Token![==])
}

fn at_known_key(input: ParseStream) -> bool {
    let key = input.fork().call(Ident::parse_any);
    key.is_ok_and(|key| KEYS.iter().any(|(known, _)| key == known))
}

/// Goes on to the next comma that an argument or the end follows: a closure's commas are not taken for ours.
fn skip_argument(input: ParseStream) -> Result<()> {
    while !input.is_empty() && !starts_argument(input) {
        if input.peek(Token![,]) {
            let ahead = input.fork();
            ahead.parse::<Token![,]>()?;
            if ahead.is_empty() || starts_argument(&ahead) || at_known_key(&ahead) {
                break;
            }
        }
        input.parse::<TokenTree>()?;
    }
    Ok(())
}

/// Looks through the invisible groups that a declarative macro's `$value:expr` arrives in.
fn ungrouped(mut value: &Expr) -> &Expr {
    while let Expr::Group(group) = value {
        value = &group.expr;
    }
    value
}

fn as_str(value: &Expr) -> Option<&LitStr> {
    match ungrouped(value) {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(literal) => Some(literal),
            _ => None,
        },
        _ => None,
    }
}

fn path(value: &Expr, otherwise: &str) -> Result<TokenStream> {
    match ungrouped(value) {
        Expr::Path(path) => Ok(path.to_token_stream()),
        _ => Err(Error::new_spanned(value, otherwise)),
    }
}

/// Names and paths that are literals are checked here, all others when the program runs.
fn check_socket(literal: &LitStr) -> Result<()> {
    let socket = literal.value();
    let complaint = if socket.is_empty() {
        "the socket's name is empty".to_owned()
    } else if socket.contains('\0') {
        "a socket's name has no NUL in it".to_owned()
    } else if let Some(path) = socket.strip_prefix('/') {
        match path.rsplit('/').next() {
            None | Some("" | "." | "..") => "this path has no file name at its end".to_owned(),
            Some(_) => return Ok(()),
        }
    } else if socket.contains('/') {
        "a socket's name has no `/` in it; a path starts with one".to_owned()
    } else if socket == "." || socket == ".." {
        format!("`{socket}` is a directory, not a name for a socket")
    } else if socket.len() > MAX_NAME {
        let length = socket.len();
        format!("a socket's name has at most {MAX_NAME} bytes, this one has {length}")
    } else {
        return Ok(());
    };
    Err(Error::new(literal.span(), complaint))
}

/// A string becomes a `Duration`; anything but a number is left to the compiler to judge.
fn duration(value: &Expr, noun: &str) -> Result<TokenStream> {
    if let Some(literal) = as_str(value) {
        let duration = read_duration(&literal.value(), noun)
            .map_err(|text| Error::new(literal.span(), text))?;
        return Ok(duration_tokens(duration));
    }
    if let Expr::Lit(literal) = ungrouped(value)
        && matches!(literal.lit, Lit::Int(_) | Lit::Float(_))
    {
        return Err(Error::new_spanned(value, needs_unit(noun)));
    }
    Ok(value.to_token_stream())
}

fn read_duration(text: &str, noun: &str) -> std::result::Result<Duration, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if number.is_empty() || unit.starts_with(['.', ',', '_']) {
        return Err(format!(
            "{noun} is a whole number and a unit: write `\"5s\"` or `\"250ms\"`"
        ));
    }
    if unit.is_empty() {
        return Err(needs_unit(noun));
    }
    let Some((_, factor)) = UNITS.iter().find(|(known, _)| *known == unit) else {
        return Err(format!("unknown unit `{unit}`; expected {}", choice(UNITS)));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is too long; `Duration::MAX` means no end at all"))
}

fn duration_tokens(duration: Duration) -> TokenStream {
    if duration.subsec_millis() == 0 {
        let seconds = Literal::u64_unsuffixed(duration.as_secs());
        return quote!(::core::time::Duration::from_secs(#seconds));
    }
    // It was made from a `u64` of milliseconds.
    let millis = Literal::u128_unsuffixed(duration.as_millis());
    quote!(::core::time::Duration::from_millis(#millis))
}

fn needs_unit(noun: &str) -> String {
    format!("{noun} needs a unit: write `\"5s\"` or `\"250ms\"`")
}

fn policy(value: &Expr) -> Result<Value> {
    let Some(literal) = as_str(value) else {
        return Ok(Value::Tokens(value.to_token_stream()));
    };
    let name = literal.value();
    match POLICIES.iter().find(|(known, _)| *known == name) {
        Some((_, variant)) => Ok(Value::Policy(Ident::new(variant, Span::call_site()))),
        None => Err(Error::new(
            literal.span(),
            unknown("policy", &name, POLICIES),
        )),
    }
}

/// A message with the one name that it may be a typo of, or all that there are.
fn unknown<T>(what: &str, name: &str, known: &[(&str, T)]) -> String {
    let nearest = known
        .iter()
        .map(|(known, _)| (distance(name, known), *known))
        .min()
        .filter(|(distance, known)| *distance <= 2 && *distance < known.len());
    match nearest {
        Some((_, nearest)) => format!("unknown {what} `{name}`; did you mean `{nearest}`?"),
        None => format!("unknown {what} `{name}`; expected one of {}", list(known)),
    }
}

fn list<T>(known: &[(&str, T)]) -> String {
    let quoted: Vec<_> = known.iter().map(|(name, _)| format!("`{name}`")).collect();
    quoted.join(", ")
}

fn choice<T>(known: &[(&str, T)]) -> String {
    match known.split_last() {
        Some(((last, _), others)) => format!("{} or `{last}`", list(others)),
        None => String::new(),
    }
}

/// The number of inserted, deleted and replaced characters between two words.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for ((b, diagonal), above) in to.iter().zip(&row).zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(a != *b))
                .min(above + 1)
                .min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod properties {
    use proptest::prelude::*;

    use super::{UNITS, read_duration};

    proptest! {
        #[test]
        fn a_duration_is_its_number_of_its_unit(number in 0..1_000_000_u64, unit in 0..UNITS.len(), space in " ?") {
            let (name, factor) = UNITS[unit];
            let read = read_duration(&format!("{number}{space}{name}"), "a deadline");
            prop_assert_eq!(read.map(|read| read.as_millis()), Ok(u128::from(number * factor)));
        }

        #[test]
        fn any_other_text_is_an_error_that_says_something(text in "\\PC{0,30}") {
            if let Err(complaint) = read_duration(&text, "a deadline") {
                prop_assert!(complaint.contains("deadline") || complaint.contains("unit") || complaint.contains("too long"));
            }
        }
    }
}
