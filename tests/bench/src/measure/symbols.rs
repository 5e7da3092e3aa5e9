//! What a binary is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use object::{Object, ObjectSection, ObjectSymbol, SectionKind};
use program::Outcome;

const KIB: f64 = 1024.0;
const WITH_ADDRESSES: &str = "data with addresses, and their relocations";

/// KiB by what they are: code by the crate that it comes from, and the rest by its sections.
pub(crate) fn parts(binary: &Path) -> Outcome<BTreeMap<String, f64>> {
    let bytes = fs::read(binary)?;
    let file = object::File::parse(&*bytes)?;
    let mut parts: BTreeMap<String, f64> = BTreeMap::new();
    for section in file.sections() {
        let name = section.name()?;
        let kind = match name {
            ".eh_frame" | ".eh_frame_hdr" | ".gcc_except_table" => "tables for unwinding",
            ".data.rel.ro" | ".got" | ".data" => WITH_ADDRESSES,
            _ if name.starts_with(".rel") => WITH_ADDRESSES,
            _ if section.kind() == SectionKind::ReadOnlyData => "constants",
            _ => continue,
        };
        *parts.entry(kind.to_owned()).or_default() += size(section.size())?;
    }
    let mut counted = BTreeSet::new();
    for symbol in file.symbols() {
        let is_code = symbol.kind() == object::SymbolKind::Text && symbol.size() > 0;
        // One function may have several names.
        if is_code && counted.insert(symbol.address()) {
            let name = format!("{:#}", rustc_demangle::demangle(symbol.name()?));
            *parts.entry(format!("code: {}", origin(&name))).or_default() += size(symbol.size())?;
        }
    }
    Ok(parts)
}

fn size(bytes: u64) -> Outcome<f64> {
    Ok(crate::sample::count(bytes.try_into()?) / KIB)
}

/// The crate of a function, or of the type that it is about.
fn origin(function: &str) -> &str {
    let path = function
        .strip_prefix("core::ptr::drop_in_place<")
        .unwrap_or(function);
    let path = path.trim_start_matches(['<', '&', '[', '(', '*']);
    let path = path.trim_start_matches("mut ").trim_start_matches("dyn ");
    match path.split_once("::") {
        Some((name, _)) if !name.contains(' ') => name,
        _ => "without a crate's name",
    }
}
