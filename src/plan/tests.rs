use super::*;

fn request(overrides: &PlanConfig) -> Request<'_> {
    Request {
        scan: ScanShape::new(256, 256),
        det: DetShape::new(64, 64),
        dtype: DType::U16,
        crop: DetShape::new(64, 64),
        frame_bytes: 64 * 64 * 2,
        natural_frames: 1,
        held_bytes: 0,
        mode: Mode::Documented,
        precision: Precision::F64,
        upscale: 4,
        half_sets: false,
        images: 2,
        fit_bytes: 0,
        refine_bytes: 0,
        memory: 8 << 30,
        workers: 2,
        exports: Exports::default(),
        around: Around::default(),
        fixed_layout: None,
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

#[test]
fn a_disk_that_is_too_small_is_refused_before_anything_is_written() {
    let none = PlanConfig::default();
    let error = Plan::make(&Request { free_disk: Some(1 << 30), ..request(&none) }).expect_err("too small");
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("6.5 GiB") && error.to_string().contains("1 GiB"), "{error}");
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
    let odd = PlanConfig { tile_cols: Some(7), ..Default::default() };
    assert_eq!(Plan::make(&request(&odd)).map_err(|e| e.exit_code()).err(), Some(2));
}

#[test]
fn plans_are_sane_for_all_kinds_of_shapes() {
    let none = PlanConfig::default();
    for (scan, det, memory) in
        [((1, 1), (1, 1), 64), ((7, 3), (5, 9), 64), ((2048, 2048), (256, 256), 4096), ((80, 112), (130, 128), 256)]
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
