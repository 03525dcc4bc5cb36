//! Progress bars on standard error: bytes, rate, time left. Only on a terminal; elsewhere they are nothing.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::shell::Shell;

/// What the bar looks like. Sizes are indicatif's, powers of two.
const TEMPLATE: &str = "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left";

/// A bar of bytes.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

/// Counts bytes for a [`Bar`], from any task.
#[derive(Clone, Debug)]
pub(crate) struct Meter(ProgressBar);

impl Meter {
    /// More bytes are done.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Bar {
    /// A bar, if somebody sees it.
    pub(crate) fn new(shell: &Shell<'_>) -> Self {
        let target = match shell.context.is_interactive() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is a constant that a test reads");
        Self(ProgressBar::with_draw_target(Some(0), target).with_style(style.progress_chars("=> ")))
    }

    /// How far it is, in bytes, with what is to be said beside.
    pub(crate) fn set(&self, done: u64, all: u64, message: String) {
        self.0.set_length(all);
        self.0.set_position(done);
        self.0.set_message(message);
    }

    /// One more file of so many bytes is to be done.
    pub(crate) fn expect(&self, bytes: u64) {
        self.0.inc_length(bytes);
    }

    /// What counts its bytes.
    pub(crate) fn meter(&self) -> Meter {
        Meter(self.0.clone())
    }

    /// Prints something without breaking the bar.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_can_be_read() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }
}
