//! `larder fsadmin unknown`: content that workers hold, that the namespace does not know and that is nowhere else.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use larder_client::{ByteSize, FileSystem, UnknownFile};
use larder_common::{Error, ErrorKind};

use crate::{cluster, command::Run, context::Context, exit::Exit};

/// How much is read at a time, in bytes.
const PART: u64 = 4 << 20;

/// Content that the namespace does not know and that is nowhere else: list it, copy it out, or drop it
#[derive(Args, Debug)]
pub(crate) struct Unknown {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List it, by worker and file number
    Ls,
    /// Copy it into a directory of this machine, one file named FILE-VERSION each
    Save {
        /// The directory; it is made if its parent exists
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Drop it: it is gone for good
    Drop {
        /// The number of a file as `ls` shows it; nothing else is dropped
        #[arg(value_name = "FILE", required_unless_present = "all", conflicts_with = "all")]
        files: Vec<u64>,
        /// All of it
        #[arg(long)]
        all: bool,
    },
}

impl Run for Unknown {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        cluster::run(context, Vec::new(), async |fs| {
            let files = fs.unknown().await?;
            match &self.what {
                What::Ls => list(context, &files),
                What::Save { directory } => save(context, &fs, &files, directory).await,
                What::Drop { files: asked, .. } => remove(context, &fs, &files, asked).await,
            }
        })
    }
}

fn list(context: &Context, files: &[UnknownFile]) -> anyhow::Result<Exit> {
    for file in files {
        let UnknownFile { worker, file, generation, length, held, .. } = file;
        match context.output.json {
            true => context.output.object(&serde_json::json!({
                "worker": worker.to_string(), "file": file.0, "version": generation.0, "length": length, "held": held,
            }))?,
            false => context.output.line(format!(
                "{worker} {file} {generation} {} of {}",
                ByteSize(*held),
                ByteSize(*length)
            ))?,
        }
    }
    Ok(Exit::Done)
}

async fn save(context: &Context, fs: &FileSystem, files: &[UnknownFile], into: &Path) -> anyhow::Result<Exit> {
    let made = std::fs::create_dir(into).or_else(|e| if into.is_dir() { Ok(()) } else { Err(e) });
    made.map_err(|e| Error::from(e).at(into.as_os_str().as_encoded_bytes()))?;
    let mut exit = Exit::Done;
    for file in files {
        let target = into.join(format!("{}-{}", file.file.0, file.generation.0));
        match copy(fs, file, &target).await {
            Ok(()) => context.output.line(format!("{} {}", target.display(), ByteSize(file.length)))?,
            Err(error) => {
                // What could be read of it is of use, but it is not the file.
                let partial = target.with_extension("partial");
                let kept = std::fs::rename(&target, &partial).map(|()| partial);
                let kept = kept.map(|kept| format!("; what came is in {}", kept.display())).unwrap_or_default();
                let message = format!("file {} of worker {}: {error:#}{kept}", file.file, file.worker);
                context.output.error(&Error::new(ErrorKind::Lost, message));
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

async fn copy(fs: &FileSystem, file: &UnknownFile, target: &Path) -> anyhow::Result<()> {
    let mut out = File::create_new(target).with_context(|| target.display().to_string())?;
    let source = fs.open_unknown(file).await?;
    let mut at = 0;
    while at < file.length {
        let end = (at + PART).min(file.length);
        out.write_all(&source.read_range(at..end).await?)?;
        at = end;
    }
    Ok(out.sync_all()?)
}

/// Drops the files with these numbers; none named means all.
async fn remove(context: &Context, fs: &FileSystem, files: &[UnknownFile], asked: &[u64]) -> anyhow::Result<Exit> {
    let absent: Vec<_> = asked.iter().filter(|id| files.iter().all(|file| file.file.0 != **id)).collect();
    if let Some(absent) = absent.first() {
        let error = Error::new(ErrorKind::NotFound, format!("no worker holds an unknown file {absent}"));
        return Err(error.advise("`larder fsadmin unknown ls` shows their numbers").into());
    }
    for file in files.iter().filter(|file| asked.is_empty() || asked.contains(&file.file.0)) {
        let dropped = fs.drop_unknown(file).await?;
        context.output.line(format!(
            "dropped {} of file {} at worker {}",
            ByteSize(dropped.bytes),
            file.file,
            file.worker
        ))?;
    }
    Ok(Exit::Done)
}
