//! Small things that wait for the disk, done beside the rest.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::graph::panic_message;

/// The name of the thread, in errors and debuggers.
const NAME: &str = "keep";

type Task<S> = Box<dyn FnOnce(&S) -> Result<()> + Send>;

/// A queue of tasks on one subject, worked through in order by a thread of its own.
///
/// Bringing a small file to the disk takes a wait of a fraction of a millisecond, or of many where the disk turns; a run
/// brings dozens of them there. Who makes such results hands them over with [`later`](Self::later) and goes on.
pub struct Beside<S> {
    tasks: Sender<Task<S>>,
    failures: Receiver<Error>,
}

impl<S> std::fmt::Debug for Beside<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beside").field("waiting", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl<S: Sync> Beside<S> {
    /// Runs `body`, which may hand over tasks; returns when all of them are done, whatever comes of `body`. After a task
    /// that failed, no other one is begun.
    ///
    /// # Errors
    /// That of `body`; else that of the first task that failed, [`Panic`](ErrorKind::Panic) for one that panicked;
    /// [`Bug`](ErrorKind::Bug) when the system refuses a thread.
    pub fn run<R>(subject: &S, body: impl FnOnce(&Self) -> Result<R>) -> Result<R> {
        let (tasks, queue) = unbounded();
        let (fail, failures) = bounded(1);
        thread::scope(|scope| {
            thread::Builder::new()
                .name(NAME.to_owned())
                .spawn_scoped(scope, move || work(subject, &queue, &fail))
                .map_err(|e| Error::bug(format!("cannot start a thread: {e}")))?;
            let beside = Self { tasks, failures };
            let made = body(&beside);
            let settled = beside.settle();
            made.and_then(|made| settled.map(|()| made))
        })
    }

    /// Hands over a task.
    pub fn later(&self, task: impl FnOnce(&S) -> Result<()> + Send + 'static) {
        // The thread lives as long as this.
        let _ = self.tasks.send(Box::new(task));
    }

    /// Waits until all tasks that were handed over are done.
    ///
    /// # Errors
    /// That of the first task that failed, unless it was returned before.
    pub fn settle(&self) -> Result<()> {
        let (done, wait) = bounded(1);
        self.later(move |_| {
            let _ = done.send(());
            Ok(())
        });
        // No answer when the task was thrown away after another one had failed.
        let _ = wait.recv();
        self.failures.try_recv().map_or(Ok(()), Err)
    }
}

fn work<S>(subject: &S, queue: &Receiver<Task<S>>, fail: &Sender<Error>) {
    let mut failed = false;
    for task in queue {
        if failed {
            continue;
        }
        let result = catch_unwind(AssertUnwindSafe(|| task(subject))).unwrap_or_else(|panic| Err(panicked(&*panic)));
        if let Err(error) = result {
            failed = true;
            let _ = fail.send(error);
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    Error::new(ErrorKind::Panic { block: NAME.to_owned(), message: panic_message(panic) })
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    fn push(number: i32) -> impl FnOnce(&Mutex<Vec<i32>>) -> Result<()> + Send {
        move |list: &Mutex<Vec<i32>>| {
            list.lock().unwrap_or_else(PoisonError::into_inner).push(number);
            Ok(())
        }
    }

    fn done(list: Mutex<Vec<i32>>) -> Vec<i32> {
        list.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn tasks_are_done_in_order_before_the_end_and_before_they_are_waited_for() {
        let list = Mutex::new(Vec::new());
        let made = Beside::run(&list, |beside| {
            (0..100).for_each(|number| beside.later(push(number)));
            beside.settle()?;
            let so_far = list.lock().unwrap_or_else(PoisonError::into_inner).len();
            beside.later(push(100));
            Ok(so_far)
        });
        assert_eq!((made.expect("no failure"), done(list)), (100, (0..=100).collect()));
    }

    #[test]
    fn what_was_handed_over_is_done_although_the_rest_failed() {
        let list = Mutex::new(Vec::new());
        let made: Result<()> = Beside::run(&list, |beside| {
            beside.later(push(1));
            Err(Error::config("of the rest"))
        });
        assert_eq!((made.map_err(|e| e.exit_code()), done(list)), (Err(2), vec![1]));
    }

    #[test]
    fn after_a_failure_or_a_panic_nothing_more_is_done() {
        for panics in [false, true] {
            let list = Mutex::new(Vec::new());
            let made = Beside::run(&list, |beside| {
                beside.later(push(1));
                beside.later(move |_| if panics { panic!("a bug") } else { Err(Error::unresolved("of a task")) });
                beside.later(push(2));
                let early = beside.settle().expect_err("a task failed").to_string();
                beside.later(push(3));
                Ok(early)
            });
            let expected = if panics { "a bug" } else { "of a task" };
            let text = made.expect("the failure was returned before");
            assert!(text.contains(expected), "{text}");
            assert_eq!(done(list), [1]);
            let made = Beside::run(&(), |beside| {
                beside.later(move |()| if panics { panic!("a bug") } else { Err(Error::unresolved("of a task")) });
                Ok(())
            });
            assert!(made.expect_err("at the end").to_string().contains(expected));
        }
    }
}
