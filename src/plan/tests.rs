use super::*;
use crate::config::Config;
use crate::machine::{FinishRates, MachineRates, StepRates};

fn request(overrides: &PlanConfig) -> Request<'_> {
    Request {
        scan: ScanShape::new(256, 256),
        det: DetShape::new(64, 64),
        dtype: DType::U16,
        crop: DetShape::new(64, 64),
        frame_bytes: 64 * 64 * 2,
        natural_frames: 1,
        frames_in_line: true,
        held_bytes: 0,
        mode: Mode::Documented,
        precision: Precision::F64,
        upscale: 4,
        half_sets: false,
        images: 2,
        fit_bytes: 0,
        memory: 8 << 30,
        workers: 2,
        exports: Exports { hdf5: true, ..Exports::default() },
        around: Around::default(),
        fixed_layout: None,
        counts: None,
        stored_stack: None,
        overrides,
    }
}

#[test]
fn sizes_are_those_of_the_method() {
    let none = PlanConfig::default();
    let disk = Plan::make(&request(&none)).expect("fits").disk_cost;
    assert_eq!(disk.bigft, 4_294_967_296, "complex128 for 256×256 × 64×64");
    assert_eq!(disk.correlations, 2_147_483_648, "float64");
    assert_eq!(disk.stack, 536_870_912, "uint16");
    assert_eq!(disk.hdf5, 6_442_450_944);
    let lean = Plan::make(&Request { mode: Mode::Lean, ..request(&none) }).expect("fits");
    assert_eq!((lean.disk_cost.bigft, lean.disk_cost.hdf5), (0, 0));
}

#[test]
fn less_memory_first_costs_comfort_then_the_stack_and_is_refused_with_the_smallest_budget() {
    let none = PlanConfig::default();
    let with = |memory: u64| Plan::make(&Request { memory, ..request(&none) });
    assert!(with(8 << 30).expect("fits").in_memory);
    let tight = with(400 << 20).expect("fits out of core");
    assert!(!tight.in_memory && tight.memory_cost.peak() <= 400 << 20);
    let error = with(1 << 20).expect_err("too small");
    let ErrorKind::Memory { needed, .. } = *error.kind() else { panic!("{error}") };
    assert_eq!(error.exit_code(), 5);
    let smallest = needed.div_ceil(1 << 20) << 20;
    assert!(with(smallest).is_ok(), "the budget that the error names must work");
    assert!(with(needed - 1).is_err(), "and less must not");
}

#[test]
fn slabs_leave_the_page_cache_to_a_stack_that_fits_there_and_are_long_otherwise() {
    let none = PlanConfig { in_memory: Some(false), ..PlanConfig::default() };
    // 2 GiB of stack.
    let with = |memory: u64| {
        let scan = ScanShape::new(512, 512);
        Plan::make(&Request { memory, scan, mode: Mode::Lean, ..request(&none) }).expect("fits out of core")
    };
    let bytes = |plan: &Plan| (plan.slab_rows * 512 * 64 * 64 * 2) as u64;
    let (fits, larger) = (with(2 << 30), with((2 << 30) - 1));
    assert!(bytes(&fits) <= 64 << 20 && fits.slab_buffers as u64 * bytes(&fits) <= 256 << 20, "{fits:?}");
    // As near to 64 KiB of each pixel as equal slabs allow.
    assert!(bytes(&larger) > 200 << 20, "{larger:?}");
}

#[test]
fn the_budget_that_the_hint_names_works_also_beyond_a_gibibyte() {
    // In memory or nothing, with scans of many sizes: the needs are no round numbers of GiB.
    let overrides = PlanConfig { in_memory: Some(true), ..PlanConfig::default() };
    for rows in [540, 601, 655, 777, 811, 1003] {
        let with = |memory: u64| {
            Plan::make(&Request { memory, scan: ScanShape::new(rows, 256), mode: Mode::Lean, ..request(&overrides) })
        };
        let error = with(1 << 20).expect_err("too small");
        let hint = error.hint().unwrap_or_default().to_owned();
        let named: crate::memory::ByteSize = hint.split('"').nth(1).unwrap_or_default().parse().expect("a size");
        assert!(named.0 > 1 << 30, "{hint}");
        assert!(with(named.0).is_ok(), "{hint}");
    }
}

