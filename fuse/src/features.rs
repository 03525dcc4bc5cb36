//! Which of the kernel's newer abilities a mount uses.

use larder_common::{Error, ErrorKind, Result};

/// The abilities that may be used; the kernel has to have them, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The kernel reads cache files itself (6.9).
    pub passthrough: bool,
    /// Shared mappings of files that are not in the page cache (6.6).
    pub mmap: bool,
    /// Names are called back all at once (6.16).
    pub epoch: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { passthrough: true, mmap: true, epoch: true }
    }
}

impl Features {
    /// Reads `all`, `none`, and names with a minus before those that are left out.
    ///
    /// # Errors
    /// `Config` for a name that is not known.
    pub fn parse<'a>(list: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut features = Self::default();
        for word in list.into_iter().map(str::trim).filter(|word| !word.is_empty()) {
            let (name, on) = word.strip_prefix('-').map_or((word, true), |name| (name, false));
            match name {
                "all" | "none" => {
                    let on = on == (name == "all");
                    features = Self { passthrough: on, mmap: on, epoch: on };
                }
                "passthrough" => features.passthrough = on,
                "mmap" => features.mmap = on,
                "epoch" => features.epoch = on,
                _ => {
                    let error = Error::new(ErrorKind::Config, format!("fuse.kernel.features: unknown {name:?}"));
                    return Err(
                        error.advise("known are all, none, passthrough, mmap, epoch, with a minus to leave one out")
                    );
                }
            }
        }
        Ok(features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abilities_are_left_out_by_name() {
        assert_eq!(Features::parse([]).unwrap(), Features::default());
        let features = Features::parse(["all", "-passthrough"]).unwrap();
        assert!(!features.passthrough && features.mmap && features.epoch);
        let features = Features::parse(["none", "epoch"]).unwrap();
        assert!(!features.passthrough && !features.mmap && features.epoch);
        assert!(Features::parse(["all", "-speed"]).unwrap_err().message().contains("speed"));
    }
}
