"""Headers of model files in words, by name: what `mahalad info` shows."""

from __future__ import annotations

from typing import Any


def describe_detector(header: dict[str, Any]) -> dict[str, Any]:
    """Give what `mahalad info` shows of a detector, by name."""
    features, calibration = header["features"] or {}, header["calibration"]
    return {
        "file": f"{header['path']} ({header['size'] / 1e6:.2f} MB, "
        f"format {header['format_version']})",
        "parts": _parts(header.get("parts", {})),
        "detector": header["class"],
        "images": f"{header['fit']['n_images']} (features of {header['fit']['n_stored']} kept)",
        "fitted": header["fit"].get("date", "unknown"),
        "unreadable": len(header["fit"]["unreadable"]) or None,
        "backbone": features.get("backbone"),
        "weights": features
        and f"{features['weights_source']}: {features['weights_origin']} "
        f"(sha256 {features['weights_sha256'][:16]}, licence {features['licence']}, "
        f"{'embedded' if features.get('weights_embedded') else 'not embedded'})",
        "input": features
        and f"{features['input_size']} px, {features['resize']}{_tiles(features)}",
        "engine": _engine(features),
        "region": _region(features, header["params"].get("roi")),
        "pixels": _pixels(header["fit"], header["params"], header["params"].get("features")),
        "autoencoder": _autoencoder(header.get("autoencoder")),
        "scope": _scope(header),
        "levels": _levels(header["fit"]["levels"]),
        "neighbours": header["params"].get("n_neighbors"),
        "reduction": header["params"].get("reduction"),
        "turned": header["fit"].get("turned") and "each image counts in its four quarter turns",
        "threshold": header["params"]["threshold"],
        "fpr": header["params"]["fpr"],
        "calibration": f"{calibration['method']}, {calibration['n']} scores",
        "promise": _promise(header),
        "made with": ", ".join(f"{n} {v}" for n, v in header["versions"].items()),
    }


def _promise(header: dict[str, Any]) -> str:
    """Say what the false-positive rate of the model is worth."""
    from mahalad.thresholds.guarantee import guarantee_of

    params, calibration, groups = header["params"], header["calibration"], header["fit"]["groups"]
    one_by_one = groups is None or len(groups) == header["fit"]["n_images"]  # until format 4
    return str(
        guarantee_of(
            params["threshold"],
            calibration["method"],
            calibration["n"],
            params["fpr"],
            n_independent=calibration.get("n_independent"),
            counts_parts=calibration.get("counts_parts", one_by_one),
        )
    )


def _scope(header: dict[str, Any]) -> str | None:
    """Say how features are scored; headers of format 1 and other scorers lack the parameter."""
    if header["features"] is None:
        return None
    params: dict[str, Any] = header["params"]
    scope = params.get("scope", "image" if header.get("scorer") is None else "positions")
    if scope == "positions" and "top_fraction" in params:
        own = ("top_fraction", "image_weight")
        more = [f"{name.replace('_', ' ')} {params[name]:g}" for name in own]
        steps = params.get("neighbourhood", 0)
        if steps != "nearest":
            more.append(f"neighbourhood {steps}")
        return f"{scope} ({', '.join(more)})"
    return str(scope)


def _levels(sizes: dict[str, Any]) -> str:
    """List levels with their sizes, without the boxes of padded pictures, which are no level."""
    from mahalad.images.geometry import BOX

    return ", ".join(f"{name} ({_size(size)})" for name, size in sizes.items() if name != BOX)


def _tiles(features: dict[str, Any]) -> str:
    """Say how many tiles an image has; a header has the number only if there are several."""
    k = features.get("tiles", 1)
    return f", {k} x {k} tiles" if k > 1 else ""


def _parts(sizes: dict[str, int]) -> str:
    """Say how large the parts of a file are, under the names that their arrays have."""
    said = [f"{name} {size / 1e6:.2f} MB" for name, size in sizes.items() if size >= 5_000]
    return ", ".join(said)


