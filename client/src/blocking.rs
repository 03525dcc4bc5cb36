//! The same for programs without a runtime: each call waits. One runtime of its own carries the connections.
//!
//! Not to be used from within asynchronous code, where waiting would stop the runtime.
//!
//! ```no_run
//! # fn example() -> larder_client::Result<()> {
//! use larder_client::{Config, blocking::FileSystem};
//!
//! let fs = FileSystem::connect(Config::from_env()?)?;
//! println!("{} bytes", fs.read("/data/part-0")?.len());
//! # Ok(())
//! # }
//! ```

use std::{
    fmt,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::StreamExt;
use larder_common::{Error, ErrorKind, FileStatus, Result};
use tokio::{
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    runtime::Runtime,
};

use crate::{
    Config, CreateOptions, EditOptions, Entry, ListOptions, LoadOptions, LoadProgress, MkdirOptions, OpenOptions,
    RemoveOptions, Removed, RenameOptions, Served, View,
};

/// A connection to a cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FileSystem {
    inner: crate::FileSystem,
    runtime: Arc<Owned>,
}

/// A runtime that ends without waiting, wherever it is dropped.
#[derive(Debug)]
struct Owned(Option<Runtime>);

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Owned {
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.as_ref().expect("there until it is dropped").block_on(future)
    }
}

impl FileSystem {
    /// Connects to the master.
    ///
    /// # Errors
    /// As [`crate::FileSystem::connect`].
    pub fn connect(config: Config) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("larder-client")
            .enable_all()
            .build()
            .map_err(|e| Error::new(ErrorKind::Unavailable, format!("no threads for the connection: {e}")))?;
        let runtime = Arc::new(Owned(Some(runtime)));
        let inner = runtime.wait(crate::FileSystem::connect(config))?;
        Ok(Self { inner, runtime })
    }

    /// Ends the session, as [`crate::FileSystem::close`] does.
    pub fn close(self) {
        self.runtime.wait(self.inner.close());
    }

    /// Makes any other call of the asynchronous file system, and waits for it.
    ///
    /// ```no_run
    /// # fn example(fs: larder_client::blocking::FileSystem) -> larder_client::Result<()> {
    /// fs.wait(|fs| async move { fs.pin("/data").await })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait<F: Future>(&self, call: impl FnOnce(crate::FileSystem) -> F) -> F::Output {
        self.runtime.wait(call(self.inner.clone()))
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// As [`crate::FileSystem::open`].
    pub fn open(&self, path: impl AsRef<[u8]>, options: OpenOptions) -> Result<File> {
        let inner = self.runtime.wait(self.inner.open_with(path, options))?;
        let reader = inner.reader();
        Ok(File { inner, reader, runtime: Arc::clone(&self.runtime) })
    }

    /// Begins a new file.
    ///
    /// # Errors
    /// As [`crate::FileSystem::create`].
    pub fn create(&self, path: impl AsRef<[u8]>, options: CreateOptions) -> Result<Writer> {
        let inner = self.runtime.wait(self.inner.create(path, options))?;
        Ok(Writer { inner, runtime: Arc::clone(&self.runtime) })
    }

    /// Begins to edit a file in place.
    ///
    /// # Errors
    /// As [`crate::FileSystem::edit`].
    pub fn edit(&self, path: impl AsRef<[u8]>, options: EditOptions) -> Result<Edit> {
        let inner = self.runtime.wait(self.inner.edit(path, options))?;
        Ok(Edit { inner, runtime: Arc::clone(&self.runtime) })
    }

    /// Puts bytes at the end of a file that is there.
    ///
    /// # Errors
    /// As [`crate::FileSystem::append`].
    pub fn append(&self, path: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Result<FileStatus> {
        self.runtime.wait(self.inner.append(path, bytes))
    }

    /// Cuts a file, or lets it grow with zeros.
    ///
    /// # Errors
    /// As [`crate::FileSystem::truncate`].
    pub fn truncate(&self, path: impl AsRef<[u8]>, length: u64) -> Result<FileStatus> {
        self.runtime.wait(self.inner.truncate(path, length))
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// As [`crate::FileSystem::read`].
    pub fn read(&self, path: impl AsRef<[u8]>) -> Result<Bytes> {
        self.runtime.wait(self.inner.read(path))
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// As [`crate::FileSystem::write`].
    pub fn write(&self, path: impl AsRef<[u8]>, bytes: impl Into<Bytes>, options: CreateOptions) -> Result<FileStatus> {
        self.runtime.wait(self.inner.write(path, bytes, options))
    }

    /// The status of a path.
    ///
    /// # Errors
    /// As [`crate::FileSystem::status`].
    pub fn status(&self, path: impl AsRef<[u8]>) -> Result<FileStatus> {
        self.runtime.wait(self.inner.status(path))
    }

    /// Whether there is something of that name.
    ///
    /// # Errors
    /// As [`crate::FileSystem::exists`].
    pub fn exists(&self, path: impl AsRef<[u8]>) -> Result<bool> {
        self.runtime.wait(self.inner.exists(path))
    }

    /// The entries of a directory, as they come.
    pub fn list(&self, path: impl AsRef<[u8]>, options: ListOptions) -> Box<dyn Iterator<Item = Result<Entry>> + Send> {
        let mut entries = self.inner.list(path, options);
        let runtime = Arc::clone(&self.runtime);
        Box::new(std::iter::from_fn(move || runtime.wait(entries.next())))
    }

    /// Brings files into the cache; each item says how far it is.
    pub fn load(
        &self,
        path: impl AsRef<[u8]>,
        options: LoadOptions,
    ) -> Box<dyn Iterator<Item = Result<LoadProgress>> + Send> {
        let mut progress = self.inner.load(path, options);
        let runtime = Arc::clone(&self.runtime);
        Box::new(std::iter::from_fn(move || runtime.wait(progress.next())))
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`crate::FileSystem::mkdir`].
    pub fn mkdir(&self, path: impl AsRef<[u8]>, options: MkdirOptions) -> Result<()> {
        self.runtime.wait(self.inner.mkdir(path, options))
    }

    /// Gives another name.
    ///
    /// # Errors
    /// As [`crate::FileSystem::rename`].
    pub fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>, options: RenameOptions) -> Result<()> {
        self.runtime.wait(self.inner.rename(from, to, options))
    }

    /// Removes a file or directory.
    ///
    /// # Errors
    /// As [`crate::FileSystem::remove`].
    pub fn remove(&self, path: impl AsRef<[u8]>, options: RemoveOptions) -> Result<Removed> {
        self.runtime.wait(self.inner.remove(path, options))
    }
}

/// An open file.
pub struct File {
    inner: crate::File,
    reader: crate::Reader,
    runtime: Arc<Owned>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl File {
    /// The status as it was when the file was opened.
    #[must_use]
    pub fn status(&self) -> &FileStatus {
        self.inner.status()
    }

    /// How many bytes came which way so far.
    #[must_use]
    pub fn served(&self) -> Served {
        self.inner.served()
    }

    /// Reads bytes from `offset` on; 0 at the end.
    ///
    /// # Errors
    /// As [`crate::File::read_at`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match self.inner.read_now(offset, buffer) {
            Some(result) => result,
            None => self.runtime.wait(self.inner.read_at(offset, buffer)),
        }
    }

    /// A view of a range.
    ///
    /// # Errors
    /// As [`crate::File::view`].
    pub fn view(&self, range: Range<u64>) -> Result<View> {
        self.runtime.wait(self.inner.view(range))
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.runtime.wait(self.reader.read(buffer))
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.runtime.wait(self.reader.seek(to))
    }
}

