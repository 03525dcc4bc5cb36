//! `larder fs stat`: all that is known of a path, as lines or in a format of the caller's.

use std::fmt::Write;

use clap::Args;
use larder_client::{FileKind, FileStatus, FsPath};

use super::{
    Act,
    mode::letters,
    owners::Owners,
    path,
    places::{Authority, Typed},
    rows::{Row, cached_bytes, escaped, kind, printed, size},
    shell::{Shell, authorities},
    times::{Zone, plain, rfc3339, span},
};
use crate::exit::Exit;

/// Show all that is known of paths
#[derive(Args, Debug)]
#[command(
    after_help = "FORMAT: %N name, %p path, %z size in bytes, %b number of blocks, %u owner, %g group, %a octal \
                        mode, %A mode as in ls, %i file id, %y time of the last change in UTC, %Y the same in \
                        milliseconds since 1970, %% a percent sign; \\n and \\t"
)]
pub(crate) struct Stat {
    /// The paths
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// Print this, with what stands for %N, %z, … (see below)
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// A symbolic link itself, not what it leads to
    #[arg(long)]
    no_follow: bool,
}

impl Act for Stat {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell
            .each(&self.paths, async |path| {
                let status = match self.no_follow {
                    true => shell.status_of_name(path).await?,
                    false => shell.fs.status(path).await?,
                };
                match &self.format {
                    Some(format) => shell.output.bytes(&formatted(format, path, &status, &shell.owners)),
                    None if shell.output.json => shell.output.object(&Row::new(path, &status, &shell.owners)),
                    None => {
                        let title = format!(" is a {} path.\n", kind(&status.kind));
                        let lines = lines(&status, &shell.owners);
                        shell.output.bytes(&[&printed(path), title.as_bytes(), lines.as_bytes()].concat())
                    }
                }
            })
            .await
    }
}

/// The format with its letters filled in, and a line end if it has none.
fn formatted(format: &str, path: &FsPath, status: &FileStatus, owners: &Owners) -> Vec<u8> {
    let mut out = Vec::new();
    let mut letters_left = format.chars();
    while let Some(letter) = letters_left.next() {
        match (letter, letter == '%' || letter == '\\') {
            (_, false) => out.extend(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            ('%', _) => match letters_left.next() {
                Some('N') => out.extend(path.name().unwrap_or(b"/")),
                Some('p') => out.extend(path.as_bytes()),
                Some(letter) => out.extend(field(letter, status, owners).as_bytes()),
                None => out.push(b'%'),
            },
            _ => match letters_left.next() {
                Some('n') => out.push(b'\n'),
                Some('t') => out.push(b'\t'),
                Some(other) => out.extend(other.encode_utf8(&mut [0; 4]).as_bytes()),
                None => out.push(b'\\'),
            },
        }
    }
    if out.last() != Some(&b'\n') {
        out.push(b'\n');
    }
    out
}

/// What one letter stands for; a letter that stands for nothing is itself.
fn field(letter: char, status: &FileStatus, owners: &Owners) -> String {
    match letter {
        'z' => status.length.to_string(),
        'b' => blocks(status).to_string(),
        'u' => owners.user(status.uid),
        'g' => owners.group(status.gid),
        'a' => format!("{:o}", status.mode),
        'A' => letters(&status.kind, status.mode),
        'i' => status.id.to_string(),
        'y' => plain(status.times.modified, Zone::Utc),
        'Y' => status.times.modified.0.div_euclid(1_000_000).to_string(),
        '%' => "%".into(),
        other => format!("%{other}"),
    }
}

fn blocks(status: &FileStatus) -> u32 {
    if status.kind.is_file() { status.block_size.count(status.length) } else { 0 }
}

/// One `name: value` a line; what does not apply is left out.
fn lines(status: &FileStatus, owners: &Owners) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {:<16}{value}", format!("{name}:"));
    };
    match &status.kind {
        FileKind::Symlink(target) => line("target", escaped(target)),
        FileKind::Directory => line("entries", status.length.to_string()),
        _ => line("size", format!("{} ({} bytes)", size(status.length, true), status.length)),
    }
    if status.kind.is_file() {
        line("blocks", format!("{} of {}", blocks(status), size(status.block_size.bytes(), true)));
        let cached = size(cached_bytes(status), true);
        line("in the cache", format!("{}% ({cached})", status.in_cache_percent));
        line("complete", if status.complete { "yes" } else { "no, it is being written" }.into());
    }
    line("persistence", status.persistence.as_str().into());
    line("mode", format!("{:04o} {}", status.mode, letters(&status.kind, status.mode)));
    line("owner", format!("{}:{} ({}:{})", owners.user(status.uid), owners.group(status.gid), status.uid, status.gid));
    line("links", status.links.to_string());
    line("modified", rfc3339(status.times.modified));
    line("accessed", rfc3339(status.times.accessed));
    line("changed", rfc3339(status.times.changed));
    line("created", rfc3339(status.created));
    line("pinned", if status.pinned { "yes" } else { "no" }.into());
    line(
        "replication",
        match status.replication_min {
            0 => "as it comes".into(),
            min => format!("at least {min}"),
        },
    );
    if let Some(ttl) = status.ttl {
        line("time to live", format!("{}, then {}", span(ttl.after), ttl.action.as_str().to_ascii_lowercase()));
    }
    line("file id", format!("{} (generation {})", status.id, status.generation));
    line("mount", format!("{}{}", status.mount, if status.mount_point { ", its root" } else { "" }));
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use larder_client::{Ttl, TtlAction};

    use super::{super::rows::tests::status, *};

    fn shown(format: &str) -> String {
        let path = FsPath::parse("/d/f").unwrap();
        String::from_utf8(formatted(format, &path, &status("f", 70 << 20), &Owners::default())).unwrap()
    }

    #[test]
    fn letters_stand_for_fields() {
        assert_eq!(shown("%N %p %z %b"), "f /d/f 73400320 2\n");
        assert_eq!(shown("%u:%g %a %A %i"), "root:root 644 -rw-r--r-- 7\n");
        assert_eq!(shown("%y|%Y"), "2024-11-21 10:35:04|1732185304123\n");
        assert_eq!(shown("100%% %q é\\t%"), "100% %q é\t%\n");
        assert_eq!(shown("a\\n"), "a\n");
    }

    #[test]
    fn lines_say_what_applies() {
        let ttl = Some(Ttl { after: Duration::from_secs(90), action: TtlAction::Free });
        let file = lines(&FileStatus { ttl, ..status("f", 3 << 20) }, &Owners::default());
        assert!(file.contains("  size:           3.00MB (3145728 bytes)\n"), "{file}");
        assert!(file.contains("50% (1.50MB)") && file.contains("1m 30s, then free"), "{file}");
        let directory = lines(&FileStatus { kind: FileKind::Directory, ..status("d", 4) }, &Owners::default());
        assert!(directory.contains("entries:        4") && !directory.contains("blocks"), "{directory}");
    }
}
