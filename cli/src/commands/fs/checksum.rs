//! `larder fs checksum`: the MD5 of files as Alluxio prints it, and their CRC-32C, which is what the cache itself keeps.

use clap::Args;
use larder_client::FsPath;
use larder_common::checksum::Crc32c;
use md5::{Digest, Md5};

use super::{
    Act, path,
    places::{Authority, Typed},
    read,
    rows::printed,
    shell::{Shell, authorities},
};
use crate::exit::Exit;

/// Print the MD5 and CRC-32C of files
#[derive(Args, Debug)]
pub(crate) struct Checksum {
    /// The files
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

impl Act for Checksum {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let paths = shell.expand(&self.paths).await;
        let is_one = paths.len() == 1;
        for path in &paths {
            shell.pass(path, one(shell, path, is_one).await)?;
        }
        Ok(shell.exit())
    }
}

async fn one(shell: &Shell<'_>, path: &FsPath, is_only: bool) -> anyhow::Result<()> {
    let file = shell.fs.open(path).await?;
    let mut sums = Sums::default();
    read::all(&file, async |bytes| {
        sums.update(&bytes);
        Ok(())
    })
    .await?;
    let (md5, crc32c) = sums.end();
    if shell.output.json {
        let length = file.length();
        return shell.output.object(&serde_json::json!({
            "path": path.to_string(), "length": length, "md5": md5, "crc32c": crc32c,
        }));
    }
    if !is_only {
        shell.output.bytes(&[&printed(path), &b":\n"[..]].concat())?;
    }
    shell.output.line(format_args!("md5sum: {md5}\ncrc32c: {crc32c}"))
}

/// Both sums over bytes as they come.
#[derive(Default)]
struct Sums {
    md5: Md5,
    crc32c: Crc32c,
}

impl Sums {
    fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.crc32c.update(bytes);
    }

    /// As hexadecimal digits.
    fn end(self) -> (String, String) {
        let md5 = self.md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        (md5, format!("{:08x}", self.crc32c.value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sums() {
        let mut sums = Sums::default();
        sums.update(b"1234");
        sums.update(b"56789");
        assert_eq!(sums.end(), ("25f9e794323b453885f5181f1b624d0b".into(), "e3069283".into()));
        assert_eq!(Sums::default().end(), ("d41d8cd98f00b204e9800998ecf8427e".into(), "00000000".into()));
    }
}
