"""Where CI promises peers (CI_REQUIRE_PEERS=1), their tests may not all have been skipped."""

import os

import pytest

from tests.support.peers import PEERS, find_peer


def missing_peers():
    return sorted(name for name in PEERS if find_peer(name) is None)


def test_ci_has_at_least_one_peer():
    missing = missing_peers()
    if os.environ.get("CI_REQUIRE_PEERS") != "1":
        pytest.skip(f"CI_REQUIRE_PEERS is not 1; missing here: {', '.join(missing) or 'none'}")
    assert len(missing) < len(PEERS), "no peer is installed: nothing judges our files"


def test_the_rule_sees_an_empty_machine(monkeypatch):
    monkeypatch.setenv("CI_REQUIRE_PEERS", "1")
    monkeypatch.setattr("tests.contracts.test_peers.find_peer", lambda name: None)
    with pytest.raises(AssertionError, match="no peer is installed"):
        test_ci_has_at_least_one_peer()


def test_ci_installs_the_packages_the_tests_name():
    from tests.contracts.tree import ROOT

    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [package for package in sorted(set(PEERS.values())) if package not in script] == []
