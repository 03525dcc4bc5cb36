//! Patterns of names: `*`, `?`, `[a-z]`, `[!a-z]`, `{a,b}`, and `\` before a character that is to be itself. They match
//! bytes, not characters, and a name that begins with a dot like any other. Pure.
//!
//! `{a,b}` may hold slashes, so it is taken apart first ([`alternatives`]); the rest is matched name by name.

use larder_common::{Error, ErrorKind, Result};

/// The most paths that one pattern's braces may stand for.
const ALTERNATIVES_MAX: usize = 4096;

/// Whether this can stand for anything but itself.
pub(crate) fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|b| matches!(b, b'*' | b'?' | b'[' | b'{'))
}

/// Every text that the braces stand for, in the order they are written.
///
/// # Errors
/// `Invalid` when they stand for more than 4096.
pub(crate) fn alternatives(text: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut done = Vec::new();
    let mut todo = vec![text.to_vec()];
    while let Some(text) = todo.pop() {
        let Some((open, close, commas)) = group(&text) else {
            done.push(text);
            continue;
        };
        let mut from = open + 1;
        let mut parts = Vec::new();
        for end in commas.into_iter().chain([close]) {
            parts.push([&text[..open], &text[from..end], &text[close + 1..]].concat());
            from = end + 1;
        }
        todo.extend(parts.into_iter().rev());
        if todo.len() + done.len() > ALTERNATIVES_MAX {
            let message = format!("the braces stand for more than {ALTERNATIVES_MAX} paths");
            return Err(Error::new(ErrorKind::Invalid, message).advise("give fewer alternatives at a time"));
        }
    }
    Ok(done)
}

/// The first balanced pair of braces: where it opens, where it closes, and its commas.
fn group(text: &[u8]) -> Option<(usize, usize, Vec<usize>)> {
    let mut start = 0;
    while let Some(open) = next_brace(text, start) {
        let (mut depth, mut commas, mut at) = (0usize, Vec::new(), open);
        while at < text.len() {
            match text[at] {
                b'\\' => at += 1,
                b'{' => depth += 1,
                b',' if depth == 1 => commas.push(at),
                b'}' if depth == 1 => return Some((open, at, commas)),
                b'}' => depth -= 1,
                _ => {}
            }
            at += 1;
        }
        start = open + 1;
    }
    None
}

fn next_brace(text: &[u8], mut at: usize) -> Option<usize> {
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b'{' => return Some(at),
            _ => at += 1,
        }
    }
    None
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Any,
    Run,
    Set { inverted: bool, ranges: Vec<(u8, u8)> },
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Token::Byte(own) => *own == byte,
            Token::Any | Token::Run => true,
            Token::Set { inverted, ranges } => ranges.iter().any(|(a, b)| (*a..=*b).contains(&byte)) != *inverted,
        }
    }
}

/// A pattern of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Token>);

impl Pattern {
    /// Reads a pattern; braces are not looked at. Everything is one: what is not closed is itself.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let (token, next) = match text[at] {
                b'*' => (Token::Run, at + 1),
                b'?' => (Token::Any, at + 1),
                b'\\' if at + 1 < text.len() => (Token::Byte(text[at + 1]), at + 2),
                b'[' => set(text, at).unwrap_or((Token::Byte(b'['), at + 1)),
                byte => (Token::Byte(byte), at + 1),
            };
            if token != Token::Run || tokens.last() != Some(&Token::Run) {
                tokens.push(token);
            }
            at = next;
        }
        Self(tokens)
    }

    /// The one name that it stands for, if it is no more than a name.
    pub(crate) fn literal(&self) -> Option<Vec<u8>> {
        let byte = |token: &Token| match token {
            Token::Byte(byte) => Some(*byte),
            _ => None,
        };
        self.0.iter().map(byte).collect()
    }

    /// Whether the whole name is one that it stands for. Takes time proportional to name × pattern at most.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        let tokens = &self.0;
        let (mut token, mut at) = (0, 0);
        // Where the last run began, and how much of the name it has taken.
        let mut retry: Option<(usize, usize)> = None;
        while at < name.len() {
            match tokens.get(token) {
                Some(Token::Run) => {
                    retry = Some((token, at));
                    token += 1;
                }
                Some(other) if other.takes(name[at]) => {
                    token += 1;
                    at += 1;
                }
                _ => match &mut retry {
                    Some((run, taken)) => {
                        *taken += 1;
                        (token, at) = (*run + 1, *taken);
                    }
                    None => return false,
                },
            }
        }
        tokens[token..].iter().all(|token| *token == Token::Run)
    }
}

