//! Which steps of a job are under way, and up to where all are done. Pure.
//!
//! Steps are begun in the order of the walk and end in any order. The window is bounded, so one slow file holds up a job
//! before the list of what is done after it grows without end.

use std::collections::BTreeMap;

use crate::state::{Progress, Stage, StepKey};

/// The most steps between the cursor and the last one begun.
const AHEAD_MAX: usize = 1024;

/// What is known of the steps after the cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Whether each is done.
    steps: BTreeMap<StepKey, bool>,
    cursor: Option<StepKey>,
}

impl Window {
    /// Goes on where the journal says that the job is.
    #[must_use]
    pub fn resume(progress: &Progress) -> Self {
        Self { steps: BTreeMap::new(), cursor: progress.cursor.clone() }
    }

    /// Whether one more step may begin.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.steps.len() < AHEAD_MAX
    }

    /// The walk has come to a step. One that is wholly done already is not to be made again: then this is false.
    pub fn begin(&mut self, key: &StepKey, known: Option<Stage>) -> bool {
        let done = known == Some(Stage::Done);
        self.steps.insert(key.clone(), done);
        self.settle();
        !done
    }

    /// A step has ended.
    pub fn done(&mut self, key: &StepKey) {
        if let Some(done) = self.steps.get_mut(key) {
            *done = true;
            self.settle();
        }
    }

    /// All steps up to this one are done.
    #[must_use]
    pub fn cursor(&self) -> Option<&StepKey> {
        self.cursor.as_ref()
    }

    fn settle(&mut self) {
        while let Some(first) = self.steps.first_entry().filter(|first| *first.get()) {
            self.cursor = Some(first.remove_entry().0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::state::{StepDone, StepKind};

    fn key(number: usize) -> StepKey {
        StepKey(format!("{number:04}").into_bytes())
    }

    #[test]
    fn the_cursor_waits_for_the_slowest_and_the_window_is_bounded() {
        let mut window = Window::default();
        for number in 0..AHEAD_MAX {
            assert!(window.has_room());
            window.begin(&key(number), None);
        }
        (1..AHEAD_MAX).for_each(|number| window.done(&key(number)));
        assert!(!window.has_room() && window.cursor().is_none());
        window.done(&key(0));
        assert!(window.has_room() && window.cursor() == Some(&key(AHEAD_MAX - 1)));
    }

    /// What the job does with the world: how often each step had its effect, and which of them by an entry of its own.
    #[derive(Debug, Default)]
    struct World {
        made: Vec<u32>,
        told: BTreeSet<usize>,
    }

    #[derive(Clone, Debug)]
    enum Event {
        /// The walk goes on by a step.
        Begin,
        /// One of the steps under way ends, and is told to the journal at once (with its effect) or later.
        End(usize, bool),
        /// What was not told is told, with the cursor.
        Tell,
        /// Everything but journal and world is lost.
        Crash,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => Just(Event::Begin),
            8 => (0usize..8, any::<bool>()).prop_map(|(at, atomic)| Event::End(at, atomic)),
            2 => Just(Event::Tell),
            1 => Just(Event::Crash),
        ]
    }

    struct Run {
        window: Window,
        /// The place of the next step of the walk.
        next: usize,
        under_way: Vec<usize>,
        untold: Vec<StepDone>,
    }

    impl Run {
        fn begin(progress: &Progress, steps: usize) -> Self {
            let after = |number: &usize| progress.cursor.as_ref().is_none_or(|cursor| key(*number) > *cursor);
            let next = (0..steps).find(after).unwrap_or(steps);
            Self { window: Window::resume(progress), next, under_way: Vec::new(), untold: Vec::new() }
        }

        fn tell(&mut self, journal: &mut Progress) {
            self.untold.drain(..).for_each(|step| journal.take(&step));
            if let Some(cursor) = self.window.cursor() {
                journal.advance(cursor);
            }
        }

        fn take(&mut self, event: &Event, journal: &mut Progress, world: &mut World, steps: usize) {
            match event {
                Event::Begin if self.next < steps && self.window.has_room() => {
                    let number = self.next;
                    self.next += 1;
                    if self.window.begin(&key(number), journal.stage(&key(number))) {
                        self.under_way.push(number);
                    }
                }
                Event::End(at, atomic) if !self.under_way.is_empty() => {
                    let number = self.under_way.swap_remove(at % self.under_way.len());
                    assert!(!world.told.contains(&number), "{number} was made again");
                    world.made[number] += 1;
                    let step = StepDone {
                        key: key(number),
                        stage: Stage::Done,
                        kind: StepKind::File,
                        bytes: 1,
                        failure: None,
                    };
                    match atomic {
                        true => {
                            world.told.insert(number);
                            journal.take(&step);
                        }
                        false => self.untold.push(step),
                    }
                    self.window.done(&key(number));
                }
                Event::Tell => self.tell(journal),
                Event::Crash => *self = Self::begin(journal, steps),
                Event::Begin | Event::End(..) => {}
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_lost_in_between_every_step_is_made_and_counted_once(
            steps in 0usize..40,
            events in prop::collection::vec(event(), 0..200),
        ) {
            let mut journal = Progress::default();
            let mut world = World { made: vec![0; steps], ..World::default() };
            let mut run = Run::begin(&journal, steps);
            for event in &events {
                run.take(event, &mut journal, &mut world, steps);
                let passed = |number: &usize| journal.cursor.as_ref().is_some_and(|cursor| key(*number) <= *cursor);
                prop_assert!((0..steps).filter(passed).all(|number| world.made[number] > 0), "passed over: {:?}", journal);
            }
            while run.next < steps || !run.under_way.is_empty() {
                run.take(&Event::Begin, &mut journal, &mut world, steps);
                run.take(&Event::End(0, true), &mut journal, &mut world, steps);
            }
            run.tell(&mut journal);
            prop_assert!(world.made.iter().all(|times| *times > 0));
            prop_assert_eq!(journal.files, steps as u64);
            prop_assert_eq!(journal.bytes, steps as u64);
            prop_assert_eq!(journal.cursor, steps.checked_sub(1).map(key));
            prop_assert!(journal.ahead.is_empty());
        }
    }
}
