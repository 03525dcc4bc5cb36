//! Settings from a TOML file. Tables and dotted keys make a setting's name; a list is written as one value with commas.
//! Pure.

use std::path::Path;

use toml::{Table, Value};

use super::{
    environment::printable,
    registry::{self, Dialect},
    sources::Origin,
    values::Collector,
};
use crate::{Error, ErrorKind, Result};

/// Takes all settings of a file.
///
/// # Errors
/// `Config` for what is not TOML, an unknown name, or a value that cannot be read.
pub(super) fn collect(file: &Path, bytes: &[u8], collector: &mut Collector<'_>) -> Result<()> {
    let wrong = |message: String| Error::new(ErrorKind::Config, message).at(file.as_os_str().as_encoded_bytes());
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("not UTF-8".into()))?;
    let table: Table = text.parse().map_err(|e| wrong(on_one_line(text, &e)))?;
    let mut leaves = Vec::new();
    flatten(String::new(), table, &mut leaves);
    for (key, value) in leaves {
        let value = scalar(&value)
            .ok_or_else(|| wrong(format!("{key} is neither a text, a number, true or false, nor a list of these")))?;
        let origin = Origin::Config { file: file.to_owned(), key: key.clone() };
        if !collector.take(&key, Dialect::Larder, &value, origin)? {
            let shown = printable(&key, &value);
            let error = wrong(format!("{key}={shown} is not a setting"));
            return Err(error.advise(advice(&key)));
        }
    }
    Ok(())
}

pub(super) fn advice(key: &str) -> String {
    let near = registry::nearest(key, Dialect::Larder).and_then(|near| registry::find(&near, Dialect::Larder));
    near.map_or("`larder config show` lists all settings".into(), |near| format!("did you mean {}?", near.setting.name))
}

/// The parser's message with its line, without the excerpt of the file, which could hold a secret.
fn on_one_line(text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .map(|span| 1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|b| **b == b'\n').count());
    let message = error.message().replace('\n', ", ");
    line.map_or(format!("not TOML: {message}"), |line| format!("line {line} is not TOML: {message}"))
}

fn flatten(prefix: String, table: Table, leaves: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(name, inner, leaves),
            leaf => leaves.push((name, leaf)),
        }
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Array(parts) if !parts.iter().any(Value::is_array) => {
            let parts: Option<Vec<_>> = parts.iter().map(scalar).collect();
            Some(parts?.join(","))
        }
        _ => None,
    }
}
