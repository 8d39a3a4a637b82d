import threading
from pathlib import Path

import pytest

from edgekd.cache import StepCache, code_digest, default_cache, step_key
from edgekd.errors import EdgekdError


def test_a_step_is_found_again(tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "new" / "cache")
    assert cache.folder("key") is None
    folder = cache.store("key", {"a.bin": b"1"}, {"value": 3})
    assert cache.folder("key") == folder and (folder / "a.bin").read_bytes() == b"1"
    assert StepCache(cache.root).record("key") == {"value": 3}
    with pytest.raises(KeyError):
        cache.record("other")


def test_an_earlier_step_of_the_key_stays(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    cache.store("key", {"a": b"first"}, {})
    folder = cache.store("key", {"a": b"second"}, {})
    assert (folder / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_half_a_step_is_no_step_and_is_replaced(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "a").write_bytes(b"half")
    assert cache.folder("key") is None
    folder = cache.store("key", {"b": b"whole"}, {})
    assert sorted(path.name for path in folder.iterdir()) == ["b", "record.json"]


class Killed(BaseException):
    pass


def test_a_process_killed_while_writing_leaves_no_step(tmp_path: Path, monkeypatch) -> None:
    cache = StepCache(tmp_path)

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("edgekd.cache.shutil.rmtree", killed)  # nobody tidies up after a kill
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(Killed):
            cache.store("key", {"a": b"1"}, {})
    assert len(list(tmp_path.iterdir())) == 1  # the hidden folder that it was writing
    assert cache.folder("key") is None
    cache.store("key", {"a": b"2"}, {})
    assert cache.record("key") == {}


def test_a_failed_store_leaves_nothing(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        cache.store("key", {"a": b"1"}, {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_filled_file_by_file_and_found_when_it_is_whole(tmp_path: Path) -> None:
    cache, during = StepCache(tmp_path), []

    def write(folder: Path) -> None:
        (folder / "large").write_bytes(b"1" * 10)
        during.append(cache.folder("key"))

    folder = cache.build("key", write, {"bytes": 10})
    assert during == [None] and cache.folder("key") == folder
    assert (folder / "large").read_bytes() == b"1" * 10 and cache.record("key") == {"bytes": 10}


def test_a_folder_that_could_not_be_filled_is_removed(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "large").write_bytes(b"1")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        StepCache(tmp_path).build("key", write, {})
    assert list(tmp_path.iterdir()) == []


def test_storing_one_key_at_the_same_time(tmp_path: Path) -> None:
    cache, start, failures = StepCache(tmp_path), threading.Barrier(8), []

    def store(number: int) -> None:
        start.wait()
        try:
            for step in range(20):
                cache.store(f"key{step}", {"a": bytes([number]) * 10_000}, {"by": number})
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=store, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for step in range(20):
        content = (tmp_path / f"key{step}" / "a").read_bytes()
        assert content == bytes([cache.record(f"key{step}")["by"]]) * 10_000
    assert len(list(tmp_path.iterdir())) == 20


def test_keys_depend_on_content_and_not_on_order() -> None:
    assert step_key({"a": 1, "b": [2]}) == step_key({"b": [2], "a": 1})
    assert step_key({"a": 1}) != step_key({"a": 2})
    assert len(code_digest()) == 64 and code_digest() == code_digest()


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("EDGEKD_CACHE")
    assert default_cache().name == "edgekd"


def test_a_step_that_only_the_first_process_has_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekd.cache.by_first", lambda work: True)
    with pytest.raises(EdgekdError, match=r"--cache a folder that all machines share"):
        StepCache(tmp_path).folder("key")
