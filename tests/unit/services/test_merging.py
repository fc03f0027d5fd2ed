"""Merge files: what they may say, and what is refused with which words."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from optim.recipe import Group
from services.checkpoints import FileInfo, Remembered
from services.errors import BadInput, NotFound
from services.merging import read_merge
from services.parents import place_finder
from services.settings import Settings


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "m.yaml"
    file.write_text(text)
    return file


def test_everything_a_merge_file_may_say(tmp_path: Path) -> None:
    found = read_merge(
        write(
            tmp_path,
            """
            parents: {a: 1, b: 3}
            groups:
            - {layers: [0, 3], kinds: [mlp], weights: {b: 2}}
            - {names: [lm_head], weights: [1, 1]}
            pool: mine
            dtype: bfloat16
            normalize: true
            """,
        )
    )
    assert (found.names, found.pool, found.dtype) == (("a", "b"), "mine", "bfloat16")
    assert found.parts([]) == (
        (0.25, 0.75),
        (
            Group(layers=(0, 3), kinds=("mlp",), weights=(0, 1)),
            Group(names=("lm_head",), weights=(0.5, 0.5)),
        ),
        {},
    )


def test_weights_are_taken_as_they_are_unless_told_otherwise(tmp_path: Path) -> None:
    assert read_merge(write(tmp_path, "parents: {a: 1, b: 3}")).parts([])[0] == (1, 3)
    listed = read_merge(write(tmp_path, "parents: [a, b]\nweights: [1, 3]"))
    assert (listed.names, listed.parts([])[0]) == (("a", "b"), (1, 3))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [", r"m.yaml:\d: is not YAML"),
        ("!!python/object/apply:os.system [ls]", "is not YAML"),
        ("- a", "names no parents"),
        ("weights: [1]", "names no parents"),
        ("parents: {a: 1}\ncolour: red", "unknown key 'colour'"),
        ("parents: {}", "has no parents with weights"),
        ("parents: []", "has no parents with weights"),
        ("parents: [a, b]", "are not 2 weights"),
        ("parents: [a, a]\nweights: [1, 1]", "names a parent twice"),
        ("parents: {a: many}", "many is not a number"),
        ("parents: {a: true}", "True is not a number"),
        ("parents: {a: 1}\ngroups: {layers: [0, 1]}", "groups: is no list"),
        ("parents: {a: 1}\ngroups: [{layers: [0, 1]}]", r"groups\[0\]: is no group"),
        ("parents: {a: 1}\ngroups: [{kinds: mlp, weights: [1]}]", r"groups\[0\].kinds: mlp is no"),
        ("parents: {a: 1}\ngroups: [{weights: {b: 1}}]", r"groups\[0\].weights: 'b' is no parent"),
        ("parents: {a: 1, b: -1}\nnormalize: true", "sum to 0"),
        ("parents: {a: 1}\nnormalize: 3", "normalize is 3"),
        ("parents: {a: 1}\ndtype: int8", "dtype 'int8' is not known"),
        ("parents: {a: 1}\npool: [x]", "is no name"),
        ("parents: {a: 1}\noperator: ties", "operator 'ties' is not known"),
        ("parents: {a: 1}\ncolumns: [1]", "is no mapping"),
        ("merge_method: slerp\nmodels: [{model: a}]", "'slerp' cannot be expressed"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        read_merge(write(tmp_path, text))
    assert caught.value.mend


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_merge(tmp_path / "none.yaml")


def test_where_parents_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "beside").mkdir()
    config = Settings(home=tmp_path / "home")
    find = place_finder(tmp_path / "m.yaml", config)
    assert find("beside") == tmp_path / "beside"
    assert find(f"file://{tmp_path}/beside") == tmp_path / "beside"
    for name in ("org/model", "not a name", "/nowhere/at/all"):
        with pytest.raises(NotFound, match="neither a folder nor a model in the hub's cache"):
            find(name)


def test_a_model_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model, commit = tmp_path / "hub/models--org--model", "a" * 40
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (model / folder).mkdir(parents=True)
    (model / "refs/main").write_text(commit)
    (model / "blobs/x").write_text("{}")
    (model / f"snapshots/{commit}/config.json").symlink_to("../../blobs/x")
    find = place_finder(tmp_path / "m.yaml", Settings(home=tmp_path / "home"))
    found = find("org/model")
    assert (found / "config.json").read_text() == "{}"
    assert not (found / "config.json").is_symlink()
    assert find(f"org/model@{commit}") == found
    (tmp_path / "secret").write_text("secret")
    other = model / f"snapshots/{'b' * 40}"
    other.mkdir()
    (other / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(BadInput, match="leads out of the cache"):
        find(f"org/model@{'b' * 40}")


def test_hashes_are_remembered_for_the_very_file(tmp_path: Path) -> None:
    remembered, file = Remembered(tmp_path / "hashes"), tmp_path / "w"
    file.write_bytes(b"1234")
    info = FileInfo(sha256="0" * 64, bytes=4)
    assert remembered.hash_of(file) is None
    remembered.keep(file, info)
    # just written: it could change again without the clock of the file system showing it
    assert remembered.hash_of(file) is None
    time.sleep(2.1)
    remembered.keep(file, info)
    assert Remembered(tmp_path / "hashes").hash_of(file) == info
    file.write_bytes(b"1235")
    os.utime(file, ns=(0, 0))
    assert remembered.hash_of(file) is None
    assert remembered.hash_of(tmp_path / "none") is None
    # changed while it was read
    time.sleep(2.1)
    assert remembered.hash_of(file) is None
    os.utime(file, ns=(1, 1))
    time.sleep(2.1)
    remembered.keep(file, info)
    assert remembered.hash_of(file) is None
