//! Permission bits as `chmod` takes them and `ls` shows them: octal (`755`), symbolic (`u+x,go-w`), `drwxr-xr-x`. Pure.

use larder_common::{Error, ErrorKind, FileKind, Result};

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// A change of permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// These bits, whatever was there.
    Exactly(u32),
    /// One step after the other.
    Steps(Vec<Step>),
}

/// `u+rw`: for whom, how, what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    who: u32,
    operator: u8,
    bits: Bits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bits {
    /// r, w, x as one octal digit.
    plain: u32,
    /// `X`: x where it is a directory or anybody may execute it.
    execute_if: bool,
    set_id: bool,
    sticky: bool,
    /// `g=u`: the bits that this class has; the number of places to shift it right.
    copied: Option<u32>,
}

impl Change {
    /// Reads a change. Without one of `ugoa` all classes are meant, whatever the umask.
    ///
    /// # Errors
    /// `Invalid` for what is neither octal up to 7777 nor symbolic.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777);
            return bits.map(Change::Exactly).ok_or_else(|| wrong(text));
        }
        let mut steps = Vec::new();
        for clause in text.split(',') {
            clause_steps(clause.as_bytes(), &mut steps).ok_or_else(|| wrong(text))?;
        }
        Ok(Change::Steps(steps))
    }

    /// The bits after the change.
    pub(crate) fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Change::Exactly(bits) => *bits,
            Change::Steps(steps) => steps.iter().fold(mode, |mode, step| step.apply(mode, is_directory)),
        }
    }

    /// The bits, if they do not depend on what was there.
    pub(crate) fn exactly(&self) -> Option<u32> {
        match self {
            Change::Exactly(bits) => Some(*bits),
            Change::Steps(_) => None,
        }
    }
}

fn wrong(text: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{text:?} is not a mode")).advise("write it as 755 or u+rwx,go-w")
}

fn clause_steps(clause: &[u8], steps: &mut Vec<Step>) -> Option<()> {
    let classes = clause.iter().take_while(|b| b"ugoa".contains(b)).count();
    let who = clause[..classes].iter().fold(0, |who, b| {
        who | match b {
            b'u' => 0o700,
            b'g' => 0o070,
            b'o' => 0o007,
            _ => 0o777,
        }
    });
    let who = if who == 0 { 0o777 } else { who };
    let mut rest = &clause[classes..];
    while let Some((operator, after)) = rest.split_first().filter(|(b, _)| b"+-=".contains(b)) {
        let end = after.iter().position(|b| b"+-=".contains(b)).unwrap_or(after.len());
        steps.push(Step { who, operator: *operator, bits: bits(&after[..end])? });
        rest = &after[end..];
    }
    (rest.is_empty() && clause.len() > classes).then_some(())
}

fn bits(letters: &[u8]) -> Option<Bits> {
    let mut bits = Bits { plain: 0, execute_if: false, set_id: false, sticky: false, copied: None };
    if let [class @ (b'u' | b'g' | b'o')] = letters {
        bits.copied = Some(match class {
            b'u' => 6,
            b'g' => 3,
            _ => 0,
        });
        return Some(bits);
    }
    for letter in letters {
        match letter {
            b'r' => bits.plain |= 4,
            b'w' => bits.plain |= 2,
            b'x' => bits.plain |= 1,
            b'X' => bits.execute_if = true,
            b's' => bits.set_id = true,
            b't' => bits.sticky = true,
            _ => return None,
        }
    }
    Some(bits)
}

