from __future__ import annotations

import logging
from pathlib import Path

import pytest

from asr_service.access import tls
from asr_service.core.errors import SettingsError
from tests.support.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_settings_that_belong_together_are_set_together(tmp_path: Path) -> None:
    here = tmp_path / "a.pem"
    assert tls.files(None, None, None) is None
    for certificate, key, client_ca, field in (
        (here, None, None, "tls_key"),
        (None, here, None, "tls_cert"),
        (None, None, here, "tls_client_ca"),
    ):
        with pytest.raises(SettingsError) as refused:
            tls.files(certificate, key, client_ca)
        assert refused.value.field == field


def test_an_identity_follows_its_files(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    certificate, key = authority.issue("one")
    files = tls.files(certificate, key, None)
    assert files is not None
    used: list[tls.Identity] = []
    followed = tls.FollowedIdentity(files, used.append)
    assert used == [followed.identity] and followed.identity.not_after is not None
    assert followed.newer() is None

    other, its_key = authority.issue("two")
    certificate.write_bytes(other.read_bytes())
    with caplog.at_level(logging.ERROR):
        assert followed.newer() is None
    assert "the certificate in use stays" in caplog.text
    assert followed.identity is used[0]

    key.write_bytes(its_key.read_bytes())
    assert followed.newer() is followed.identity
    assert followed.identity.certificate == other.read_bytes()
    assert used == [used[0], followed.identity]


def test_an_expired_certificate_is_one_that_no_client_takes(authority: Authority) -> None:
    certificate, key = authority.issue("old", days=-1)
    files = tls.files(certificate, key, None)
    assert files is not None and files.read().not_after is None
