#!/usr/bin/env python3
"""Checks, with h5py, that result files hold what the documented layout says: groups, names, types, shapes, values.

usage: check_outputs.py emd FILE RUN own|embed
       check_outputs.py cache FILE
       check_outputs.py npy FILE ROWS COLS START

The expected numbers are those of the sample run in tests/export_common/mod.rs and tests/export_cache.rs.
"""
import re
import sys

import h5py
import numpy as np

SCAN, DET, CROP, BOUNDS, FACTOR = (6, 10), (14, 16), (9, 11), [2, 11, 3, 14], 2


def ramp(shape, start):
    rows, cols = np.indices(shape)
    return start + rows + cols / 64


def is_text(at, name, value=None):
    got = at.attrs[name]
    assert isinstance(got, str), f"{at.name}@{name}: {type(got)}"
    info = h5py.check_string_dtype(at.attrs.get_id(name).dtype)
    assert info.encoding == "utf-8" and info.length is None, f"{at.name}@{name}: {info}"
    assert value is None or got == value, f"{at.name}@{name}: {got!r}"
    return got


def is_number(at, name, value, dtype):
    got = at.attrs[name]
    assert np.asarray(got).dtype == dtype, f"{at.name}@{name}: {np.asarray(got).dtype}, not {dtype}"
    assert np.shape(got) == np.shape(value), f"{at.name}@{name}: shape {np.shape(got)}"
    assert np.array_equal(got, value), f"{at.name}@{name}: {got}, not {value}"


def check_emd(path, run_name, kind):
    with h5py.File(path, "r") as f:
        if kind == "own":
            is_text(f, "emd_group_type", "file")
            is_number(f, "version_major", 1, np.int64)
            is_number(f, "version_minor", 0, np.int64)
            is_text(f, "authoring_program", "stemstream")
            assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", is_text(f, "UUID"))
        assert re.fullmatch(r"/superres_results/run_\d{8}_\d{6}(_\d+)?", run_name), run_name
        assert not [k for k in f["superres_results"] if k.startswith(".")], "a partial run stayed"
        run = f[run_name]
        p = run["parameters"]
        assert isinstance(p, h5py.Group)
        is_text(p, "timestamp", "20250107_153045")
        is_number(p, "bf_center", [6.25, 8.5], np.float64)
        is_number(p, "bf_radius", 5, np.int64)
        is_number(p, "crop_bounds", BOUNDS, np.int64)
        is_number(p, "upscale_factor", FACTOR, np.int64)
        is_number(p, "reference_smoothing", 0.5, np.float64)
        is_number(p, "detector_radius", 16, np.int64)
        is_number(p, "quality_threshold", 0.8, np.float64)
        is_text(p, "cache_file", "mydata_superres_cache_20250107_153045.h5")
        is_text(p, "method", "classic")
        assert re.fullmatch(r"\d+\.\d+\.\d+.*", is_text(p, "version"))
        is_text(p, "source_fingerprint", "sha256:0123abcd")
        is_number(p, "disk_radius", 3.75, np.float64)
        is_number(p, "data_shape", [*SCAN, *DET], np.int64)
        is_number(p, "energy_ev", 8e4, np.float64)
        is_number(p, "scan_step_angstrom", 4.0, np.float64)
        assert "rotation_deg" not in p.attrs, "an unknown value must be absent"
        assert list(p.attrs["warnings"]) == ["the disk touches the edge", "Å and µ survive"], p.attrs["warnings"]
        fine = tuple(n * FACTOR for n in SCAN)
        expected = {
            "shift_y": ramp(CROP, SCAN[0] // 2 - 4), "shift_x": ramp(CROP, SCAN[1] // 2 - 4), "quality": ramp(CROP, 0.5),
            "superres_image": ramp(fine, 40), "weights": ramp(fine, 50), "standard_bf": ramp(SCAN, 20),
            "reference_image": ramp(SCAN, 10), "virtual_bf": ramp(SCAN, 30), "mean_pattern": ramp(DET, 1),
        }
        assert set(run) == {*expected, "parameters"}, set(run)
        for name, value in expected.items():
            d = run[name]
            assert d.dtype == np.float64 and d.shape == value.shape, f"{name}: {d.dtype} {d.shape}"
            assert np.array_equal(d[()], value), name
            is_text(d, "units")


def check_cache(path):
    with h5py.File(path, "r") as f:
        assert set(f) == {"bigFT", "correlations", "metadata"}, set(f)
        assert set(f["bigFT"]) == set(f["correlations"]) == {"data", "metadata"}
        shape = (*SCAN, *CROP)
        i, j, row, col = np.indices(shape)
        value = i * 1000 + j * 100 + row * 10 + col / 16
        big, corr = f["bigFT/data"], f["correlations/data"]
        assert big.dtype == np.complex128 and big.shape == shape, (big.dtype, big.shape)
        assert corr.dtype == np.float64 and corr.shape == shape, (corr.dtype, corr.shape)
        names = [big.id.get_type().get_member_name(n) for n in range(2)]
        assert names == [b"r", b"i"], names
        for d in (big, corr):
            assert d.chunks == (*SCAN, 1, 1), d.chunks
        assert np.array_equal(big[()], value - 1j * (i * SCAN[1] + j))
        assert np.array_equal(corr[()], value / 7.0)

        at = f["bigFT/metadata"]
        is_number(at, "crop_bounds", BOUNDS, np.int64)
        is_number(at, "bf_center", [6.25, 8.5], np.float64)
        is_number(at, "bf_radius", 5, np.int64)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", is_text(at, "computation_date"))
        is_number(at, "reference_smoothing", 0.5, np.float64)

        at = f["correlations/metadata"]
        is_number(at, "reference_pixel", [4, 5], np.int64)
        assert isinstance(at.attrs["normalization_applied"], np.bool_), type(at.attrs["normalization_applied"])
        assert at.attrs["normalization_applied"]

        at = f["metadata"]
        is_text(at, "linked_emd_path", "/data/mydata.emd")
        is_text(at, "timestamp", "20250107_153045")
        is_number(at, "step_completed", 5, np.int64)
        is_number(at, "original_data_shape", [*SCAN, *DET], np.int64)
        is_number(at, "cropped_data_shape", list(shape), np.int64)
        is_number(at, "crop_bounds", BOUNDS, np.int64)
        is_number(at, "bf_center", [6.25, 8.5], np.float64)
        is_number(at, "bf_radius", 5, np.int64)
        is_number(at, "reference_smoothing", 0.5, np.float64)
        is_text(at, "version", "1.0")


def check_npy(path, rows, cols, start):
    a = np.load(path, allow_pickle=False)
    assert a.dtype == np.dtype("<f8") and a.flags.c_contiguous, (a.dtype, a.flags)
    assert np.array_equal(a, ramp((int(rows), int(cols)), float(start)))
    # The data can be mapped: it begins at a multiple of 64 bytes.
    assert np.load(path, mmap_mode="r").offset % 64 == 0


if __name__ == "__main__":
    {"emd": check_emd, "cache": check_cache, "npy": check_npy}[sys.argv[1]](*sys.argv[2:])
