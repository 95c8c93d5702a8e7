"""The files of the service's page: no inline code, no HTML made from texts, each in use; and a policy to match."""

from __future__ import annotations

import pytest

from sake_ray.pages.service_files import INDEX, SECURITY_HEADERS, service_files


def test_the_files_hold_no_inline_code_and_the_policy_forbids_it() -> None:
    files = service_files()
    index = files[INDEX].content.decode()
    assert "style=" not in index and "<script>" not in index and " on" + "click" not in index
    for name, file in files.items():
        content = file.content.decode()
        assert "innerHTML" not in content and "outerHTML" not in content and "eval(" not in content, name
        assert max(map(len, content.splitlines())) <= 120, name
        assert len(content.splitlines()) <= 350, name
        assert name == INDEX or f"/assets/{name}" in index or any(
            f'"./{name}"' in other.content.decode() for other in files.values()
        ), f"{name} is used"  # fmt: skip
    assert "unsafe" not in SECURITY_HEADERS["Content-Security-Policy"]
    with pytest.raises(TypeError):
        files["x"] = files[INDEX]  # type: ignore[index]
