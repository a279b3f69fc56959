"""Layouts of labelled sets, and the masks that belong to their images."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture, run
from PIL import Image

from mahalad.bench.pixels import enlarge_to_truth, read_truth
from mahalad.errors import EmptyMaskError, InputError
from mahalad.evaluation.masks import read_mask, read_mask_of
from mahalad.images.mvtec import Category, find_categories
from mahalad.images.set_layouts import EVERY

SIDE = 64
BOX = (SIDE // 3, SIDE // 3, SIDE // 2, SIDE // 2)
"""Where the spot of `make_picture` is."""


def put(folder: Path, names: str, seeds: range, *, spot: bool = False) -> list[Path]:
    """Write pictures; `names` has a `{}` for their number."""
    paths = [folder / names.format(f"{i:03}") for i in range(len(seeds))]
    for path, seed in zip(paths, seeds, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        make_picture(seed, spot=spot).save(path)
    return paths


def put_masks(folder: Path, names: str, n: int, *, value: int = 255, box=BOX) -> list[Path]:
    paths = [folder / names.format(f"{i:03}") for i in range(n)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.new("L", (SIDE, SIDE))
        mask.paste(value, box)
        mask.save(path)
    return paths


def mvtec(folder: Path) -> None:
    put(folder, "train/good/{}.png", range(8))
    put(folder, "test/good/{}.png", range(100, 103))
    put(folder, "test/spot/{}.png", range(200, 203), spot=True)
    put_masks(folder, "ground_truth/spot/{}_mask.png", 3)


def btad(folder: Path) -> None:
    put(folder, "train/ok/{}.bmp", range(8))
    put(folder, "test/ok/{}.bmp", range(100, 103))
    put(folder, "test/ko/{}.bmp", range(200, 203), spot=True)
    put_masks(folder, "ground_truth/ko/{}.png", 3)
    put_masks(folder, "ground_truth/ok/{}.png", 3, value=0)  # masks of good images mark nothing


def loco(folder: Path) -> None:
    put(folder, "train/good/{}.png", range(8))
    put(folder, "validation/good/{}.png", range(50, 52))
    put(folder, "test/good/{}.png", range(100, 103))
    put(folder, "test/logical_anomalies/{}.png", range(200, 202), spot=True)
    put(folder, "test/structural_anomalies/{}.png", range(202, 203), spot=True)
    left, right = (BOX[0], BOX[1], BOX[0] + 3, BOX[3]), (BOX[0] + 3, *BOX[1:])
    for kind, n in (("logical_anomalies", 2), ("structural_anomalies", 1)):
        put_masks(folder, f"ground_truth/{kind}/{{}}/000.png", n, value=255, box=left)
        put_masks(folder, f"ground_truth/{kind}/{{}}/001.png", n, value=254, box=right)


def visa(folder: Path, *, table: bool = True) -> None:
    good = put(folder, "Data/Images/Normal/{}.JPG", range(11))
    bad = put(folder, "Data/Images/Anomaly/{}.JPG", range(200, 203), spot=True)
    masks = put_masks(folder, "Data/Masks/Anomaly/{}.png", 3, value=2)  # numbers of kinds
    if table:
        write_table(folder, good, bad, masks)


def write_table(folder: Path, good: list[Path], bad: list[Path], masks: list[Path]) -> Path:
    base = folder.parent
    rows = ["object,split,label,image,mask"]
    for i, path in enumerate(good):
        split = "train" if i < 8 else "test"
        rows.append(f"{folder.name},{split},normal,{path.relative_to(base).as_posix()},")
    for path, mask in zip(bad, masks, strict=True):
        names = path.relative_to(base).as_posix(), mask.relative_to(base).as_posix()
        rows.append(f"{folder.name},test,anomaly,{','.join(names)}")
    table = base / "split_csv" / "1cls.csv"
    table.parent.mkdir(exist_ok=True)
    table.write_text("\n".join(rows) + "\n")
    return table


def plain(folder: Path) -> None:
    put(folder, "Good/{}.png", range(11))
    put(folder, "Bad/{}.png", range(200, 203), spot=True)
    put_masks(folder, "Masks/Bad/{}.tif", 3)


def plain_kinds(folder: Path) -> None:
    put(folder, "images/OK/{}.png", range(11))
    put(folder, "images/cut/{}.png", range(200, 202), spot=True)
    put(folder, "images/hole/{}.png", range(202, 203), spot=True)
    put_masks(folder, "gt/CUT/{}_mask.png", 2)
    put_masks(folder, "gt/Hole/{}_MASK.png", 1)


def good_and_test(folder: Path) -> None:
    put(folder, "normal/{}.png", range(8))
    put(folder, "TEST/NORMAL/{}.png", range(100, 103))
    put(folder, "TEST/NOK/{}.png", range(200, 203), spot=True)
    put_masks(folder, "Ground-Truth/{}_gt.png", 3)  # one kind needs no folder


def mvtec2(folder: Path) -> None:
    put(folder, "train/good/{}.png", range(8))
    put(folder, "test_public/good/{}.png", range(100, 103))
    put(folder, "test_public/bad/{}.png", range(200, 203), spot=True)
    put_masks(folder, "test_public/ground_truth/bad/{}_mask.png", 3)
    put(folder, "test_private/{}.png", range(300, 302))


LAYOUTS = {
    "mvtec": mvtec, "mvtec2": mvtec2, "btad": btad, "loco": loco, "visa": visa,
    "visa-raw": lambda folder: visa(folder, table=False),
    "plain": plain, "plain-kinds": plain_kinds, "good-and-test": good_and_test,
}  # fmt: skip
WITHOUT_SPLIT = ("visa-raw", "plain", "plain-kinds")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    """A folder of each layout, with one category, `part`."""
    folders = {}
    for name, make in LAYOUTS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        make(folders[name] / "part")
    return folders


def read(root: Path) -> Category:
    (category,) = find_categories([root])
    return category


@pytest.mark.parametrize("as_root", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_read(sets, layout, as_root):
    category = read(sets[layout] if as_root else sets[layout] / "part")
    n_held = 11 // EVERY if layout in WITHOUT_SPLIT else 3
    assert category.name == "part"
    assert len(category.train) == (11 - n_held if layout in WITHOUT_SPLIT else 8)
    assert not set(category.train) & set(category.test)
    assert category.kinds.count("good") == n_held
    assert len(category.test) == n_held + 3
    for path, kind, mask in zip(category.test, category.kinds, category.masks, strict=True):
        with Image.open(path) as picture:
            has_spot = picture.getpixel((24, 24)) >= (250, 250, 250)
        assert has_spot == (kind != "good") == (mask is not None)
        if mask is not None:
            marked = np.zeros((SIDE, SIDE), bool)
            marked[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
            np.testing.assert_array_equal(read_mask_of(path, mask)[0], marked)
    assert bool(category.split) == (layout in (*WITHOUT_SPLIT, "visa"))


def test_kinds_are_called_as_their_folders(sets):
    assert set(read(sets["btad"]).kinds) == {"good", "ko"}
    assert set(read(sets["loco"]).kinds) == {
        "good", "logical_anomalies", "structural_anomalies",
    }  # fmt: skip
    assert set(read(sets["visa"]).kinds) == {"good", "anomaly"}
    assert set(read(sets["visa-raw"]).kinds) == {"good", "Anomaly"}
    assert set(read(sets["plain-kinds"]).kinds) == {"good", "cut", "hole"}


@pytest.mark.parametrize("layout", ["btad", "loco", "visa", "plain"])
def test_benchmarks_measure_them(sets, layout, small_weights, tmp_path):
    figures = tmp_path / "figures.json"
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]
    result = run(
        "bench", "mvtec", "--root", sets[layout], *network, "--fpr", "0.2", "--json", figures
    )
    assert result.exit_code == 0, result.output
    found = json.loads(figures.read_text())
    assert found["images"]["part"]["n_masks"] == 3
    assert found["rows"][0]["categories"]["part"]["pixel_roc_auc"] > 0.8
    assert ("split: part: " in result.stdout) == (layout in ("visa", "plain"))


@pytest.mark.parametrize("layout", ["btad", "visa-raw", "plain", "good-and-test", "loco"])
def test_reports_know_their_kinds(sets, layout, small_weights, tmp_path):
    folder, page = sets[layout] / "part", tmp_path / "page.html"
    category = read(folder)
    model = tmp_path / "m"
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]
    fitted = run("fit", *category.train, "-o", model, *network, "--fpr", "0.2")
    assert fitted.exit_code == 0, fitted.output
    result = run("report", folder, "-m", model, "-o", page)
    assert result.exit_code == 0, result.output
    n_bad = sum(kind != "good" for kind in category.kinds)
    assert f" of {n_bad}<small>" in page.read_text().partition("Missed defects")[2][:80]
    assert "Not labelled" not in page.read_text()
    assert "left out as masks" in result.stderr


# --- what is not understood -----------------------------------------------------------------


@pytest.mark.parametrize("names", [[], ["a/1.png"], ["a/bad/1.png"], ["a/test/good/1.png"]])
def test_other_layouts_say_what_would_be_understood(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="no category at all") as caught:
        find_categories([tmp_path])
    for layout in ("train/good", "test/ko", "split_csv/1cls.csv", "Data/Images/Normal", "nok"):
        assert layout in str(caught.value)


def test_images_of_no_kind_are_refused(tmp_path):
    mvtec(tmp_path / "part")
    make_picture(1).save(tmp_path / "part/test/loose.png")
    with pytest.raises(
        InputError, match=r"loose\.png: lies in no folder .* \(1 such in .*; underst"
    ):
        find_categories([tmp_path])


def test_one_bad_category_does_not_keep_others_from_being_read(tmp_path):
    mvtec(tmp_path / "part")
    mvtec(tmp_path / "other")
    (tmp_path / "other/ground_truth/spot/001_mask.png").unlink()
    (category,) = find_categories([tmp_path], ["part"])
    assert category.name == "part"
    with pytest.raises(InputError, match="no mask of this defect"):
        find_categories([tmp_path])
    assert len(find_categories([tmp_path], with_masks=False)) == 2  # as `bench fpr` asks


def test_too_few_good_images_to_split(tmp_path):
    put(tmp_path, "good/{}.png", range(EVERY - 1))
    put(tmp_path, "bad/{}.png", range(1))
    with pytest.raises(InputError, match=r"4 good images and 1 others; a set without train and"):
        find_categories([tmp_path])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("object,split", "thing,split", r"its columns are thing, split, label, image, mask; they"),
        ("part,test,anomaly", "part,tset,anomaly", r"line 13: split is 'tset' \(allowed are train"),
        ("Normal/000", "Normal/900", r"line 2: .*900\.JPG is not there"),
        ("part,train,normal", "part,train,anomaly", r"8 images of part are bad and to be fitted"),
        ("part/Data/Masks/Anomaly/001.png", "", r"Anomaly/001\.JPG: no mask of this defect; of"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, old, new, message):
    visa(tmp_path / "part")
    table = tmp_path / "split_csv/1cls.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        find_categories([tmp_path])


def test_tables_may_have_other_columns_and_cases(tmp_path):
    visa(tmp_path / "part")
    table = tmp_path / "split_csv/1cls.csv"
    lines = table.read_text().replace("normal", "Normal").replace("test", "Test").splitlines()
    text = "\n".join([f"{lines[0].upper()},NOTE", *(f"{line},x" for line in lines[1:])])
    table.write_text(text.replace("part/Data/Images/", "part\\Data\\Images\\"), "utf-8-sig")
    assert read(tmp_path).kinds.count("good") == 3


# --- masks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ground_truth/spots/{}_mask.png", "masks/spot/x{}.png"])
def test_masks_that_belong_to_nothing_are_an_error(tmp_path, name):
    put(tmp_path, "train/good/{}.png", range(2))
    put(tmp_path, "test/good/{}.png", range(2))
    put(tmp_path, "test/spot/{}.png", range(2))
    put(tmp_path, "test/cut/{}.png", range(2))
    put_masks(tmp_path, name, 2)
    with pytest.raises(InputError, match="belongs to no test image") as caught:
        find_categories([tmp_path])
    assert f"{Path(name).parts[0]}/cut/000_mask.png" in str(caught.value).replace("\\", "/")


SPOT = np.zeros((10, 12), bool)
SPOT[2:5, 3:9] = True
HALF = SPOT.copy()
HALF[:, 6:] = False


def shades() -> np.ndarray:
    """A mask with soft edges: more than 8 values, and half of the range is where it ends."""
    values = np.where(SPOT, 250, 3).astype(np.uint8)
    values[0] = np.arange(0, 120, 10)
    return values


@pytest.mark.parametrize(
    "values",
    [
        SPOT * np.uint8(255),
        SPOT * np.uint8(1),
        SPOT * np.uint8(100),
        SPOT * np.uint16(1),
        SPOT * np.uint16(255),
        SPOT * np.uint16(65535),
        SPOT * np.uint8(1) + HALF * np.uint8(6),  # a number for each kind
        SPOT * np.uint8(60) + HALF * np.uint8(190),
        SPOT * np.uint8(254) + HALF * np.uint8(1),
        np.dstack([SPOT * np.uint8(255)] * 3),
        np.dstack(
            [HALF * np.uint8(255), (SPOT & ~HALF) * np.uint8(128), 0 * SPOT.astype(np.uint8)]
        ),
        shades(),
    ],
)
def test_values_of_masks(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), SPOT)


@pytest.mark.parametrize("extension", [".bmp", ".tif", ".gif", ".webp", ".tga", ".jp2", ".jpg"])
def test_formats_of_masks(tmp_path, extension):
    mask = np.zeros((64, 64), bool)
    mask[16:32, 16:48] = True
    options = {"lossless": True} if extension == ".webp" else {}
    Image.fromarray(mask * np.uint8(255)).save(tmp_path / f"mask{extension}", **options)
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask{extension}"), mask)


def test_masks_in_a_folder_are_united(tmp_path):
    Image.fromarray(HALF * np.uint8(255)).save(tmp_path / "000.png")
    Image.fromarray((SPOT & ~HALF) * np.uint8(1)).save(tmp_path / "001.png")
    Image.fromarray(0 * SPOT.astype(np.uint8)).save(tmp_path / "002.png")
    np.testing.assert_array_equal(read_mask(tmp_path), SPOT)
    Image.fromarray(SPOT.T * np.uint8(255)).save(tmp_path / "003.png")
    with pytest.raises(InputError, match=r"003\.png: this mask is 12 x 10 .* 000\.png .* 10 x 12"):
        read_mask(tmp_path)
    for name in ("000", "001", "003"):
        (tmp_path / f"{name}.png").unlink()
    with pytest.raises(EmptyMaskError, match="marks no pixel"):
        read_mask(tmp_path)
    (tmp_path / "002.png").unlink()
    with pytest.raises(InputError, match="no masks in this folder"):
        read_mask(tmp_path)


UNDO = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a, -1),
}
"""What is stored of an upright picture, by the EXIF orientation."""


def save(path: Path, values: np.ndarray, orientation: int | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(values)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", UNDO)
def test_masks_of_turned_pictures(tmp_path, orientation):
    """Drawn on what is seen, or on what is stored, with and without the orientation."""
    undo = UNDO[orientation]
    picture = save(tmp_path / "a.jpg", undo(SPOT * np.uint8(255)), orientation)
    seen = save(tmp_path / "seen.png", SPOT * np.uint8(255))
    same = save(tmp_path / "same.png", undo(SPOT * np.uint8(255)), orientation)
    stored = save(tmp_path / "stored.png", undo(SPOT * np.uint8(255)))
    for mask in (seen, same):
        np.testing.assert_array_equal(read_mask_of(picture, mask)[0], SPOT)
    assert read_mask_of(picture, same)[1]
    # A mask that fits either way is taken as seen, and this is not certain.
    sideways = orientation > 4
    assert read_mask_of(picture, seen)[1] == (sideways or orientation == 1)
    if sideways:
        marked, is_certain = read_mask_of(picture, stored)
        np.testing.assert_array_equal(marked, SPOT)
        assert is_certain


@pytest.mark.parametrize("orientation", [None, 3, 6])
def test_shapes_that_disagree_are_an_error_with_both(tmp_path, orientation):
    picture = save(tmp_path / "a.png", np.zeros((20, 30), np.uint8), orientation)
    for shape in ((10, 15), (20, 31), (30, 20) if orientation != 6 else (21, 30)):
        mask = save(tmp_path / "mask.png", np.full(shape, 255, np.uint8))
        upright = "30 x 20" if orientation == 6 else "20 x 30"
        said = rf"mask\.png: this mask is {shape[0]} x {shape[1]} .*a\.png {upright}"
        with pytest.raises(InputError, match=said) as caught:
            read_mask_of(picture, mask)
        assert ("20 x 30 as it is stored" in str(caught.value)) == (orientation == 6)
    # Turned by its own orientation, a mask is not turned again.
    mask = save(tmp_path / "mask.png", np.full((30, 20), 255, np.uint8), 6)
    if orientation == 6:
        with pytest.raises(InputError, match="this mask is 20 x 30"):
            read_mask_of(picture, mask)


def turned_category(folder: Path, orientation: int, *, shape: tuple[int, int]) -> Category:
    rng = np.random.default_rng(0)
    paths = []
    for name in ("good", "bad"):
        values = rng.integers(0, 255, shape, dtype=np.uint8)
        paths.append(save(folder / f"{name}.png", values, orientation))
    mask = save(folder / "mask.png", np.eye(*shape, dtype=np.uint8) * 255)
    return Category("part", (), tuple(paths), ("good", "bad"), (None, mask))


def test_uncertain_masks_are_warned_of_before_the_work(tmp_path):
    with pytest.warns(UserWarning, match=r"mask\.png: its image is turned .* taken as drawn on"):
        assert read_truth(turned_category(tmp_path, 3, shape=(20, 30))).n_masks == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_truth(turned_category(tmp_path, 6, shape=(20, 30))).n_masks == 1
        assert read_truth(turned_category(tmp_path, 1, shape=(20, 30))).n_masks == 1


def test_shapes_are_checked_before_the_work(tmp_path):
    category = turned_category(tmp_path, 1, shape=(20, 30))
    save(tmp_path / "mask.png", np.full((5, 5), 255, np.uint8))
    with pytest.raises(InputError, match="this mask is 5 x 5"):
        read_truth(category)


def test_maps_are_laid_over_the_upright_picture(tmp_path):
    category = turned_category(tmp_path, 6, shape=(20, 30))
    values = np.arange(16.0).reshape(4, 4)
    for path, mask in zip(category.test, category.masks, strict=True):
        enlarged, marked = enlarge_to_truth(values, path, mask)
        assert enlarged.shape == (30, 20)
        assert mask is None or marked.shape == (30, 20)