#[expect(clippy::unnecessary_wraps, reason = "folders of a request are optional")]
fn folder(path: &str, device: u64, free: u64) -> Option<Folder> {
    Some(Folder { path: path.into(), device, free })
}

#[test]
fn a_disk_that_is_too_small_is_refused_before_anything_is_written() {
    let none = PlanConfig::default();
    let with = |cache, existing, export| {
        let folders = Folders { cache, existing, export, export_existing: 0 };
        Plan::make(&Request { around: Around { folders, ..Around::default() }, ..request(&none) })
    };
    let (gib, cost) = (1 << 30, with(None, 0, None).expect("nothing is known").disk_cost);
    let message = |result: Result<Plan>| {
        let error = result.expect_err("too small");
        assert_eq!(error.exit_code(), 5);
        format!("{error}; {}", error.hint().unwrap_or_default())
    };
    let text = message(with(folder("/c", 1, gib), 0, folder("/e", 2, 100 * gib)));
    assert!(text.contains("/c") && text.contains("6.5 GiB") && text.contains("1 GiB"), "{text}");
    assert!(text.contains("cache.folder="), "{text}");
    // The HDF5 cache and the results lie on a disk of their own.
    let text = message(with(folder("/c", 1, 100 * gib), 0, folder("/e", 2, gib)));
    assert!(text.contains("/e") && text.contains("6 GiB for the HDF5 cache"), "{text}");
    // Each has room, but both together have not.
    let text = message(with(folder("/c", 1, 7 * gib), 0, folder("/e", 1, 7 * gib)));
    assert!(text.contains("--out FOLDER") && text.contains("12.5 GiB"), "{text}");
    assert!(with(folder("/c", 1, 7 * gib), 0, folder("/e", 2, 7 * gib)).is_ok());
    // What is not kept anyway need not be given up.
    for (mode, hdf5, less) in [
        (Mode::Documented, true, "`--lean` or `--set export.hdf5=false`"),
        (Mode::Documented, false, "keep less with `--lean`"),
        (Mode::Lean, true, "keep less with a smaller `disk.crop_radius`"),
    ] {
        let folders = Folders { cache: folder("/c", 1, 1), ..Folders::default() };
        let exports = Exports { hdf5: hdf5 && mode == Mode::Documented, ..Exports::default() };
        let around = Around { folders, ..Around::default() };
        let text = message(Plan::make(&Request { mode, exports, around, ..request(&none) }));
        assert!(text.ends_with(less), "{text}");
    }
    let rest = cost.total() - gib;
    assert!(with(folder("/c", 1, rest), gib, folder("/e", 1, rest)).is_ok(), "what exists is written over");
    assert!(with(folder("/c", 1, rest), 0, folder("/e", 1, rest)).is_err());
}

fn explained<'p>(plan: &'p Plan, choice: &str) -> &'p Choice {
    plan.explain.iter().find(|c| c.choice == choice).unwrap_or_else(|| panic!("no {choice} in {:?}", plan.explain))
}

#[test]
fn every_choice_says_which_limit_decided_it() {
    let none = PlanConfig::default();
    let roomy = Plan::make(&request(&none)).expect("fits");
    for choice in &roomy.explain {
        let limit = choice.because.split(':').next().unwrap_or_default();
        assert!(
            ["default", "your key", "budget", "disk", "source", "run.workers, or one per processor"].contains(&limit),
            "{choice:?}"
        );
        assert!(Config::documented_defaults().contains(choice.key.split('.').next_back().unwrap_or("?")), "{choice:?}");
    }
    let tight = Plan::make(&Request { memory: 100 << 20, ..request(&none) }).expect("fits");
    for name in ["stack", "tile"] {
        let because = &explained(&tight, name).because;
        assert!(because.starts_with("budget: ") && because.contains("100 MiB"), "{name}: {because}");
    }
    let keys = PlanConfig { tile_rows: Some(2), queue: Some(5), turn_workers: Some(1), ..PlanConfig::default() };
    let user = Plan::make(&request(&keys)).expect("fits");
    for name in ["tile", "queue", "turn_workers"] {
        assert_eq!(explained(&user, name).because, "your key", "{name}");
    }
    assert_eq!((user.queue, user.turn_workers, explained(&user, "queue").value.as_str()), (5, 1, "5"));
    let resumed = Plan::make(&Request { fixed_layout: Some((8, 2, 64)), ..request(&none) }).expect("fits");
    assert!(explained(&resumed, "tile").because.starts_with("existing cache"));
    assert!(explained(&resumed, "slab_rows").because.starts_with("existing cache"));
    let around = Around {
        budget: BudgetFrom::Group { free: 16 << 30 },
        group_window: Some(9 << 20),
        network: Some("NFS"),
        ..Around::default()
    };
    let cluster = Plan::make(&Request { around, ..request(&none) }).expect("fits");
    assert!(!cluster.mapped && cluster.write_window == Some(9 << 20));
    assert!(explained(&cluster, "access").because.contains("NFS"));
    assert!(explained(&cluster, "memory").because.starts_with("control group: half of the 16 GiB"));
    assert!(explained(&cluster, "write_window").because.starts_with("control group"));
}