def _engine(record: dict[str, Any]) -> str | None:
    """Say what computed the network, and how; headers of torch do not name it."""
    if "precision" not in record:
        return None
    return f"{record.get('engine', 'torch')}, {record['precision']}"


def _region(features: dict[str, Any], roi: Any) -> str | None:
    """Say where the region of interest came from, and what the network sees outside it."""
    if not features.get("region"):
        return None
    seen = "its mean colour" if features.get("outside") == "mean" else "what is"
    return f"{roi or 'given'} (in the model file); the network sees {seen} outside"


def _pixels(fit: dict[str, Any], *places: Any) -> str | None:
    """Say how images of the fit were stored, and how images are read; older headers do not."""
    found: dict[str, Any] = {}
    for place in filter(lambda place: isinstance(place, dict), places):
        found |= {**place, **place.get("params", {})}
    said = [", ".join(fit.get("depths") or {})]
    said += [f"{found['bits']} bits of 16 are used"] if found.get("bits") else []
    said += ["arrays have blue first"] if found.get("channels") == "bgr" else []
    return "; ".join(filter(None, said))


def _autoencoder(about: dict[str, Any] | None) -> str | None:
    if about is None:
        return None
    size, n = about["record"]["input_size"], about["fit"]["n_images"]
    return f"{size} px, trained on {n} images (in the model file)"


def _size(shape: int | list[int]) -> str:
    """Write the shape of a level, which is a number in files of format 1."""
    return "x".join(map(str, [shape] if isinstance(shape, int) else shape))


def describe_classifier(header: dict[str, Any]) -> dict[str, Any]:
    """Give what `mahalad info` shows of a classifier by nearest neighbours, by name."""
    from mahalad.images.geometry import describe_input

    encoder, where = header["encoder"] or {}, header["index"]
    record = encoder.get("record") or encoder.get("state", {}).get("record") or {}
    state, point = where.get("state"), header["operating_point"]
    projection = header["projection"]
    return {
        "file": f"{header['path']} ({header['size'] / 1e6:.2f} MB, "
        f"format {header['format_version']})",
        "parts": _parts(header.get("parts", {})),
        "classifier": header["class"],
        "fitted": header.get("date", "unknown"),
        "labels": ", ".join(map(str, header["classes"])),
        "positive": header["params"]["positive"],
        "encoder": record.get("backbone") or encoder.get("class"),
        "input": record.get("input_size") and describe_input(record),
        "engine": _engine(record),
        "region": _region(record, encoder.get("spec", {}).get("params", {}).get("roi")),
        "pixels": _pixels(header, encoder, encoder.get("spec")),
        "levels": ", ".join(f"{n} ({size})" for n, size in header["levels"].items()),
        "projection": projection
        and f"{projection['params']['loss']}, {projection['params']['n_components']} features",
        "neighbours": f"{header['params']['n_neighbors']}, {header['params']['weights']} votes"
        + (", balanced" if header["params"].get("class_weight") else ""),
        "index": "in the model file" if state else where["where"],
        "search": header.get("search") and describe_search(header["search"]),
        "threshold": point
        and f"{point['threshold']:.3g} (precision {point['precision']:.3f}, "
        f"recall {point['recall']:.3f})",
        "novelty fpr": header["params"]["novelty_fpr"],
        "calibration": header["calibration"]["method"],
        "made with": ", ".join(f"{n} {v}" for n, v in header["versions"].items()),
    }


def describe_search(search: dict[str, Any]) -> str:
    """Describe the outcome of a search in a line."""
    before, failed = search["default_f1"], "training failed"
    n_failed = sum(candidate["validation_f1"] is None for candidate in search["candidates"])
    return (
        f"best of {len(search['candidates'])} on held-out labels: macro F1 "
        f"{search['validation_f1']:.3f} (without a search: "
        f"{failed if before is None else format(before, '.3f')})"
        + (f"; {failed} for {n_failed}" if n_failed else "")
    )
