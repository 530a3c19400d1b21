//! Joining blocks and running them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::block::{Block, Emitter, POLL, Shared, Target, Wire};
use crate::pipeline::metrics::{Counters, GraphReport};
use crate::progress::CancelToken;

type Task<'env> = Box<dyn FnOnce() -> Result<()> + Send + 'env>;
/// Makes a thread's task once the graph is complete: only then is it known where its output goes.
type Prepare<'env> = Box<dyn FnOnce() -> Task<'env> + 'env>;

/// Blocks and the channels between them. Built first, then [`run`](Self::run) once.
///
/// Blocks may borrow from their surroundings (`'env`): all threads end before `run` returns.
pub struct Graph<'env> {
    name: String,
    shared: Arc<Shared>,
    threads: Vec<(String, Prepare<'env>)>,
    blocks: Vec<(String, usize, Arc<Counters>)>,
    open_ports: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Graph<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("name", &self.name).field("blocks", &self.blocks.len()).finish_non_exhaustive()
    }
}

/// The output of a block, to be connected to exactly one next block. [`split`](Self::split) it to feed two.
pub struct Port<T> {
    wire: Arc<Mutex<Wire<T>>>,
    receiver: Receiver<T>,
    queue: usize,
    open_ports: Arc<AtomicUsize>,
}

impl<T> std::fmt::Debug for Port<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl<T: Clone> Port<T> {
    /// Two ports that both get every item (a clone; share large data by `Arc`).
    #[must_use]
    pub fn split(self) -> (Self, Self) {
        let (sender, receiver) = bounded(self.queue);
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        wire.senders.push(sender);
        wire.clone = Some(T::clone);
        drop(wire);
        self.open_ports.fetch_add(1, Ordering::Relaxed);
        let second = Self { wire: self.wire.clone(), receiver, queue: self.queue, open_ports: self.open_ports.clone() };
        (self, second)
    }
}

impl<'env> Graph<'env> {
    /// An empty graph that stops when `cancel` is cancelled.
    pub fn new(name: &str, cancel: &CancelToken) -> Self {
        Self {
            name: name.to_owned(),
            shared: Arc::new(Shared::new(cancel.clone())),
            threads: Vec::new(),
            blocks: Vec::new(),
            open_ports: Arc::default(),
        }
    }

    /// Adds a block without input: its `work` is called once and emits everything. Up to `queue` items may wait at
    /// its output.
    pub fn source<B>(&mut self, name: &str, queue: usize, block: B) -> Port<B::Out>
    where
        B: Block<In = ()> + 'env,
        B::Out: 'env,
    {
        let (port, wire) = self.new_port(queue);
        let counters = self.register(name, 1);
        let shared = self.shared.clone();
        let mut block = block;
        self.prepare(name, move || {
            let wire = take_wire(&wire);
            Box::new(move || {
                let mut out =
                    Emitter { target: Target::Wire(&wire), shared: &shared, counters: &counters, count_sent: true };
                timed(&counters, || {
                    block.init()?;
                    block.work((), &mut out)?;
                    block.finish(&mut out)
                })
            })
        });
        port
    }

    /// Adds a block with `workers` threads, each with a block made by `make`.
    pub fn stage<B>(
        &mut self,
        name: &str,
        workers: usize,
        queue: usize,
        input: Port<B::In>,
        mut make: impl FnMut() -> B,
    ) -> Port<B::Out>
    where
        B: Block + 'env,
        B::In: 'env,
        B::Out: 'env,
    {
        let (port, wire) = self.new_port(queue);
        let counters = self.register(name, workers);
        let receiver = connect(input);
        let workers = workers.max(1);
        for worker in 0..workers {
            let (mut block, wire, counters) = (make(), wire.clone(), counters.clone());
            let (receiver, shared) = (receiver.clone(), self.shared.clone());
            self.prepare(name, move || {
                // The last worker takes the senders: only the threads may hold any, or the next block would wait for ever.
                let wire = if worker + 1 == workers { take_wire(&wire) } else { copy_wire(&wire) };
                Box::new(move || {
                    let target = Target::Wire(&wire);
                    let mut out = Emitter { target, shared: &shared, counters: &counters, count_sent: false };
                    timed(&counters, || work_off(&mut block, &receiver, &mut out))
                })
            });
        }
        port
    }

    /// Adds a block at the end of the line: one thread, no output.
    pub fn sink<B>(&mut self, name: &str, input: Port<B::In>, block: B)
    where
        B: Block<Out = ()> + 'env,
        B::In: 'env,
    {
        let counters = self.register(name, 1);
        let (receiver, shared) = (connect(input), self.shared.clone());
        let mut block = block;
        self.prepare(name, move || {
            Box::new(move || {
                let wire = Wire { senders: Vec::new(), clone: None };
                let target = Target::Wire(&wire);
                let mut out = Emitter { target, shared: &shared, counters: &counters, count_sent: false };
                timed(&counters, || work_off(&mut block, &receiver, &mut out))
            })
        });
    }