#[test]
fn counts_are_kept_in_fewer_bits_where_a_second_look_is_cheap_or_the_user_says_so() {
    let with_source = |source_cached, free: u64, most: i64, narrow_stack: Option<bool>| {
        let overrides = PlanConfig { narrow_stack, ..PlanConfig::default() };
        let around = Around { source_cached, free_memory: Some(free), ..Around::default() };
        let counts = Some(CountRange { least: 0, most });
        Plan::make(&Request { around, counts, ..request(&overrides) }).expect("fits")
    };
    let with = |free, most, narrow_stack| with_source(None, free, most, narrow_stack);
    let (plenty, little) = (64 << 30, 1 << 30);
    let wide = with(plenty, 40, Some(false));
    assert_eq!((wide.stack_type, wide.disk_cost.stack), (DType::U16, 536_870_912));
    let narrow = with(plenty, 40, None);
    assert_eq!((narrow.stack_type, narrow.disk_cost.stack), (DType::U8, 268_435_456));
    assert_eq!(narrow.most_cache, wide.disk_cost.cache(), "the other half may still be needed");
    assert!(narrow.memory_cost.peak() < wide.memory_cost.peak());
    assert_eq!((narrow.slab_rows, narrow.read_frames), (wide.slab_rows, wide.read_frames));
    assert_eq!(with(plenty, 200, None).stack_type, DType::U16, "no margin for frames that were not looked at");
    assert_eq!(with(little, 40, None).stack_type, DType::U16, "the disk would be read twice");
    assert_eq!(with(little, 40, Some(true)).stack_type, DType::U8);
    let read_past = with_source(Some(false), plenty, 40, None);
    assert_eq!((read_past.reads, read_past.stack_type), (Reads::Direct, DType::U16), "and so it would here");
    assert_eq!(with_source(Some(true), plenty, 40, None).stack_type, DType::U8);
    let resumed = |stored| {
        let none = PlanConfig::default();
        let around = Around { free_memory: Some(plenty), ..Around::default() };
        let counts = Some(CountRange { least: 0, most: 40 });
        Plan::make(&Request { around, counts, stored_stack: Some(stored), ..request(&none) }).expect("fits").stack_type
    };
    assert_eq!([resumed(DType::U8), resumed(DType::U16)], [DType::U8, DType::U16], "what is there is used");
}

