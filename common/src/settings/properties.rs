//! Settings from an `alluxio-site.properties`: the format of Java's properties, with `${key}` for another key's value, as
//! Alluxio has it. Pure.

use std::{collections::BTreeMap, path::Path};

use super::{
    registry::{self, Dialect},
    sources::Origin,
    values::Collector,
};
use crate::{Error, ErrorKind, Result};

/// How deep one value may refer to another.
const DEPTH: usize = 16;

/// Takes all properties of a file.
///
/// # Errors
/// `Config` for a value that cannot be read, or that refers to nothing.
pub(super) fn collect(file: &Path, bytes: &[u8], collector: &mut Collector<'_>) -> Result<()> {
    let properties = parse(&text(bytes));
    let mut unused = Vec::new();
    for (key, value) in &properties {
        let name = key.strip_prefix("alluxio.").unwrap_or(key);
        let origin = Origin::Properties { file: file.to_owned(), key: key.clone() };
        if registry::find(name, Dialect::Alluxio).is_none() {
            unused.push(key.as_str());
            continue;
        }
        let value = substitute(value, &properties, DEPTH).map_err(|reason| {
            Error::new(ErrorKind::Config, format!("{origin}: {reason}")).advise("write the value itself")
        })?;
        collector.take(name, Dialect::Alluxio, &value, origin)?;
    }
    if !unused.is_empty() {
        collector.warn(format!("{}: Larder has no use for {}", file.display(), unused.join(", ")));
    }
    Ok(())
}

/// UTF-8, else Latin-1, as Java reads it.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|b| char::from(*b)).collect(),
    }
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    let mut lines = text.lines().map(str::trim_start);
    while let Some(first) = lines.next() {
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut line = first.to_owned();
        while continues(&line) {
            line.pop();
            match lines.next() {
                Some(next) => line.push_str(next),
                None => break,
            }
        }
        let (key, value) = divide(&line);
        properties.insert(unescape(key), unescape(value));
    }
    properties
}

/// Whether the line ends with an odd number of backslashes.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// Key and value: parted by the first `=`, `:` or blank that is not escaped.
fn divide(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let parts = !escaped && (matches!(c, '=' | ':') || c.is_whitespace());
        escaped = c == '\\' && !escaped;
        parts
    });
    let Some(end) = end else { return (line, "") };
    let rest = line[end..].trim_start();
    (&line[..end], rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start())
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                plain.push(u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).unwrap_or('\u{fffd}'));
            }
            other => plain.extend(other),
        }
    }
    plain
}

fn substitute(value: &str, properties: &BTreeMap<String, String>, depth: usize) -> Result<String, String> {
    let Some((before, rest)) = value.split_once("${") else { return Ok(value.to_owned()) };
    let Some((key, after)) = rest.split_once('}') else { return Ok(value.to_owned()) };
    let inner = properties.get(key).ok_or_else(|| format!("${{{key}}} is not in this file"))?;
    if depth == 0 {
        return Err(format!("${{{key}}} refers to itself"));
    }
    let inner = substitute(inner, properties, depth - 1)?;
    Ok(format!("{before}{inner}{}", substitute(after, properties, depth)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_of_java_is_read() {
        let text = "# comment\n! too\n\na=1\n b : 2\nc 3\nd=x\\\n   y\\\\\ne\\=f=g\\u0041\nempty\n";
        let expected = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "xy\\"), ("e=f", "gA"), ("empty", "")];
        let expected: BTreeMap<_, _> = expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn values_refer_to_values() {
        let properties = parse("a=1\nb=${a}/${a}\nc=<${b}>\nd=${d}\ne=${x}\nf=${");
        let value = |key: &str| substitute(&properties[key], &properties, DEPTH);
        assert_eq!(value("c").unwrap(), "<1/1>");
        assert!(value("d").unwrap_err().contains("itself"));
        assert!(value("e").unwrap_err().contains("${x}"));
        assert_eq!(value("f").unwrap(), "${");
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let properties = parse(&text(&bytes));
            for value in properties.values() {
                let _ = substitute(value, &properties, DEPTH);
            }
        }
    }
}
