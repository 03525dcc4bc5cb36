//! Settings from options for Java, as Alluxio's containers are given them: `-Dalluxio.key=value` and `-Daws.key=value`.
//! Everything else is for a Java machine that is not there; it is ignored, and said so in one line. Pure.

use super::{
    registry::{self, Dialect},
    sources::Origin,
    values::Collector,
};
use crate::Result;

/// Takes the properties in one variable. Of two with one key the later holds, as in Java.
///
/// # Errors
/// `Config` for a value that cannot be read.
pub(super) fn collect(variable: &str, options: &str, collector: &mut Collector<'_>) -> Result<()> {
    let (mut ignored, mut unused) = (Vec::new(), Vec::new());
    let mut properties: Vec<(String, String)> = Vec::new();
    for option in split(options) {
        match property(&option) {
            Some((key, value)) => {
                properties.retain(|(earlier, _)| *earlier != key);
                properties.push((key, value));
            }
            None => ignored.push(option.split('=').next().unwrap_or_default().to_owned()),
        }
    }
    for (key, value) in properties {
        let origin = Origin::JavaOption { variable: variable.to_owned(), key: key.clone() };
        let name = key.strip_prefix("alluxio.").unwrap_or(&key);
        if !collector.take(name, Dialect::Alluxio, &value, origin)? {
            let near = registry::nearest(name, Dialect::Alluxio);
            unused.push(near.map_or(format!("-D{key}"), |near| format!("-D{key} (did you mean {near}?)")));
        }
    }
    if !ignored.is_empty() {
        collector.warn(format!("{variable}: ignored {}: Larder is not a Java program", ignored.join(" ")));
    }
    if !unused.is_empty() {
        collector.warn(format!("{variable}: Larder has no use for {}", unused.join(", ")));
    }
    Ok(())
}

/// The key and value of a `-D` that concerns us.
fn property(option: &str) -> Option<(String, String)> {
    let definition = option.strip_prefix("-D")?;
    let (key, value) = definition.split_once('=').unwrap_or((definition, ""));
    (key.starts_with("alluxio.") || key.starts_with("aws.")).then(|| (key.to_owned(), value.to_owned()))
}

/// Splits at blanks outside quotes; quotes are dropped.
fn split(options: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in options.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_blanks_together() {
        assert_eq!(split(r#" -Da="b c"  -Dd='e' "#), ["-Da=b c", "-Dd=e"]);
        assert_eq!(split(r#"-Da="" "open"#), ["-Da=", "open"]);
    }

    #[test]
    fn only_what_concerns_us_is_a_property() {
        assert_eq!(property("-Dalluxio.a=b=c"), Some(("alluxio.a".into(), "b=c".into())));
        assert_eq!(property("-Daws.accessKeyId=x").unwrap().0, "aws.accessKeyId");
        assert_eq!(property("-Djava.io.tmpdir=/x"), None);
        assert_eq!(property("-Xmx4g"), None);
    }
}