#[test]
fn times_follow_from_the_rates_and_what_was_not_measured_is_named() {
    let none = PlanConfig::default();
    let plan = Plan::make(&request(&none)).expect("fits");
    let mut rates = MachineRates::of_this_machine();
    rates.steps.workers = 4;
    rates.steps.corner_turn = 1e-9;
    rates.steps.align_documented = 2e-9;
    rates.cold_read = 1e8;
    let timing = Timing {
        mode: Mode::Documented,
        output: 0,
        samples: 1_000_000_000,
        disk_samples: 500_000_000,
        deposited: 100_000_000,
        parametric: false,
        calibrated: true,
        refined: false,
        from_disk: false,
    };
    let (steps, missing) = timing.of(&plan, &rates);
    let seconds = |name: &str| steps.iter().find(|s| s.step == name).map_or(-1.0, |s| s.seconds);
    let moved = StepRates::turned(536_870_912.0, plan.disk_cost.stack as f64);
    assert!((seconds("corner turn") - 1e-9 * moved).abs() < 1e-9, "{steps:?}");
    assert!((seconds("alignment") - 4.0).abs() < 1e-9, "two workers take twice as long as four: {steps:?}");
    assert!(missing.contains(&"image") && missing.contains(&"start") && !missing.contains(&"fit"), "{missing:?}");
    // What is left over grows with the images' pixels, and is another for each method.
    rates.steps.finish_classic = FinishRates { fixed: 0.5, pixel: 1e-9 };
    rates.steps.finish = FinishRates { fixed: 7.0, pixel: 0.0 };
    for (parametric, expected) in [(false, 2.5), (true, 7.0)] {
        let (steps, _) = Timing { output: 2_000_000_000, parametric, ..timing }.of(&plan, &rates);
        assert!(steps.iter().any(|s| s.step == "results" && (s.seconds - expected).abs() < 1e-9), "{steps:?}");
    }
    // The search takes another time without a calibration; where that was not measured, nothing is said of the fit.
    (rates.steps.fit, rates.steps.search) = (1e-9, 1.5);
    for (uncalibrated, calibrated, expected) in
        [(0.0, true, Some(4.0)), (0.0, false, None), (0.25, true, Some(4.0)), (0.25, false, Some(1.5))]
    {
        rates.steps.search_uncalibrated = uncalibrated;
        let (steps, missing) = Timing { parametric: true, calibrated, ..timing }.of(&plan, &rates);
        let fit = steps.iter().find(|s| s.step == "fit").map(|s| s.seconds);
        assert_eq!((fit, missing.contains(&"fit")), (expected, expected.is_none()), "{uncalibrated} {calibrated}");
    }
    // Not in memory: the disk is what takes the time.
    let (steps, _) = Timing { from_disk: true, ..timing }.of(&plan, &rates);
    assert!(steps.iter().any(|s| s.step == "corner turn" && (s.seconds - 5.368_709_12).abs() < 1e-9), "{steps:?}");
}

#[test]
fn what_lies_in_the_hdf5_cache_takes_no_room_in_the_working_cache_and_is_not_copied() {
    let none = PlanConfig::default();
    let exports = |in_place| Exports { hdf5: true, in_place, ..Exports::default() };
    let plan = |in_place| {
        let request = Request { mode: Mode::Documented, exports: exports(in_place), ..request(&none) };
        Plan::make(&request).expect("fits")
    };
    let (copied, placed) = (plan([false; 2]), plan([true; 2]));
    let samples = copied.disk_cost.hdf5 / 24;
    assert_eq!((copied.disk_cost.bigft, copied.disk_cost.correlations), (16 * samples, 8 * samples));
    assert_eq!(copied.disk_cost.total() - placed.disk_cost.total(), 24 * samples);
    assert_eq!(plan([true, false]).disk_cost.correlations, 8 * samples);
    assert_eq!([copied.in_place, plan([true, false]).in_place, placed.in_place], [false, false, true]);
    let mut rates = MachineRates::of_this_machine();
    rates.steps.workers = 2;
    (rates.steps.align_documented, rates.steps.align_in_place, rates.steps.export_hdf5) = (1e-9, 3e-9, 5e-9);
    let timing = Timing {
        mode: Mode::Documented,
        output: 0,
        samples: 1_000_000_000,
        disk_samples: 0,
        deposited: 0,
        parametric: false,
        calibrated: true,
        refined: false,
        from_disk: false,
    };
    let total = |plan: &Plan| timing.of(plan, &rates).0.iter().map(|s| s.seconds).sum::<f64>();
    let ratio = 2.0 / placed.workers as f64;
    assert!((total(&copied) - (ratio + 5.0)).abs() < 1e-9 && (total(&placed) - 3.0 * ratio).abs() < 1e-9);
}