impl Step {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let mut digit = self.bits.plain;
        if let Some(shift) = self.bits.copied {
            digit = (mode >> shift) & 7;
        }
        if self.bits.execute_if && (is_directory || mode & 0o111 != 0) {
            digit |= 1;
        }
        let mut wanted = (digit * 0o111) & self.who;
        let special = [
            (self.bits.set_id && self.who & 0o700 != 0, SETUID),
            (self.bits.set_id && self.who & 0o070 != 0, SETGID),
            (self.bits.sticky, STICKY),
        ];
        special.iter().filter(|(is_meant, _)| *is_meant).for_each(|(_, bit)| wanted |= bit);
        match self.operator {
            b'+' => mode | wanted,
            b'-' => mode & !wanted,
            _ => (mode & !self.covered(is_directory)) | wanted,
        }
    }

    /// The bits that `=` sets or clears. As in GNU, the set-id bits of a directory stay unless they are named.
    fn covered(&self, is_directory: bool) -> u32 {
        let set_ids = [(0o700, SETUID), (0o070, SETGID)];
        let set_ids = set_ids.iter().filter(|(class, _)| self.who & class != 0).fold(0, |all, (_, bit)| all | bit);
        let set_ids = if is_directory && !self.bits.set_id { 0 } else { set_ids };
        let sticky = if (self.who == 0o777 && !is_directory) || self.bits.sticky { STICKY } else { 0 };
        self.who | set_ids | sticky
    }
}

/// The ten characters of `ls`.
pub(crate) fn letters(kind: &FileKind, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(kind_letter(kind));
    for (shift, special, letter) in [(6, SETUID, 's'), (3, SETGID, 's'), (0, STICKY, 't')] {
        let digit = (mode >> shift) & 7;
        text.push(if digit & 4 != 0 { 'r' } else { '-' });
        text.push(if digit & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, digit & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn kind_letter(kind: &FileKind) -> char {
    match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink(_) => 'l',
        FileKind::Special(format, _) => match format & 0o170_000 {
            0o010_000 => 'p',
            0o140_000 => 's',
            0o020_000 => 'c',
            _ => 'b',
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn changed(text: &str, mode: u32) -> u32 {
        Change::parse(text).unwrap().apply(mode, false)
    }

    #[test]
    fn octal_and_symbolic_modes() {
        assert_eq!(changed("755", 0), 0o755);
        assert_eq!(changed("1777", 0o644), 0o1777);
        assert_eq!(changed("u+x", 0o644), 0o744);
        assert_eq!(changed("+x", 0o644), 0o755);
        assert_eq!(changed("-x", 0o755), 0o644);
        assert_eq!(changed("go-rwx", 0o777), 0o700);
        assert_eq!(changed("u=rw,g=r,o=", 0o777), 0o640);
        assert_eq!(changed("a=r+w", 0o111), 0o666);
        assert_eq!(changed("g=u", 0o604), 0o664);
        assert_eq!(changed("u+s,g+s,+t", 0o755), 0o7755);
        assert_eq!(changed("u-s", 0o4755), 0o755);
        assert_eq!(changed("a+X", 0o644), 0o644);
        assert_eq!(changed("a+X", 0o744), 0o755);
        assert_eq!(Change::parse("a+X").unwrap().apply(0o644, true), 0o755);
        assert_eq!(Change::parse("g=rx").unwrap().apply(0o2775, true), 0o2755, "a directory keeps its set-id bit");
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for bad in ["", "8", "99999", "u", "u+q", "u!x", "x", "u+x,", "12345678901"] {
            assert!(Change::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ls_shows_letters() {
        assert_eq!(letters(&FileKind::File, 0o644), "-rw-r--r--");
        assert_eq!(letters(&FileKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(letters(&FileKind::Symlink(Vec::new()), 0o777), "lrwxrwxrwx");
        assert_eq!(letters(&FileKind::File, 0o6644), "-rwSr-Sr--");
        assert_eq!(letters(&FileKind::Special(0o010_000, 0), 0o600), "prw-------");
    }

    proptest! {
        #[test]
        fn a_mode_written_as_letters_is_the_mode(mode in 0u32..0o1000, before in 0u32..0o1000) {
            let text = letters(&FileKind::File, mode);
            let class = |from: usize| text[from..from + 3].replace('-', "");
            let symbolic = format!("u={},g={},o={}", class(1), class(4), class(7));
            prop_assert_eq!(changed(&symbolic, before), mode);
        }

        #[test]
        fn nothing_panics(text in "[ugoa+=,rwxXst-]{0,12}", mode in 0u32..0o10000) {
            if let Ok(change) = Change::parse(&text) {
                prop_assert!(change.apply(mode, true) <= 0o7777);
            }
        }
    }
}