    /// Runs all blocks until the sources are exhausted and everything has flowed through.
    ///
    /// # Errors
    /// The first failure of any block, with the block's name ([`ErrorKind::Block`], [`ErrorKind::Panic`]);
    /// [`ErrorKind::Interrupted`] when cancelled; [`ErrorKind::Bug`] when a port leads nowhere.
    pub fn run(self) -> Result<GraphReport> {
        let open = self.open_ports.load(Ordering::Relaxed);
        if open > 0 {
            return Err(Error::bug(format!("graph `{}` has {open} output(s) that lead nowhere", self.name)));
        }
        let start = Instant::now();
        let shared = &self.shared;
        let tasks: Vec<_> = self.threads.into_iter().map(|(name, prepare)| (name, prepare())).collect();
        std::thread::scope(|scope| {
            // Who takes begins before who gives: a new thread needs the process's memory map for itself, and waits long for
            // it once readers fill new buffers.
            for (name, task) in tasks.into_iter().rev() {
                let guarded = move || run_guarded(shared, &name, task);
                if let Err(refused) = std::thread::Builder::new().spawn_scoped(scope, guarded) {
                    shared.fail(Error::bug(format!("the system refused a thread: {refused}")));
                    break;
                }
            }
        });
        let failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = failure {
            return Err(error);
        }
        self.shared.cancel.check()?;
        Ok(GraphReport {
            name: self.name,
            seconds: start.elapsed().as_secs_f64(),
            blocks: self.blocks.iter().map(|(name, workers, counters)| counters.report(name, *workers)).collect(),
        })
    }

    fn new_port<T>(&mut self, queue: usize) -> (Port<T>, Arc<Mutex<Wire<T>>>) {
        let queue = queue.max(1);
        let (sender, receiver) = bounded(queue);
        let wire = Arc::new(Mutex::new(Wire { senders: vec![sender], clone: None }));
        self.open_ports.fetch_add(1, Ordering::Relaxed);
        (Port { wire: wire.clone(), receiver, queue, open_ports: self.open_ports.clone() }, wire)
    }

    fn register(&mut self, name: &str, workers: usize) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.blocks.push((name.to_owned(), workers.max(1), counters.clone()));
        counters
    }

    fn prepare(&mut self, name: &str, prepare: impl FnOnce() -> Task<'env> + 'env) {
        self.threads.push((name.to_owned(), Box::new(prepare)));
    }
}

fn connect<T>(port: Port<T>) -> Receiver<T> {
    port.open_ports.fetch_sub(1, Ordering::Relaxed);
    port.receiver
}

/// Takes the senders out, so that they are dropped with the thread that uses them.
fn take_wire<T>(wire: &Mutex<Wire<T>>) -> Wire<T> {
    let mut wire = wire.lock().unwrap_or_else(PoisonError::into_inner);
    Wire { senders: std::mem::take(&mut wire.senders), clone: wire.clone }
}

fn copy_wire<T>(wire: &Mutex<Wire<T>>) -> Wire<T> {
    let wire = wire.lock().unwrap_or_else(PoisonError::into_inner);
    Wire { senders: wire.senders.clone(), clone: wire.clone }
}

fn timed(counters: &Counters, task: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let result = task();
    Counters::add(&counters.total_ns, start.elapsed());
    result
}

/// Takes items until the channel is empty and closed.
fn work_off<B: Block>(block: &mut B, receiver: &Receiver<B::In>, out: &mut Emitter<'_, B::Out>) -> Result<()> {
    block.init()?;
    while let Some(item) = receive(receiver, out)? {
        out.counters.items.fetch_add(1, Ordering::Relaxed);
        block.work(item, out)?;
    }
    block.finish(out)
}

fn receive<T, U>(receiver: &Receiver<T>, out: &Emitter<'_, U>) -> Result<Option<T>> {
    out.check()?;
    match receiver.try_recv() {
        Ok(item) => return Ok(Some(item)),
        Err(TryRecvError::Disconnected) => return Ok(None),
        Err(TryRecvError::Empty) => {}
    }
    let start = Instant::now();
    let result = loop {
        match receiver.recv_timeout(POLL) {
            Ok(item) => break Ok(Some(item)),
            Err(RecvTimeoutError::Disconnected) => break Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Err(stopped) = out.check() {
            break Err(stopped);
        }
    };
    Counters::add(&out.counters.starved_ns, start.elapsed());
    // A block that ended because the graph is stopping closes its channel too; that is not the end of the data.
    out.check()?;
    result
}

/// Runs one thread's task and turns an error or a panic into the graph's failure.
fn run_guarded(shared: &Shared, name: &str, task: Task<'_>) {
    let failure = match catch_unwind(AssertUnwindSafe(task)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) if error.is_interrupted() => error,
        Ok(Err(source)) => Error::new(ErrorKind::Block { block: name.to_owned(), source }),
        Err(panic) => {
            let message = panic_message(panic.as_ref());
            Error::new(ErrorKind::Panic { block: name.to_owned(), message })
        }
    };
    shared.fail(failure);
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