#[test]
fn a_source_that_would_push_others_out_is_read_past_the_page_cache() {
    let none = PlanConfig::default();
    let of = |free: Option<u64>, group: Option<u64>, memory: u64, overrides: &PlanConfig| {
        let around = Around { free_memory: free, group_window: group, ..Around::default() };
        let plan = Plan::make(&Request { memory, around, ..request(overrides) }).expect("fits");
        let because = explained(&plan, "reads").because.clone();
        (plan, because)
    };
    let (gib, source) = (1 << 30, 512 << 20);
    for (free, group, reads, limit) in [
        (Some(2 * source), None, Reads::Kept, "free memory: 512 MiB are no more"),
        (Some(2 * source - 1), None, Reads::Direct, "free memory: 512 MiB are more"),
        (None, Some(1 << 20), Reads::Direct, "control group"),
        (None, None, Reads::Kept, "default: how much memory is free is not known"),
    ] {
        let (plan, because) = of(free, group, gib, &none);
        assert_eq!(plan.reads, reads, "{free:?} {group:?}");
        assert!(because.starts_with(limit), "{because}");
    }
    // Nor is one brought there that is small enough but not there, unless the user wants it.
    let small = |cached: bool, overrides: &PlanConfig, frames_in_line: bool| {
        let around = Around { free_memory: Some(8 * source), source_cached: Some(cached), ..Around::default() };
        let plan = Plan::make(&Request { frames_in_line, around, ..request(overrides) }).expect("fits");
        let because = explained(&plan, "reads").because.clone();
        (plan.reads, because)
    };
    let through = PlanConfig { direct_reads: Some(false), ..PlanConfig::default() };
    assert_eq!(small(true, &none, true).0, Reads::Kept);
    assert_eq!(small(false, &through, true), (Reads::Kept, "your key".to_owned()));
    assert_eq!(small(false, &none, false).0, Reads::Kept, "chunks lie anywhere");
    let (reads, because) = small(false, &none, true);
    assert_eq!(reads, Reads::Direct);
    assert!(because.starts_with("disk: it does not lie in memory"), "{because}");
    // As much under way as a sixteenth of the budget allows, with a buffer for each block of it and for each worker.
    let readers = |memory: u64| {
        let (plan, _) = of(Some(source), None, memory, &none);
        (plan.read_workers, plan.read_buffers - plan.read_workers)
    };
    assert_eq!([readers(4 * gib), readers(512 << 20)], [(8, 2), (4, 2)]);
    assert_eq!(readers(100 << 20).0, 2, "a tight budget has other uses");
    let (plan, _) = of(Some(8 * source), None, gib, &none);
    assert_eq!((plan.read_workers, plan.read_buffers), (2, 4));
    // Keys.
    let direct = |direct_reads| PlanConfig { direct_reads, read_workers: Some(5), ..PlanConfig::default() };
    let (plan, because) = of(Some(8 * source), None, gib, &direct(Some(true)));
    assert_eq!((plan.reads, plan.read_workers, because.as_str()), (Reads::Direct, 5, "your key"));
    assert_eq!(of(Some(source), None, gib, &direct(Some(false))).0.reads, Reads::Forgotten);
    assert_eq!(of(Some(8 * source), None, gib, &direct(Some(false))).0.reads, Reads::Kept);
    // Chunks lie anywhere, and reading them is work for the processor.
    let around = Around { free_memory: Some(source), ..Around::default() };
    let chunked = Plan::make(&Request { frames_in_line: false, around, ..request(&none) }).expect("fits");
    assert_eq!((chunked.reads, chunked.read_workers, chunked.read_buffers), (Reads::Forgotten, 2, 4));
    assert!(explained(&chunked, "reads").because.starts_with("source: "));
}

#[test]
fn what_lies_in_the_page_cache_is_read_by_those_that_turn_it() {
    let none = PlanConfig::default();
    let cached = |source_cached, frames_in_line, overrides: &PlanConfig| {
        let around = Around { free_memory: Some(8 << 30), source_cached, ..Around::default() };
        Plan::make(&Request { frames_in_line, around, ..request(overrides) })
    };
    let workers = |source_cached, frames_in_line, overrides: &PlanConfig| {
        cached(source_cached, frames_in_line, overrides).expect("fits").read_workers
    };
    assert_eq!(workers(Some(true), true, &none), 0);
    assert_eq!(workers(Some(true), false, &none), 2, "packed chunks are work that others can do meanwhile");
    assert_eq!(workers(None, true, &none), 2, "nobody knows");
    assert_eq!(workers(Some(false), true, &none), 8);
    let plan = cached(Some(true), true, &none).expect("fits");
    assert!(explained(&plan, "read_workers").because.starts_with("source: it lies in the page cache"));
    let buffers = cached(None, true, &none).expect("fits").memory_cost.corner_turn - plan.memory_cost.corner_turn;
    assert!((8 << 20..40 << 20).contains(&buffers), "no buffers for whole blocks: {buffers}");
    // Keys.
    let key = |read_workers, direct_reads| PlanConfig { read_workers, direct_reads, ..PlanConfig::default() };
    assert_eq!(workers(Some(true), true, &key(Some(3), None)), 3);
    let plan = cached(Some(false), true, &key(Some(0), None)).expect("through the page cache");
    assert_eq!((plan.reads, plan.read_workers), (Reads::Kept, 0));
    for (frames_in_line, direct) in [(false, None), (true, Some(true))] {
        let error = cached(Some(true), frames_in_line, &key(Some(0), direct)).expect_err("not possible");
        assert!(error.hint().is_some_and(|hint| hint.contains("plan.read_workers=1")), "{error}");
    }
}

