"""A full disk, and a folder of results that cannot be written: from the start, and amid a night."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from faults.checks import ended_well, is_named, kept, nothing_is_lost, says_how_to_go_on
from faults.disks import disk, filled, read_only
from faults.running import Night, moments

pytestmark = pytest.mark.llama_cpp


@moments(1, 25)
def test_a_full_disk_ends_the_session_and_with_room_it_goes_on(
    night: Night, chance: random.Random, tmp_path: Path
) -> None:
    with disk(tmp_path / "disk", "4m") as place:
        night = replace(night, results=place / "results")
        with night.started() as running:
            running.until_some_moment(chance, most=4)
            with filled(place, left_bytes=chance.choice([0, 4096, 8192])):
                ended = running.end()
                is_named(ended, 3, "cannot be written: ")
                assert any(text in ended.error for text in ("disk is full", "No space left"))
                says_how_to_go_on(ended)
                refused = night.resumed()
                is_named(refused, 3, "cannot be written: ")
        before = kept(night.folder)

        ended_well(night.resumed(), night)
        nothing_is_lost(before, night.folder)


def test_on_a_full_disk_no_study_is_begun(night: Night, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "1m") as place, filled(place, left_bytes=0):
        ended = replace(night, results=place / "results").run()

    is_named(ended, 3, "No space left")


@moments(1, 12)
def test_a_folder_that_becomes_read_only_ends_the_session_and_writable_it_goes_on(
    night: Night, chance: random.Random, tmp_path: Path
) -> None:
    with disk(tmp_path / "disk", "4m") as place:
        night = replace(night, results=place / "results")
        with night.started() as running:
            running.until_some_moment(chance, most=4)
            with read_only(night.results):
                ended = running.end()
                is_named(ended, 3, "cannot be written: ")
                says_how_to_go_on(ended)
                is_named(night.resumed(), 3, "ead-only file system")
        before = kept(night.folder)

        ended_well(night.resumed(), night)
        nothing_is_lost(before, night.folder)


def test_a_read_only_folder_is_named_before_anything_is_measured(
    night: Night, tmp_path: Path
) -> None:
    with disk(tmp_path / "disk", "1m") as place, read_only(place):
        ended = replace(night, results=place / "results").run()

    is_named(ended, 3, "no study can be written to", "ead-only file system")
