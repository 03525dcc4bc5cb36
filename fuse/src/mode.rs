//! Whether the handles of a node are passed through to a cache file by the kernel, or served by us.
//!
//! Pure. The kernel holds a node to one of the two from its first handle to its last: all handles that are passed through use
//! one backing id, and a handle that is not makes every one that is fail with EIO, and the other way round. So the first
//! handle decides, and every later one follows. What is written beside handles that are passed through must go to the very
//! file that they read; where that cannot be had, the open is answered ESTALE once, and goes on at another node.

/// What a program wants to do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Access {
    /// Of the flags of `open`.
    pub(crate) fn of(flags: i32) -> Self {
        match flags & libc::O_ACCMODE {
            libc::O_RDONLY => Access::Read,
            libc::O_WRONLY => Access::Write,
            _ => Access::ReadWrite,
        }
    }

    pub(crate) fn writes(self) -> bool {
        self != Access::Read
    }
}

/// What could be done for an open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// All of the content is in one local cache file, and the kernel can be given it.
    pub(crate) whole: bool,
    /// That file is taken over: what is written goes into it.
    pub(crate) in_place: bool,
    /// A sole writer may be passed through: nothing needs to see its writes.
    pub(crate) unseen: bool,
}

/// How an open is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The kernel reads and writes the cache file itself.
    Through,
    /// Reads and writes come to us, beside handles that are passed through.
    Beside,
    /// Reads and writes come to us.
    Plain,
    /// ESTALE: the writer goes on at a new node, with a copy.
    Elsewhere,
}

/// What is open of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Idle,
    /// So many handles, with one backing id.
    Through(u32),
    /// So many handles, with none.
    Plain(u32),
}

impl Mode {
    /// How an open is answered, by what is open.
    pub(crate) fn decide(self, access: Access, offer: Offer) -> Way {
        match (self, access) {
            (Mode::Plain(_), _) => Way::Plain,
            (Mode::Through(_), Access::Read) => Way::Through,
            (Mode::Through(_), _) if !offer.in_place => Way::Elsewhere,
            (Mode::Through(_), Access::Write) => Way::Through,
            (Mode::Through(_), Access::ReadWrite) => Way::Beside,
            (Mode::Idle, Access::Read) if offer.whole => Way::Through,
            (Mode::Idle, Access::Write) if offer.whole && offer.in_place && offer.unseen => Way::Through,
            (Mode::Idle, _) => Way::Plain,
        }
    }

    /// A handle is opened in this way, which was decided for this mode.
    pub(crate) fn open(&mut self, way: Way) {
        *self = match (*self, way) {
            (mode, Way::Elsewhere) => mode,
            (Mode::Through(handles), _) => Mode::Through(handles + 1),
            (Mode::Plain(handles), _) => Mode::Plain(handles + 1),
            (Mode::Idle, Way::Plain) => Mode::Plain(1),
            (Mode::Idle, Way::Through | Way::Beside) => Mode::Through(1),
        };
    }

    /// A handle is released.
    pub(crate) fn close(&mut self) {
        *self = match *self {
            Mode::Through(handles) if handles > 1 => Mode::Through(handles - 1),
            Mode::Plain(handles) if handles > 1 => Mode::Plain(handles - 1),
            _ => Mode::Idle,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel does with the answer to an open (seen on Linux 6.18).
    #[derive(Default)]
    struct Kernel {
        handles: Vec<(bool, Access)>,
        id: Option<u32>,
    }

    impl Kernel {
        /// `id`: the backing id of the answer. `Err` is EIO.
        fn open(&mut self, access: Access, id: Option<u32>) -> Result<(), &'static str> {
            match (id, self.id, self.handles.is_empty()) {
                (Some(_), None, false) => return Err("passed through beside a handle that is not"),
                (None, Some(_), false) => return Err("not passed through beside a handle that is"),
                (Some(id), Some(other), false) if id != other => return Err("another backing id"),
                _ => {}
            }
            self.id = id;
            self.handles.push((id.is_some(), access));
            Ok(())
        }

        fn close(&mut self, at: usize) {
            self.handles.swap_remove(at);
            if self.handles.is_empty() {
                self.id = None;
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open(Access, Offer),
        Close(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::ReadWrite)];
        let offer = any::<(bool, bool, bool)>().prop_map(|(whole, in_place, unseen)| Offer { whole, in_place, unseen });
        prop_oneof![
            3 => (access, offer).prop_map(|(access, offer)| Step::Open(access, offer)),
            2 => any::<usize>().prop_map(Step::Close),
        ]
    }

    proptest! {
        #[test]
        fn the_kernel_never_answers_eio(steps in proptest::collection::vec(step(), 0..60)) {
            let (mut mode, mut kernel, mut fresh) = (Mode::Idle, Kernel::default(), 0);
            for step in steps {
                match step {
                    Step::Open(access, offer) => {
                        if mode == Mode::Idle {
                            fresh += 1;
                        }
                        let way = mode.decide(access, offer);
                        let was_whole = offer.whole || mode != Mode::Idle;
                        prop_assert!(way != Way::Through || was_whole, "passed through what is not whole");
                        if way == Way::Elsewhere {
                            prop_assert!(access.writes(), "a reader can always stay");
                            continue;
                        }
                        let id = (way != Way::Plain).then_some(fresh);
                        let taken = kernel.open(access, id);
                        prop_assert!(taken.is_ok(), "{:?}", taken);
                        let beside_reader = kernel.handles.len() > 1 && id.is_some() && access.writes();
                        prop_assert!(!beside_reader || offer.in_place, "readers would not see what is written");
                        mode.open(way);
                    }
                    Step::Close(at) if !kernel.handles.is_empty() => {
                        kernel.close(at % kernel.handles.len());
                        mode.close();
                    }
                    Step::Close(_) => {}
                }
                let open = match mode { Mode::Idle => 0, Mode::Through(n) | Mode::Plain(n) => n as usize };
                prop_assert_eq!(open, kernel.handles.len());
            }
        }
    }

    #[test]
    fn each_row_of_the_table() {
        let whole = Offer { whole: true, ..Offer::default() };
        let taken = Offer { whole: true, in_place: true, unseen: false };
        let sole = Offer { unseen: true, ..taken };
        assert_eq!(Mode::Idle.decide(Access::Read, whole), Way::Through);
        assert_eq!(Mode::Idle.decide(Access::Read, Offer::default()), Way::Plain);
        assert_eq!(Mode::Idle.decide(Access::Write, sole), Way::Through);
        assert_eq!(Mode::Idle.decide(Access::Write, taken), Way::Plain, "its writes must be seen");
        assert_eq!(Mode::Idle.decide(Access::ReadWrite, sole), Way::Plain);
        assert_eq!(Mode::Plain(1).decide(Access::Read, sole), Way::Plain);
        assert_eq!(Mode::Through(1).decide(Access::Read, Offer::default()), Way::Through);
        assert_eq!(Mode::Through(2).decide(Access::ReadWrite, taken), Way::Beside);
        assert_eq!(Mode::Through(2).decide(Access::Write, taken), Way::Through);
        assert_eq!(Mode::Through(2).decide(Access::Write, whole), Way::Elsewhere);
    }
}
