use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::*;
use crate::memory::{BLOCK, MemoryBudget};
use crate::pipeline::Pool;

/// Emits 0, 1, 2 …
struct Count(u64);

impl Block for Count {
    type In = ();
    type Out = u64;
    fn work(&mut self, (): (), out: &mut Emitter<'_, u64>) -> Result<()> {
        (0..self.0).try_for_each(|i| out.send(i))
    }
}

/// Applies a function to every number.
struct Map<F>(F);

impl<F: FnMut(u64) -> Result<u64> + Send> Block for Map<F> {
    type In = u64;
    type Out = u64;
    fn work(&mut self, item: u64, out: &mut Emitter<'_, u64>) -> Result<()> {
        out.count_bytes(8);
        out.send((self.0)(item)?)
    }
}

/// Adds everything up.
struct Sum<'a>(&'a AtomicU64);

impl Block for Sum<'_> {
    type In = u64;
    type Out = ();
    fn work(&mut self, item: u64, _: &mut Emitter<'_, ()>) -> Result<()> {
        self.0.fetch_add(item, Ordering::Relaxed);
        Ok(())
    }
}

fn with_stage(cancel: &CancelToken, stage: impl Fn(u64) -> Result<u64> + Send + Sync) -> (Result<GraphReport>, u64) {
    let sum = AtomicU64::new(0);
    let mut graph = Graph::new("test", cancel);
    let numbers = graph.source("count", 2, Count(100));
    let mapped = graph.stage("map", 3, 2, numbers, || Map(&stage));
    graph.sink("sum", mapped, Sum(&sum));
    let report = graph.run();
    (report, sum.into_inner())
}

#[test]
fn everything_flows_through_and_is_measured() {
    let (report, sum) = with_stage(&CancelToken::new(), |i| Ok(2 * i));
    let report = report.expect("runs");
    assert_eq!(sum, 2 * (0..100).sum::<u64>());
    let map = &report.blocks[1];
    assert_eq!((map.name.as_str(), map.workers, map.items, map.bytes), ("map", 3, 100, 800));
    assert_eq!(report.blocks.iter().map(|b| b.items).collect::<Vec<_>>(), [100, 100, 100]);
}

#[test]
fn an_error_stops_the_graph_and_names_the_block() {
    let (report, _) =
        with_stage(&CancelToken::new(), |i| if i == 17 { Err(Error::config("seventeen")) } else { Ok(i) });
    let error = report.expect_err("fails");
    assert_eq!((error.to_string().as_str(), error.exit_code()), ("in block `map`: seventeen", 2));
}

#[test]
fn a_panic_becomes_an_error_that_names_the_block() {
    let (report, _) = with_stage(&CancelToken::new(), |i| if i == 17 { panic!("at {i}") } else { Ok(i) });
    let error = report.expect_err("fails");
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("`map`") && error.to_string().contains("at 17"), "{error}");
}

#[test]
fn cancelling_ends_a_graph_that_waits_within_a_second() {
    let cancel = CancelToken::new();
    let (token, start) = (cancel.clone(), Instant::now());
    let (report, _) = with_stage(&cancel, move |i| {
        if i == 3 {
            token.cancel();
        }
        std::thread::sleep(Duration::from_millis(10));
        Ok(i)
    });
    assert!(report.expect_err("cancelled").is_interrupted());
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_split_port_feeds_both_sides() {
    let (left, right) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut graph = Graph::new("split", &CancelToken::new());
    let (a, b) = graph.source("count", 1, Count(50)).split();
    graph.sink("left", a, Sum(&left));
    graph.sink("right", b, Sum(&right));
    graph.run().expect("runs");
    assert_eq!((left.into_inner(), right.into_inner()), (1225, 1225));
}

#[test]
fn a_port_that_leads_nowhere_is_refused() {
    let mut graph = Graph::new("open", &CancelToken::new());
    let _open = graph.source("count", 1, Count(1));
    assert!(graph.run().expect_err("open port").to_string().contains("nowhere"));
}

#[test]
fn buffers_run_out_and_come_back() {
    struct Fill(Pool);
    impl Block for Fill {
        type In = ();
        type Out = crate::pipeline::Pooled;
        fn work(&mut self, (): (), out: &mut Emitter<'_, Self::Out>) -> Result<()> {
            for i in 0..20 {
                let mut buffer = out.take(&self.0)?;
                buffer[0] = i;
                out.send(buffer)?;
            }
            Ok(())
        }
    }
    struct Slow;
    impl Block for Slow {
        type In = crate::pipeline::Pooled;
        type Out = u64;
        fn work(&mut self, item: Self::In, out: &mut Emitter<'_, u64>) -> Result<()> {
            std::thread::sleep(Duration::from_millis(2));
            out.send(u64::from(item[0]))
        }
    }
    let bytes = 2 * BLOCK as u64;
    let budget = MemoryBudget::new(bytes);
    let sum = AtomicU64::new(0);
    let mut graph = Graph::new("pool", &CancelToken::new());
    let pool = Pool::new(&budget, "test", 2, 32).expect("fits");
    let buffers = graph.source("fill", 8, Fill(pool));
    let numbers = graph.stage("slow", 1, 1, buffers, || Slow);
    graph.sink("sum", numbers, Sum(&sum));
    let report = graph.run().expect("runs");
    assert_eq!(sum.into_inner(), 190);
    assert!(report.blocks[0].blocked_seconds > 0.01, "the source had to wait for buffers");
    assert_eq!(budget.peak(), bytes);
}

#[test]
fn the_cause_is_reported_and_not_the_stop_that_follows_from_it() {
    // A block before the failing one may notice the closed channel, and stop, before the failure itself is known.
    let shared = Shared::new(CancelToken::new());
    shared.fail(Error::interrupted());
    shared.fail(Error::config("the cause"));
    shared.fail(Error::config("a consequence"));
    shared.fail(Error::interrupted());
    let kept = shared.failure.lock().expect("no panic").take().expect("a failure");
    assert_eq!(kept.to_string(), "the cause");
}