#[test]
fn tiles_of_an_hdf5_cache_that_is_filled_in_place_are_small() {
    let none = PlanConfig::default();
    let plan = |in_place| {
        let exports = Exports { hdf5: true, in_place, ..Exports::default() };
        Plan::make(&Request { mode: Mode::Documented, exports, memory: 1 << 32, ..request(&none) }).expect("fits")
    };
    let bytes = |plan: &Plan| plan.tile_rows * plan.tile_cols * 65536 * 16;
    let (copied, placed) = (plan([false; 2]), plan([true; 2]));
    assert_eq!([bytes(&copied), bytes(&placed)], [32 << 20, 8 << 20]);
    let less = copied.memory_cost.alignment - placed.memory_cost.alignment;
    assert!(less > 100 << 20, "{less}");
    let scan = ScanShape::new(256, 256);
    assert_eq!(placed.stage_bytes(scan), 4 << 20);
    let tight = PlanConfig { tile_rows: Some(1), tile_cols: Some(2), ..PlanConfig::default() };
    let tiny = Plan::make(&Request { scan: ScanShape::new(16, 16), ..request(&tight) }).expect("fits");
    assert_eq!(tiny.stage_bytes(ScanShape::new(16, 16)), 2 * 256 * 8, "no more than a tile's correlations");
}

#[test]
fn overrides_win_and_impossible_ones_are_refused() {
    let overrides = PlanConfig {
        tile_rows: Some(3),
        tile_cols: Some(8),
        slab_rows: Some(5),
        in_memory: Some(false),
        ..Default::default()
    };
    let plan = Plan::make(&request(&overrides)).expect("fits");
    assert_eq!((plan.tile_rows, plan.tile_cols, plan.slab_rows, plan.in_memory), (3, 8, 5, false));
    assert_eq!((plan.tiles, plan.slabs), (22 * 8, 52));
    for (bad, nearest) in [
        (PlanConfig { tile_cols: Some(7), ..Default::default() }, "plan.tile_cols=8`"),
        (PlanConfig { tile_cols: Some(66), ..Default::default() }, "plan.tile_cols=64`"),
        (PlanConfig { tile_rows: Some(65), ..Default::default() }, "plan.tile_rows=64`"),
        (PlanConfig { slab_rows: Some(257), ..Default::default() }, "plan.slab_rows=256`"),
    ] {
        let error = Plan::make(&request(&bad)).expect_err(nearest);
        assert_eq!(error.exit_code(), 2);
        assert!(error.hint().is_some_and(|hint| hint.ends_with(nearest)), "{error}: {:?}", error.hint());
    }
}

#[test]
fn plans_are_sane_for_all_kinds_of_shapes() {
    let none = PlanConfig::default();
    for (scan, det, memory) in
        [((1, 1), (1, 1), 64), ((7, 3), (5, 9), 64), ((2048, 2048), (256, 256), 6144), ((80, 112), (130, 128), 256)]
    {
        let scan = ScanShape::new(scan.0, scan.1);
        let det = DetShape::new(det.0, det.1);
        let plan = Plan::make(&Request {
            scan,
            det,
            crop: det,
            frame_bytes: det.len() * 2,
            memory: memory << 20,
            ..request(&none)
        });
        let plan = plan.unwrap_or_else(|e| panic!("{scan} {det}: {e}"));
        assert!(plan.slab_rows >= 1 && plan.slab_rows <= scan.rows && plan.read_frames <= plan.slab_rows * scan.cols);
        assert!(plan.tile_cols == det.cols || plan.tile_cols.is_multiple_of(2));
        assert!(plan.to_string().contains("peak memory"));
    }
}