/// The set that opens here and what comes after it; `None` if it is never closed.
fn set(text: &[u8], open: usize) -> Option<(Token, usize)> {
    let mut at = open + 1;
    let inverted = matches!(text.get(at), Some(b'!' | b'^'));
    if inverted {
        at += 1;
    }
    let first = at;
    let mut ranges = Vec::new();
    loop {
        let (low, next) = match *text.get(at)? {
            b']' if at > first => return Some((Token::Set { inverted, ranges }, at + 1)),
            b'\\' => (*text.get(at + 1)?, at + 2),
            byte => (byte, at + 1),
        };
        let high = match (text.get(next), text.get(next + 1)) {
            (Some(b'-'), Some(high)) if *high != b']' => Some(*high),
            _ => None,
        };
        ranges.push((low, high.unwrap_or(low)));
        at = if high.is_some() { next + 2 } else { next };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern.as_bytes()).matches(name.as_bytes())
    }

    #[test]
    fn stars_marks_and_sets() {
        for (pattern, yes, no) in [
            ("*", vec!["", "a", ".hidden"], vec![]),
            ("a*b", vec!["ab", "axxb", "abab"], vec!["a", "abc", "ba"]),
            ("?", vec!["a"], vec!["", "ab", "é"]),
            ("[a-c]x", vec!["ax", "cx"], vec!["dx", "x", "-x"]),
            ("[!a-c]", vec!["d", "-"], vec!["a", "b", ""]),
            ("[]a]", vec!["]", "a"], vec!["b"]),
            ("[a-]", vec!["a", "-"], vec!["b"]),
            ("a\\*", vec!["a*"], vec!["ab"]),
            ("a[", vec!["a["], vec!["a"]),
            ("*.t?t", vec!["x.txt", ".t.t"], vec!["txt"]),
        ] {
            yes.into_iter().for_each(|name| assert!(matches(pattern, name), "{pattern} should match {name:?}"));
            no.into_iter().for_each(|name| assert!(!matches(pattern, name), "{pattern} should not match {name:?}"));
        }
        assert!(Pattern::parse(b"?").matches(b"\xff"));
        assert_eq!(Pattern::parse(b"a\\*b").literal().unwrap(), b"a*b");
        assert_eq!(Pattern::parse(b"a*b").literal(), None);
    }

    fn expanded(text: &str) -> Vec<String> {
        let all = alternatives(text.as_bytes()).unwrap();
        all.into_iter().map(|text| String::from_utf8(text).unwrap()).collect()
    }

    #[test]
    fn braces_stand_for_each_of_their_parts() {
        assert_eq!(expanded("/a"), ["/a"]);
        assert_eq!(expanded("/{a,b/c}/x"), ["/a/x", "/b/c/x"]);
        assert_eq!(expanded("/{a,{b,c}d}{1,2}"), ["/a1", "/a2", "/bd1", "/bd2", "/cd1", "/cd2"]);
        assert_eq!(expanded("/{a"), ["/{a"]);
        assert_eq!(expanded("/{a{b,c}"), ["/{ab", "/{ac"]);
        assert_eq!(expanded("/\\{a,b}"), ["/\\{a,b}"]);
        assert_eq!(expanded("/{}x"), ["/x"]);
        assert!(alternatives("{a,b}".repeat(20).as_bytes()).is_err(), "a million");
    }

    /// The same by trying everything.
    fn naive(pattern: &[Token], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((Token::Run, rest)), _) => (0..=name.len()).any(|taken| naive(rest, &name[taken..])),
            (Some((token, tokens)), Some((byte, rest))) => token.takes(*byte) && naive(tokens, rest),
            (Some(_), None) => false,
        }
    }

    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("*".to_owned()),
            Just("?".to_owned()),
            "[abc]",
            Just("[!a]".to_owned()),
            Just("[a-b]".to_owned()),
            Just("\\*".to_owned()),
            Just("[".to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn it_matches_as_a_naive_matcher_does(pieces in prop::collection::vec(piece(), 0..8), name in "[abc*]{0,10}") {
            let pattern = Pattern::parse(pieces.concat().as_bytes());
            prop_assert_eq!(pattern.matches(name.as_bytes()), naive(&pattern.0, name.as_bytes()));
        }

        #[test]
        fn nothing_panics(pattern in prop::collection::vec(any::<u8>(), 0..24), name in prop::collection::vec(any::<u8>(), 0..24)) {
            let _ = Pattern::parse(&pattern).matches(&name);
            let _ = alternatives(&pattern);
        }

        #[test]
        fn a_name_with_every_byte_escaped_matches_itself_only(name in prop::collection::vec(any::<u8>(), 1..12), other in prop::collection::vec(any::<u8>(), 1..12)) {
            let escaped: Vec<u8> = name.iter().flat_map(|b| [b'\\', *b]).collect();
            let pattern = Pattern::parse(&escaped);
            prop_assert!(pattern.matches(&name));
            prop_assert_eq!(pattern.matches(&other), name == other);
        }
    }
}
