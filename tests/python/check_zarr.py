#!/usr/bin/env python3
"""Checks that other programs see the same numbers as stemstream.

usage: check_zarr.py zarr CACHE OURS INPUT Y1 Y2 X1 X2        (zarr-python 3 and the working cache)
       check_zarr.py hdf5 CACHE EMD RUN OURS INPUT Y1 Y2 X1 X2  (h5py, the exported cache and the EMD results)

OURS is a folder with every array as plain float64, as stemstream reads it; INPUT is the scan as npy.
"""
import sys
from pathlib import Path

import numpy as np

IMAGES = {
    "shift_y": "crop", "shift_x": "crop", "quality": "crop", "zncc": "crop",
    "mean_pattern": "det", "sampled_pattern": "det",
    "reference_image": "scan", "standard_bf": "scan", "virtual_bf": "scan",
    "superres_image": "fine", "weights": "fine",
}


def same(name, theirs, ours):
    assert theirs.shape == ours.shape, f"{name}: {theirs.shape}, not {ours.shape}"
    assert np.array_equal(theirs, ours), f"{name}: {np.count_nonzero(theirs != ours)} numbers differ"


def load(folder, name, shape):
    return np.fromfile(Path(folder) / name, "<f8").reshape(shape)


def spectra_of(scan, bounds):
    y1, y2, x1, x2 = bounds
    return np.fft.fft2(scan[:, :, y1:y2, x1:x2].astype("f8"), axes=(0, 1))


def check_zarr(cache, ours, scan, bounds):
    import zarr

    y1, y2, x1, x2 = bounds
    crop, rows, cols = (y2 - y1, x2 - x1), *scan.shape[:2]
    group = zarr.open_group(cache, mode="r")
    stack = group["stack"]
    assert stack.dtype == scan.dtype, stack.dtype
    same("stack", stack[:], scan[:, :, y1:y2, x1:x2])
    assert tuple(stack.metadata.dimension_names) == ("scan_row", "scan_col", "det_row", "det_col")
    bigft = group["bigFT"][:]
    assert bigft.dtype in (np.complex64, np.complex128), bigft.dtype
    same("bigFT", bigft.astype("c16"), load(ours, "bigFT", (rows, cols, *crop, 2)).view("c16")[..., 0])
    expected = spectra_of(scan, bounds)
    error = np.abs(bigft - expected).max() / np.abs(expected).max()
    assert error < (1e-5 if bigft.dtype == np.complex64 else 1e-12), error
    same("correlations", group["correlations"][:].astype("f8"), load(ours, "correlations", (rows, cols, *crop)))
    for name, kind in IMAGES.items():
        array = group[name]
        assert array.dtype == np.float64, (name, array.dtype)
        shape = {"crop": crop, "det": scan.shape[2:], "scan": (rows, cols), "fine": array.shape}[kind]
        same(name, array[:], load(ours, name, shape))
    assert group["superres_image"].shape == (rows * 3, cols * 3)
    mean = scan.astype("f8").mean(axis=(0, 1))
    assert np.allclose(group["mean_pattern"][:], mean, rtol=1e-13), "mean pattern"
    # Everything in the folder is an array that can be read.
    for name, array in group.arrays():
        array[:]


def check_hdf5(cache, emd, run, ours, scan, bounds):
    import h5py

    y1, y2, x1, x2 = bounds
    crop, rows, cols = (y2 - y1, x2 - x1), *scan.shape[:2]
    with h5py.File(cache, "r") as file:
        data = file["bigFT/data"]
        assert data.dtype == np.complex128 and data.shape == (rows, cols, *crop), (data.dtype, data.shape)
        same("bigFT", data[:], load(ours, "bigFT", (rows, cols, *crop, 2)).view("c16")[..., 0])
        assert list(file["bigFT/metadata"].attrs["crop_bounds"]) == list(bounds)
        data = file["correlations/data"]
        assert data.dtype == np.float64, data.dtype
        same("correlations", data[:], load(ours, "correlations", (rows, cols, *crop)))
        assert list(file["metadata"].attrs["original_data_shape"]) == list(scan.shape)
        assert list(file["metadata"].attrs["cropped_data_shape"]) == [rows, cols, *crop]
        assert file["metadata"].attrs["step_completed"] == 5
    with h5py.File(emd, "r") as file:
        group = file[run]
        for name in ("shift_y", "shift_x", "quality"):
            same(name, group[name][:], load(ours, name, crop))
        for name in ("standard_bf", "reference_image"):
            same(name, group[name][:], load(ours, name, (rows, cols)))
        same("superres_image", group["superres_image"][:], load(ours, "superres_image", (rows * 4, cols * 4)))


def main():
    kind, *arguments = sys.argv[1:]
    *paths, ours, source, y1, y2, x1, x2 = arguments
    scan = np.load(source)
    bounds = [int(b) for b in (y1, y2, x1, x2)]
    if kind == "zarr":
        check_zarr(*paths, ours, scan, bounds)
    else:
        check_hdf5(*paths, ours, scan, bounds)


if __name__ == "__main__":
    main()
