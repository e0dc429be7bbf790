"""What a layer was unpacked from comes out of it again, bit by bit."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import re
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocishim.errors import FailedPrecondition, NotFound
from ocishim.images.extract import extract_layer
from ocishim.images.layout import load
from ocishim.images.limits import Limits
from ocishim.images.recipe import Recorder, tar_again
from ocishim.images.save import Export, layer_tar, save
from ocishim.images.store import ImageStore
from ocishim.images.verify import verify
from ocishim.linux.namespace import in_fresh_thread

from . import making

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}

names = st.lists(st.sampled_from(["a", "b", "dir", "é" * 40, "x" * 90, ".wh.a", "..."]), min_size=1, max_size=3)
members = st.builds(
    lambda parts, kind, size, seed: (
        making.directory("/".join(parts))
        if kind == "directory"
        else making.link("/".join(parts), "a")
        if kind == "link"
        else making.member("/".join(parts), data=(str(seed).encode() * size)[:size])
    ),
    names,
    st.sampled_from(["file", "file", "file", "directory", "link"]),
    st.sampled_from([0, 1, 511, 512, 513, 5_000, 300_000, 1_200_000]),
    st.integers(0, 9),
)


class _Stream(io.BytesIO):
    def seekable(self) -> bool:
        return False


async def _round_trip(home: Path, content: bytes) -> tuple[bytes, bool]:
    os.makedirs(home / "fs")
    stream = _Stream(content)
    with (home / "recipe.zst").open("wb") as file:
        recorder = Recorder(file)

        class Source:
            def seekable(self) -> bool:
                return False

            def readinto(self, buffer: bytearray) -> int:
                size = stream.readinto(buffer)
                recorder.feed(memoryview(buffer)[:size])
                return size

        source = Source()
        beside = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            extracted = await in_fresh_thread(
                lambda: extract_layer(
                    source, str(home / "fs"), recorder, form="overlay", limits=Limits(), beside=beside
                ),
                "unpack",
            )
        finally:
            os.close(beside)
        while source.readinto(bytearray(1 << 16)):
            pass
        recorder.finish()
    return b"".join(tar_again(str(home), extracted.replaced)), extracted.exact


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(members, max_size=8, unique_by=lambda made: made[0].name), st.sampled_from(sorted(FORMATS)))
async def test_any_tar_comes_out_as_it_went_in(place: Path, entries: list[making.Member], form: str) -> None:
    entries = [each for each in entries if not _in_the_way(each, entries)]
    content = making.tar(*entries, format=FORMATS[form])
    home = place / hashlib.sha256(os.urandom(8)).hexdigest()[:16]
    again, exact = await _round_trip(home, content)
    assert exact
    assert again == content


def _in_the_way(entry: making.Member, entries: list[making.Member]) -> bool:
    """Something else than a directory where others need one: a layer that nobody can unpack or make again."""
    name = entry[0].name
    return not entry[0].isdir() and any(other[0].name.startswith(name + "/") for other in entries)


async def _loaded(store: ImageStore, place: Path, *tars: bytes) -> making.Image:
    made = making.image(*tars)
    await load(store, str(making.write_layout(place / made.id[7:19], made)), "example.com/made:1")
    return made


async def _verdicts(store: ImageStore) -> dict[str, str]:
    return {verdict.digest: verdict.problem async for verdict in verify(store)}


async def test_what_a_later_entry_replaced_is_still_in_the_tar(place: Path, store: ImageStore) -> None:
    content = making.tar(
        making.member("a", data=b"first" * 1000),
        making.link("b", "a", tarfile.LNKTYPE),
        making.member("a", data=b"second" * 3),
        making.member("a", data=b"third"),
        making.member("c", data=b"file"),
        making.link("c", "a"),
    )
    made = await _loaded(store, place, content)
    assert b"".join(layer_tar(store, made.diff_ids[0])) == content
    assert await _verdicts(store) == {made.id: "", made.diff_ids[0]: ""}


async def test_a_sparse_file_comes_out_again(place: Path, store: ImageStore) -> None:
    (place / "sparse").write_bytes(b"")
    os.truncate(place / "sparse", 5 << 20)
    with (place / "sparse").open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"island")
    for form in ("--format=gnu", "--format=pax"):
        tar = await asyncio.create_subprocess_exec("tar", "-cSf", place / "sparse.tar", form, "-C", place, "sparse")
        assert await tar.wait() == 0
        content = (place / "sparse.tar").read_bytes()
        assert len(content) < 1 << 20
        made = await _loaded(store, place, content)
        assert b"".join(layer_tar(store, made.diff_ids[0])) == content


async def test_a_layer_that_cannot_be_made_again_says_why(place: Path, store: ImageStore) -> None:
    made = await _loaded(store, place, making.tar(making.member("a/b", data=b"gone"), making.member("a", data=b"file")))
    with pytest.raises(FailedPrecondition, match="replaced a directory"):
        b"".join(layer_tar(store, made.diff_ids[0]))


def _overwrite(path: Path) -> None:
    path.write_bytes(b"changed!")


def _shorten(path: Path) -> None:
    path.write_bytes(b"c")


def _give_away(path: Path) -> None:
    os.chown(path, 7, 8)


def _open_up(path: Path) -> None:
    path.chmod(0o4777)


def _replace(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/shadow")


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (_overwrite, "was changed on disk"),
        (_shorten, "bytes shorter than it was"),
        (Path.unlink, "No such file"),
        (_give_away, "belongs to 7:8 and belonged to 0:0"),
        (_open_up, "has the mode 4777 and had 644"),
        (_replace, "cannot be read"),
    ],
)
async def test_what_was_changed_on_disk_is_found(
    place: Path, store: ImageStore, tamper: Callable[[Path], None], words: str
) -> None:
    made = await _loaded(store, place, making.tar(making.member("etc/a", data=b"content!"), making.link("b", "etc/a")))
    tamper(Path(store.layer_paths(made.diff_ids)[0]) / "etc/a")
    found = await _verdicts(store)
    assert found[made.id] == ""
    assert re.search(words, found[made.diff_ids[0]])


def _replace_content(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def test_a_configuration_or_a_recipe_that_was_changed_is_found(place: Path, store: ImageStore) -> None:
    made = await _loaded(store, place, making.tar(making.member("a", data=b"content")))
    _replace_content(Path(store.config_path(made.id)), made.config + b" ")
    assert "has the digest" in (await _verdicts(store))[made.id]
    recipe = Path(store.layer_directory(made.diff_ids[0])) / "recipe.zst"
    for content in (b"", b"garbage", recipe.read_bytes()[:-3]):
        _replace_content(recipe, content)
        assert (await _verdicts(store))[made.diff_ids[0]]


async def test_a_saved_image_comes_back_under_its_id_and_names(place: Path, store: ImageStore) -> None:
    base = making.tar(making.member("a", data=b"content" * 100_000))
    one = await _loaded(store, place, base, making.tar(making.member(".wh.a"), making.member("b", data=b"b")))
    record = store.records()[0]
    steps: list[int] = []
    size = save(store, [Export(record, record.tags)], str(place / "saved.tar"), steps.append)
    assert size == (place / "saved.tar").stat().st_size
    assert sum(steps) > 700_000
    other = ImageStore(str(place / "other"))
    await other.open()
    for name in ("saved.tar", "docker.tar"):
        if name == "docker.tar":
            _without_layout(place / "saved.tar", place / "docker.tar")
        loaded = await load(other, str(place / name), None)
        assert [(each.id, each.tags) for each in loaded] == [(one.id, ("example.com/made:1",))]
        await other.remove(one.id)
    assert os.listdir(f"{other.root}/layers") == []


def _without_layout(source: Path, target: Path) -> None:
    """As docker saved images before it wrote layouts."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            if member.name not in ("index.json", "oci-layout"):
                new.addfile(member, old.extractfile(member))


async def test_a_tampered_image_is_not_saved_and_leaves_no_file(place: Path, store: ImageStore) -> None:
    made = await _loaded(store, place, making.tar(making.member("a", data=b"content!")))
    _overwrite(Path(store.layer_paths(made.diff_ids)[0]) / "a")
    record = store.records()[0]
    (place / "out").mkdir()
    with pytest.raises(FailedPrecondition, match="was changed on disk"):
        save(store, [Export(record, record.tags)], str(place / "out/saved.tar"), lambda _: None)
    assert os.listdir(place / "out") == []
    with pytest.raises(NotFound, match="/nowhere/"):
        save(store, [Export(record, record.tags)], "/nowhere/saved.tar", lambda _: None)