/// A file that is being edited in place. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Edit {
    inner: crate::Edit,
    runtime: Arc<Owned>,
}

impl Edit {
    /// Makes any call of the asynchronous edit, and waits for it.
    pub fn wait<F: Future>(&self, call: impl FnOnce(crate::Edit) -> F) -> F::Output {
        self.runtime.wait(call(self.inner.clone()))
    }

    /// How many bytes the file has now.
    ///
    /// # Errors
    /// As [`crate::Edit::length`].
    pub fn length(&self) -> Result<u64> {
        self.runtime.wait(self.inner.length())
    }

    /// Reads bytes from `offset` on, as they are now; 0 at the end.
    ///
    /// # Errors
    /// As [`crate::Edit::read_at`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.runtime.wait(self.inner.read_at(offset, buffer))
    }

    /// Writes bytes at `offset`.
    ///
    /// # Errors
    /// As [`crate::Edit::write_at`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.runtime.wait(self.inner.write_at(offset, bytes))
    }

    /// Writes bytes at the end; answers where they begin.
    ///
    /// # Errors
    /// As [`crate::Edit::append`].
    pub fn append(&self, bytes: &[u8]) -> Result<u64> {
        self.runtime.wait(self.inner.append(bytes))
    }

    /// Gives the file another length.
    ///
    /// # Errors
    /// As [`crate::Edit::set_length`].
    pub fn set_length(&self, length: u64) -> Result<()> {
        self.runtime.wait(self.inner.set_length(length))
    }

    /// Makes what is written the file's content, and goes on.
    ///
    /// # Errors
    /// As [`crate::Edit::commit`].
    pub fn commit(&self, sync: bool) -> Result<FileStatus> {
        self.runtime.wait(self.inner.commit(sync))
    }

    /// Commits and ends the edit.
    ///
    /// # Errors
    /// As [`crate::Edit::close`].
    pub fn close(self) -> Result<FileStatus> {
        self.runtime.wait(self.inner.close())
    }
}

/// Writes one new version of a file. Dropped before [`Writer::commit`] it leaves the old one.
#[derive(Debug)]
pub struct Writer {
    inner: crate::Writer,
    runtime: Arc<Owned>,
}

impl Writer {
    /// Makes what was written the file's content.
    ///
    /// # Errors
    /// As [`crate::Writer::commit`].
    pub fn commit(self) -> Result<FileStatus> {
        self.runtime.wait(self.inner.commit())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.runtime.wait(AsyncWriteExt::write(&mut self.inner, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.runtime.wait(self.inner.flush())
    }
}
